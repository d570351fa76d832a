"""Run folders that several tests of the analysis read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from made_runs import draw_log, write_run

from hardlab import build, recipes, train
from hardlab.types import HardlabError


@pytest.fixture(scope="session")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of HVS and of its baseline, one HVS run that is not done, an untrained network."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        accuracy = {"backbone_knn": 0.5 + 0.01 * seed, "backbone_linear_lbfgs": 0.6, "pixels_knn": 0.3}
        hard = {k: v + 0.02 for k, v in accuracy.items()}
        write_run(root, "simsiam-hvs", seed, draw_log(30, 3, seed), **hard)
        write_run(root, "simsiam", seed, draw_log(30, 3, 10 + seed, pairs=[(0, 1)]), **accuracy)
    write_run(root, "simsiam-hvs", 2, draw_log(30, 1, 2), state="running", backbone_knn=0.99)
    write_run(root, "untrained", 0, None, backbone_knn=0.2)
    return root


@pytest.fixture(scope="session")
def log() -> pa.Table:
    return draw_log(images=40, epochs=3, seed=0)


@pytest.fixture
def no_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> None:
        raise HardlabError("no data set here")

    monkeypatch.setattr(build, "images", absent)


@pytest.fixture(scope="session")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two finished runs, one of which keeps its negatives in the strategy and one with a choice of views."""
    folder = tmp_path_factory.mktemp("runs")
    small = {"data.fraction": 0.05, "epochs": 1, "batch_size": 32, "precision": "fp32", "logs.views_rows": 8}
    settings = {"adco": small | {"method.queue": 64, "method.dim": 8}, "simsiam-hvs": small}
    return {
        name: train.train(recipes.recipe(name, "smoke", setting), folder, device="cpu", say=lambda line: None)
        for name, setting in settings.items()
    }
