"""Hard-example strategies: each acts at one or more of the six places in docs/architecture.md."""
