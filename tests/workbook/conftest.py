"""What several tests of the workbook start from."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_notebooks import PARAMETERS, notebook

from hardlab.workbook import costs


@pytest.fixture
def typed(tmp_path: Path) -> Path:
    """A notebook with a parameter of every type."""
    return notebook(tmp_path / "typed.ipynb", cell=PARAMETERS)


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded costs of two recipes and of the step c."""
    known = {"training": {"simsiam": 2.0, "simclr": 4.0}, "other": {"run": 500.0, "c": 1000.0}}
    monkeypatch.setattr(costs, "recorded", lambda: known)
