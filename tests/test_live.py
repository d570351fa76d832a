"""A run as its files have it: its curves, how far it is, and its events for TensorBoard."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_runs import small_run

from hardlab import live, train
from hardlab.types import HardlabError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train.train(small_run("simsiam"), tmp_path_factory.mktemp("runs"), say=lambda line: None)


def logged(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_the_curves_are_the_logged_numbers_and_the_head_says_how_far_the_run_is(trained: Path) -> None:
    one = live.Live(trained)
    rows = [row for row in logged(trained) if row["kind"] == "step"]
    assert one.curves()["loss"] == [(row["step"], row["loss"]) for row in rows]
    assert one.curves()["std"] == [(row["step"], row["std"]) for row in rows]
    assert (one.state, one.step, one.total) == ("done", len(rows), len(rows))
    assert f"step {len(rows)} of {len(rows)}" in repr(one) and repr(one).count("\n") == len(one.curves())
    assert one._repr_html_().count("<svg") == len(one.curves())


def test_a_run_under_way_is_read_again_and_half_a_line_or_a_number_that_is_none_does_no_harm(
    trained: Path, tmp_path: Path
) -> None:
    path = tmp_path / trained.name
    shutil.copytree(trained, path)
    lines = (trained / "metrics.jsonl").read_text().splitlines(keepends=True)
    about = json.loads((trained / "manifest.json").read_text()) | {"state": "running"}
    (path / "manifest.json").write_text(json.dumps(about))
    (path / "metrics.jsonl").write_text(lines[0] + lines[1][:20])
    one = live.Live(path)
    assert (one.state, one.step, len(one.curves()["loss"])) == ("running", 1, 1)
    row = json.loads(lines[1]) | {"loss": float("nan")}
    (path / "metrics.jsonl").write_text(lines[0] + json.dumps(row) + "\n")
    assert one.step == 1 and one.read().step == 2
    assert len(one.curves()["loss"]) == 1 and len(one.curves()["std"]) == 2
    none = live.Live(tmp_path / "none")
    assert none.state == "not started" and "not started" in none._repr_html_()


def test_a_health_alarm_stands_below_the_curves(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / trained.name
    shutil.copytree(trained, path)
    alarm = {"kind": "health", "step": 3, "epoch": 0, "rule": "collapse", "sentence": "All outputs are <one> point."}
    with open(path / "metrics.jsonl", "a") as f:
        f.write(json.dumps(alarm) + "\n")
    about = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(about | {"files": {}}))  # which knew the log without this line
    one = live.Live(path)
    assert repr(one).endswith("collapse (step 3): All outputs are <one> point.")
    assert "&lt;one&gt; point" in one._repr_html_()


def test_outside_a_terminal_a_run_is_shown_once_and_what_is_no_run_is_refused(trained: Path, tmp_path: Path) -> None:
    out = io.StringIO()
    live.watch([trained], out=out)
    assert out.getvalue() == repr(live.Live(trained)) + "\n"
    with pytest.raises(HardlabError, match="is not a run"):
        live.watch([tmp_path], out=out)


def test_in_a_terminal_a_run_is_drawn_anew_until_it_ends(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / trained.name
    shutil.copytree(trained, path)
    about = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(about | {"state": "running"}))

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        def flush(self) -> None:  # the run ends after it was drawn once
            (path / "manifest.json").write_text(json.dumps(about))

    out = Terminal()
    live.watch([path], out=out, every=0)
    first, second = out.getvalue().split("\x1b[3A\x1b[J")
    assert "running" in first and "done" in second and first.count("\n") == 3


def test_tensorboard_reads_each_logged_number_once(trained: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for _ in range(2):  # the second time replaces the first
        live.watch([trained], out=io.StringIO(), events=tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path / trained.name))
    events.Reload()
    steps = [row for row in logged(trained) if row["kind"] == "step"]
    kept = events.Scalars("step/loss")
    assert [e.step for e in kept] == [row["step"] for row in steps]
    assert [e.value for e in kept] == pytest.approx([row["loss"] for row in steps], rel=1e-6)
    assert {"step/terms.base", "epoch/seconds.total", "step/std"} <= set(events.Tags()["scalars"])
