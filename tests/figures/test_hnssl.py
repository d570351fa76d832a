"""The figures of HNSSL on made tables."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hardlab.figures import hnssl


def test_one_checkpoint_is_no_curve_and_the_monitor_of_all_arms_stands_for_the_probe_of_one(data_dir: Path) -> None:
    curves, epochs = pd.read_csv(data_dir / "curves.csv"), pd.read_csv(data_dir / "epochs.csv")
    configs = pd.read_csv(data_dir / "configs.csv", dtype=str)
    evaluation = pd.read_csv(data_dir / "evaluation.csv")
    label = lambda rows: hnssl.f3(epochs, rows, configs, evaluation).axes[0].get_ylabel()  # noqa: E731
    assert label(curves) == "linear top-1 (%)"
    assert label(curves[curves["epoch"] == curves["epoch"].max()]) == "kNN top-1 (%), monitor"
    assert label(curves[curves["recipe"] == "hnssl"]) == "kNN top-1 (%), monitor"
