"""The notebooks as a workflow: a reliable runner, the steps of ``make reproduce``, and the report."""
