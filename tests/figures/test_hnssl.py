"""The figures of HNSSL on made tables."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from hardlab.analysis import claims
from hardlab.figures import hnssl


def test_one_checkpoint_is_no_curve_and_the_monitor_of_all_arms_stands_for_the_probe_of_one(data_dir: Path) -> None:
    curves, epochs = pd.read_csv(data_dir / "curves.csv"), pd.read_csv(data_dir / "epochs.csv")
    configs = pd.read_csv(data_dir / "configs.csv", dtype=str)
    evaluation = pd.read_csv(data_dir / "evaluation.csv")
    verdicts = pd.DataFrame(columns=list(claims.COLUMNS))
    label = lambda rows: hnssl.f3(epochs, rows, configs, evaluation, verdicts).axes[0].get_ylabel()  # noqa: E731
    assert label(curves) == "linear top-1 (%)"
    assert label(curves[curves["epoch"] == curves["epoch"].max()]) == "kNN top-1 (%), monitor"
    assert label(curves[curves["recipe"] == "hnssl"]) == "kNN top-1 (%), monitor"


def test_the_untrained_network_has_its_interval_as_a_band_from_three_seeds_on(data_dir: Path) -> None:
    read = {n: pd.read_csv(data_dir / f"{n}.csv", dtype={"setting": str}) for n in ("epochs", "curves", "evaluation")}
    configs = pd.read_csv(data_dir / "configs.csv", dtype=str)
    arms = configs[configs["recipe"].isin([r for _, r in hnssl.ARMS])]
    facts = {"recipe": "untrained", "rung": "gpu", "data.name": "cifar10", "backbone.name": "r"}
    of_arms = {k: v for k, v in facts.items() if k != "recipe"}
    configs = pd.concat([configs, *(arms.drop_duplicates("run").assign(key=k, value=v) for k, v in of_arms.items())])
    verdicts = pd.DataFrame(columns=list(claims.COLUMNS))
    first = read["evaluation"][read["evaluation"]["recipe"].eq("hnssl") & read["evaluation"]["protocol"].eq("linear")]
    began = [
        first[:1].assign(run=f"untrained-{s}", recipe="untrained", seed=s, value=0.3 + s / 100, options="{}")
        for s in range(3)
    ]
    for rows in began:
        made = rows[["rung", "data", "method", "setting", "arm", "recipe", "seed", "run"]]
        configs = pd.concat([configs, *(made.assign(key=k, value=v) for k, v in facts.items())])
    for count, bands in ((2, 0), (3, 1)):
        evaluation = pd.concat([read["evaluation"], *began[:count]])
        figure = hnssl.f3(read["epochs"], read["curves"], configs, evaluation, verdicts)
        patches = [p for p in figure.axes[0].patches if p.get_facecolor()[3] < 1]
        assert len(patches) == bands, count
    low, high = patches[0].get_y(), patches[0].get_y() + patches[0].get_height()
    assert (low + high) / 2 == pytest.approx(31) and high - low == pytest.approx(2 * 4.303 / 3**0.5, rel=1e-3)
