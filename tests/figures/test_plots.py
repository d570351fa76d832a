"""The kinds of plot that figures share: which rows they take."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_tables import PAPER, accuracies, lengths
from matplotlib.figure import Figure

from hardlab import figures
from hardlab.analysis import claims
from hardlab.analysis.arms import Arm, Selection, linear
from hardlab.figures import hexa, hnssl, plots, style
from hardlab.recipes import recipe


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


def test_gains_are_paired_at_one_length_and_an_arm_without_the_recipes_own_length_is_a_gap() -> None:
    own = recipe("moco", "gpu").epochs
    frames = [
        accuracies(["moco", "hexa-moco"], "cifar10", own, value=0.5),
        accuracies(["moco"], "cifar10", own + 7, value=0.9),  # no arm is of that length
        accuracies(["moco"], "cifar10", 10, value=0.4),
        accuracies(["hexa-moco", "hexa-moco-cmx"], "cifar10", 10, value=0.41),
    ]
    ours = Selection(["moco", "hexa-moco", "hexa-moco-cmx"], pd.concat(frames), lengths(*frames))
    ax, named = Figure().subplots(), [("adv", Arm("hexa-moco")), ("cmx", Arm("hexa-moco-cmx"))]
    level = plots.gains(ax, ours, ("Std", Arm("moco")), named, linear("linear-ppcl"))
    assert level == f"Std: 50.0 % after {own} epochs, 40.0 % after 10 epochs"
    means = [line for line in ax.get_lines() if len(line.get_xdata()) == 2 and line.get_linewidth() == 1.6]
    drawn = [(line.get_color(), round(float(line.get_xdata().mean())), line.get_ydata()[0]) for line in means]
    blue, orange = style.BLUE, style.ORANGE
    assert drawn == [(blue, 0, pytest.approx(0)), (orange, 0, pytest.approx(1)), (orange, 1, pytest.approx(1))]
    assert [(t.get_text(), t.get_color()) for t in ax.texts] == [("no run", blue)]


def test_the_claims_that_captions_name_are_in_the_ledger() -> None:
    assert {*hexa.CLAIMS.values(), *hnssl.CLAIMS} <= {claim.id for claim in claims.load()}
