"""How fast, beside others: figures by hand (`make bench`), and a budget of calls that tests hold."""
