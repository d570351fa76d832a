"""The rows from which the README has its minutes a run."""

from __future__ import annotations

import json

from benchmarks import bench_minutes
from hardlab.workbook import pages


def test_a_row_is_the_rate_of_an_arm_and_one_that_cannot_be_measured_says_why(monkeypatch, tmp_path):
    def measured(entered, device, steps, rounds):
        (about,) = entered
        assert about.run.rung == "cpu" and device == "cpu"
        if about.recipe == "moco":
            about.error = "no memory"
        else:
            about.rounds = [0.5, 0.25, 0.5]

    monkeypatch.setattr(bench_minutes, "arms", lambda: ["simsiam", "moco"])
    monkeypatch.setattr(bench_minutes.bench, "measure", measured)
    monkeypatch.setattr(bench_minutes, "kind_of", lambda device: "a machine, fp32")
    monkeypatch.setattr(bench_minutes, "busy", lambda: None)
    ours, lacking = bench_minutes.run()
    assert ours["value"] == 128 / 0.5 and ours["ok"] and lacking["value"] is None and lacking["skipped"] == "no memory"
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"minutes": {"rows": [ours, lacking]}}))
    assert pages._rates(path) == {"a machine, fp32": {("simsiam", "cpu"): 256.0}}


def test_the_arms_are_those_of_the_readmes_table():
    assert {"simsiam", "simsiam-hvs", "adco-queue", "ppcl"} <= set(bench_minutes.arms())
    assert not {"untrained network", "raw pixels"} & set(bench_minutes.arms())
