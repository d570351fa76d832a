"""Analysis of finished runs: the view log, the overlap of the selected views, and tables for the figures."""
