"""What a run writes as it goes."""

from __future__ import annotations

import pytest
from resuming import quick

from hardlab import run_folder, train


def test_every_epoch_reports_its_seconds_by_part_and_they_add_up(tmp_path):
    path = train.train(quick(), tmp_path)
    for row in run_folder.metrics(path, "epoch"):
        parts = row["seconds"]
        assert parts["hvs"] > 0
        assert sum(s for k, s in parts.items() if k != "total") == pytest.approx(parts["total"], abs=1e-3)
    for row in run_folder.metrics(path, "step"):
        assert {"std", "rank", "alignment", "uniformity", "lr", "terms"} <= row.keys()
