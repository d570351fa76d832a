"""The notebooks as a workflow: a runner that tells the truth, the rules behind ``make reproduce``, and the report."""
