"""Contestants in turns: what is measured, compared and said of it."""

from __future__ import annotations

import json
import sys

import pytest
from click.testing import CliRunner

from hardlab import cli, recipes
from hardlab.errors import HardlabError
from hardlab.workbook import bench
from hardlab.workbook.bench import Contestant

FACTS = {
    "device": "a machine", "threads": 2, "precision": "fp32", "clock": "the host's clock", "strategies": ["hvs"],
    "players": [],
}  # fmt: skip
RUN = recipes.recipe("simsiam-hvs", "smoke")


def contestant(rounds, error=None, profile=False, parts=(), **settings):
    about = Contestant("simsiam-hvs", RUN, 0, settings, profile, dict(FACTS), list(rounds), list(parts), 3.0, 100.0)
    about.error = error
    return about


def test_the_fastest_is_named_only_if_its_whole_interval_lies_above_the_first():
    eager = contestant([2.0, 2.1, 1.9, 2.0, 2.0], execution="eager")
    graphs = contestant([1.0, 1.1, 0.9, 1.0, 1.0], execution="graphs")
    lucky = contestant([1.0, 3.0, 1.9, 2.5, 1.2], execution="compile")
    broken = contestant([], "no compiler", execution="compile")
    assert bench.fastest([eager, lucky, graphs, broken]) is graphs
    assert bench.fastest([eager, lucky, broken]) is eager
    assert bench.fastest([broken, eager]) is None
    assert bench.ratio(graphs, [eager, graphs]) == pytest.approx(2.0)
    text = bench.describe([eager, lucky, graphs, broken])
    assert "Take execution=graphs here." in text and "execution=compile     not measured: no compiler" in text
    assert "Take execution=eager here: no other value is faster" in bench.describe([eager, lucky])
    broken.facts = {}  # of a process that never answered
    assert bench.describe([broken]).splitlines()[0].endswith(f", {broken.run.backbone.name}")


def test_images_a_second_are_the_batch_over_the_median_step_and_the_parts_are_those_of_the_median_turn():
    median = {"data": 0.5, "hvs": 0.5, "step": 1.0, "optimizer": 0.5, "epoch": 0.25, "rest": 0.25}
    about = contestant([4.0, 3.0, 2.0], profile=True, parts=[{"step": 4.0}, median, {"step": 2.0}])
    [row] = bench.rows([about])
    assert row["images_per_s"] == RUN.batch_size / 3 and row["step_s"] == [4.0, 3.0, 2.0]
    assert row["interval"] == (RUN.batch_size / 4, RUN.batch_size / 2)
    assert row["seconds"] == {
        "data": 0.5, "views": 0, "strategy hvs": 0.5, "model": 1.0, "optimizers": 0.5, "logs": 0, "rest": 0.5
    }  # fmt: skip
    assert "strategy hvs             500.00   16.7 %" in bench.describe([about])
    assert "total                   3000.00  100.0 %" in bench.describe([about])


def test_a_run_is_measured_on_built_in_images_for_long_enough_and_saves_and_monitors_nothing():
    run = bench.prepared("adco", "gpu", {"logs.monitor_every": 1, "epochs": 1}, steps=100)
    assert run.data.name == "shapes" and run.logs.monitor_every == 0
    assert run.hard[0].options["init"] == "random"
    assert run.epochs // 2 * (5000 // run.batch_size) > 100
    own = bench.prepared("adco", "smoke", {"data": {"name": "digits"}, "hard.adco.init": "keys"}, steps=1)
    assert own.data.name == "digits" and own.hard[0].options["init"] == "keys"
    assert bench.prepared("ppcl", "smoke", {}, 1).parent.epochs == 0
    with pytest.raises(HardlabError, match="there is nothing to measure"):
        bench.prepared("untrained", "smoke", {}, 1)


def test_a_comparison_is_a_setting_with_values_of_their_types():
    assert bench.comparison("execution=eager,graphs") == ("execution", ["eager", "graphs"])
    assert bench.comparison("hard.hvs.draws=2,4") == ("hard.hvs.draws", [2, 4])
    for text in ("execution", "execution=eager", "execution=eager,", ""):
        with pytest.raises(HardlabError, match="name a setting and two values or more"):
            bench.comparison(text)


WORKER = """
import json, sys
job = json.loads(sys.stdin.readline())
execution = job["run"]["execution"]
if execution == "compile":
    sys.exit("a library is missing")
print(json.dumps({"error": "no GPU"} if execution == "graphs" else {"device": "a machine"}), flush=True)
for line in sys.stdin:
    print(json.dumps({"seconds": float(line), "peak_memory_mb": 1, "parts": {}}), flush=True)
"""


def test_every_contestant_gets_its_turns_and_the_reason_of_one_that_fails_is_kept(monkeypatch):
    monkeypatch.setattr(bench, "WORK", [sys.executable, "-c", WORKER])
    ways = ("eager", "compile", "graphs", "eager")
    entered = [Contestant("simsiam-hvs", RUN.with_({"execution": way})) for way in ways]
    bench.measure(entered, steps=5, rounds=3)
    assert [about.error for about in entered] == [None, "a library is missing", "no GPU", None]
    assert [about.rounds for about in entered] == [[5.0] * 3, [], [], [5.0] * 3]
    assert entered[0].first_s == bench.WARM * bench.WARM
    late = [Contestant("simsiam-hvs", RUN)]
    bench.measure(late, steps=5, rounds=3, budget_s=0.0)
    assert late[0].error == "no time was left for it"


@pytest.mark.slow
def test_the_command_measures_what_it_can_says_what_it_cannot_and_keeps_both(tmp_path):
    words = (
        "bench simsiam-hvs batch_size=16 backbone.width=4 precision=fp32 --device cpu --threads 1 --profile --steps 1"
    )
    asked = [*words.split(), "--rounds", "2", "--compare", "execution=eager,graphs", "--out", str(tmp_path)]
    said = CliRunner().invoke(cli.cli, asked)
    assert said.exit_code == 1, said.output
    rows = [json.loads(line) for line in (tmp_path / "bench.jsonl").read_text().splitlines()]
    assert [row["settings"] for row in rows] == [{"execution": "eager"}, {"execution": "graphs"}]
    assert rows[0]["images_per_s"] > 0 and rows[0]["seconds"]["strategy hvs"] > 0 and rows[0]["versions"]["torch"]
    assert "execution=graphs replays CUDA graphs, and this run is on 'cpu'" in rows[1]["error"]
    assert "not measured: execution=graphs" in said.output and "Take execution=eager here" in said.output


def test_a_process_that_is_not_ready_in_time_is_ended_and_its_row_says_so():
    about = contestant([], execution="eager")
    bench.measure([about], "cpu", 1, steps=1, rounds=1, limit_s=0.1)
    assert about.error == "it was not ready in time" and about.rounds == []
