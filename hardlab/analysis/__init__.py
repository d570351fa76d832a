"""What is read off a run: the view log, the overlap of the selected views, and tables for the figures."""
