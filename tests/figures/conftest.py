"""Tables that the tests of the figures draw from."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_tables import (
    write_tables,
)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every table with made-up rows, and the published values."""
    return write_tables(tmp_path_factory.mktemp("tables"))
