"""The notebooks as a workflow: a reliable runner, the rules behind ``make reproduce``, and the report."""
