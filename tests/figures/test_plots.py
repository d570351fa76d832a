"""The kinds of plot that figures share: which rows they take."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_tables import (
    PAPER,
)
from matplotlib.figure import Figure

from hardlab import figures


@pytest.mark.slow  # draws six figures
def test_an_accuracy_on_another_set_is_none_of_the_accuracies_on_the_own_set(data_dir: Path, tmp_path: Path) -> None:
    for table, by in (("evaluation", "linear-lbfgs"), ("curves", "linear")):
        rows = pd.read_csv(data_dir / f"{table}.csv", dtype={"setting": str})
        away = rows[rows["protocol"] == by].assign(evaluated_on="digits", value=0.01)
        pd.concat([rows, away]).to_csv(tmp_path / f"{table}.csv", index=False)
    for name in ("epochs", "configs"):
        shutil.copy(data_dir / f"{name}.csv", tmp_path)
    shutil.copy(PAPER, tmp_path)

    def heights(figure: Figure) -> list[list[float]]:
        return [np.asarray(line.get_ydata(), float).tolist() for ax in figure.axes for line in ax.get_lines()]

    for name in ("hvs_results", "hnssl_f3", "hexa_f3"):
        own = heights(figures.make(name, tmp_path))
        assert own == heights(figures.make(name, data_dir)) and any(own), name
