"""The cases of the Autobahn test suite, through a tunnel."""
