"""The notebooks as a workflow: a runner that tells the truth, the rules behind ``make reproduce``, and the report."""


def reproduce(rung: str = "smoke", *, cores: int = 2, dry_run: bool = False) -> int:
    """Run what is missing of a rung's workbook; see ``hardlab.workbook.workflow``."""
    from hardlab.workbook import workflow  # the runner's child process imports this package and needs nothing of it

    return workflow.reproduce(rung, cores=cores, dry_run=dry_run)
