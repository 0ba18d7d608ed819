"""What runs: configurations compiled into snapshots, listeners, and the Gateway that owns them."""
