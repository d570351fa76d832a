"""A campaign in small: it stops with its budget, packs what there is, and goes on."""

from __future__ import annotations

import json
import tarfile
from functools import cache
from pathlib import Path

import pytest

from hardlab.analysis import schema
from hardlab.workbook import campaign, campaign_plan, costs

PLAN = """
rung: smoke
claims: [hvs-iou-lower]
seeds: 1
set: {epochs: 1, data.name: digits, data.fraction: 0.2, batch_size: 64, backbone.width: 8, precision: fp32}
"""


@pytest.mark.slow
def test_a_campaign_trains_each_run_once_and_its_archive_has_the_rows_and_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "calibrate", cache(costs.calibrate))  # of one machine, by a process of its own
    (tmp_path / "plan.yaml").write_text(PLAN)
    (tmp_path / "data").mkdir()
    schema.empty("evaluation").to_csv(tmp_path / "data" / "evaluation.csv", index=False)
    out, stages = tmp_path / "out", campaign_plan.read(str(tmp_path / "plan.yaml"))

    def run(budget: float) -> list[str]:
        report: list[str] = []
        status = campaign.run(stages, budget=budget, jobs=2, out=out, data_dir=tmp_path / "data",
                              say=report.append)  # fmt: skip
        assert status == 0, report
        return report

    report = run(1.0)  # too short for any
    assert "2 left" in "\n".join(report)
    assert not list((out / "runs").glob("*/results.jsonl"))
    report = run(300.0)
    assert "2 runs done, 0 left" in "\n".join(report)
    with tarfile.open(out / "campaign.tar.gz") as tar:
        names = tar.getnames()
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert not [name for name in names if name.endswith(".pt") or "features" in name]
    manifests = [json.loads(path.read_text()) for path in (tmp_path / "unpacked" / "runs").glob("*/manifest.json")]
    assert {(m["config"]["recipe"], m["state"]) for m in manifests} == {("simsiam", "done"), ("simsiam-hvs", "done")}
    rows = [
        json.loads(line)
        for path in (tmp_path / "unpacked" / "runs").glob("*/results.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert {row["protocol"] for row in rows} == {"knn", "linear-lbfgs"}
    collected = schema.read(out / "data", "evaluation")
    assert set(collected["run"]) == {m["id"] for m in manifests}
    assert len(schema.read(tmp_path / "data", "evaluation")) == 0, "the tables it began with stay as they were"
