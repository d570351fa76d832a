"""Hard-example strategies: each acts at one of the five places of docs/architecture.md."""
