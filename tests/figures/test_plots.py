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
from hardlab.analysis import claims
from hardlab.figures import hexa, hnssl, plots


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


def test_a_caption_says_of_a_claim_what_the_ledger_says_and_nothing_without_runs() -> None:
    made = {"id": "c", "n": 3, "mean": -1.1, "lo": -1.69, "hi": -0.51, "unit": "points", "verdict": "contradicted"}
    verdicts = pd.DataFrame([made | {"runs": "a b"}, made | {"id": "none", "n": 0, "runs": ""}])
    configs = pd.DataFrame({"run": ["a", "b"], "key": "epochs", "value": ["30", "30"]})
    said = "claim c, 3 seeds of 30 epochs: \N{MINUS SIGN}1.10 (\N{MINUS SIGN}1.69 to \N{MINUS SIGN}0.51) points"
    assert plots.verdict(verdicts, "c", configs) == f"{said}, contradicted"
    assert plots.verdict(verdicts, "none", configs) == plots.verdict(verdicts, "unknown", configs) == ""


def test_the_claims_that_captions_name_are_in_the_ledger() -> None:
    assert {*hexa.CLAIMS.values(), *hnssl.CLAIMS} <= {claim.id for claim in claims.load()}
