"""What a person sees while the workbook runs: plan, lines, share, time left and the table at the end."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from made_steps import RATES, STEPS

from hardlab.workbook import progress
from hardlab.workbook.plan import Step, Training

pytestmark = pytest.mark.usefixtures("book")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_plan_has_a_line_for_each_step_and_says_what_is_done_before() -> None:
    lines = progress.describe(STEPS, STEPS[1:], RATES, 2).splitlines()
    assert "done before" in lines[0] and "about 0:15" in lines[1] and "for what b is for" in lines[1]
    assert lines[-1].startswith("2 of 3 steps to run, about 0 min with 2 at a time.")
    assert "100 ms in fp32" in lines[-1]
    assert "has not been measured" in progress.describe(STEPS, STEPS, None, 2)


def follow(folder: Path, out: io.StringIO) -> progress.Display:
    (folder / "logs").mkdir()
    return progress.Display(STEPS, STEPS, RATES, 2, folder, out)


def test_a_log_gets_a_line_for_each_start_and_end_and_one_every_few_seconds_between(tmp_path: Path) -> None:
    out = io.StringIO()
    display = follow(tmp_path, out)
    start = display.begun
    (tmp_path / "logs" / "a.log").write_text("")
    for tenth in range(300):  # thirty seconds
        display.update(start + tenth / 10)
    (tmp_path / "a.txt").write_text("")
    display.update(start + 30)
    lines = out.getvalue().splitlines()
    assert lines[0] == "step 1 of 3: a, for what a is for: started, about 0:25"
    assert lines[-2].startswith("step 1 of 3: a") and lines[-2].endswith("done in 0:30")
    between = [line for line in lines if " gone" in line]
    assert len(between) == 4 and "left" in between[1] and "1 a" in between[1]
    assert "\x1b" not in out.getvalue()


def test_a_terminal_is_drawn_in_place(tmp_path: Path) -> None:
    out = Terminal()
    display = follow(tmp_path, out)
    (tmp_path / "logs" / "a.log").write_text("")
    for tenth in range(50):
        display.update(display.begun + tenth / 10)
    display.close()
    text = out.getvalue()
    assert text.count("started") == 1 and text.endswith("\x1b[2A\x1b[J")
    shown: list[str] = []  # what a terminal would show at the end: the cursor goes up, the rest is wiped
    for part in text.split("\x1b["):
        head = part
        if part[:2] in ("1A", "2A"):
            shown, head = shown[: len(shown) - int(part[0])], part[2:]
        elif part.startswith("J"):
            head = part[1:]
        shown += head.splitlines()
    assert shown == ["step 1 of 3: a, for what a is for: started, about 0:25"]


def test_the_share_of_a_run_is_that_of_its_training_steps(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    assert progress.trained_share(run) is None
    about = {"state": "running", "config": {"epochs": 4, "batch_size": 10}, "data": {"count": 105}}
    (run / "manifest.json").write_text(json.dumps(about))
    assert progress.trained_share(run) is None
    (run / "metrics.jsonl").write_text('{"step": 1}\n{"step": 10}\n')
    assert progress.trained_share(run) == 0.25
    (run / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    assert progress.trained_share(run) is None


def test_a_parent_counts_for_the_share_of_the_step_that_trains_it(tmp_path: Path) -> None:
    both = Step(
        "x", "run", "x", "", ((),), (), ("x.txt",), trains=(Training("p", "gan", 30), Training("x", "ppcl", 10))
    )
    (tmp_path / "runs" / "p").mkdir(parents=True)
    about = {"state": "running", "config": {"epochs": 3, "batch_size": 10}, "data": {"count": 100}}
    (tmp_path / "runs" / "p" / "manifest.json").write_text(json.dumps(about))
    (tmp_path / "runs" / "p" / "metrics.jsonl").write_text('{"step": 15}\n')
    display = progress.Display([both], [both], RATES, 1, tmp_path, io.StringIO())
    display.started["x"] = 0.0
    assert display._share(both, 1.0) == pytest.approx(0.9 * 15 / 40)
    (tmp_path / "runs" / "p" / "manifest.json").write_text(json.dumps(about | {"state": "done"}))
    assert display._share(both, 1.0) == pytest.approx(0.9 * 30 / 40)


def test_time_left_follows_the_real_speed(tmp_path: Path) -> None:
    display = follow(tmp_path, io.StringIO())
    before = display.left(display.begun)
    assert before == pytest.approx(25 + 10)
    display.started["a"] = display.begun
    display.took["a"] = 100.0  # four times its estimate
    assert display.left(display.begun + 100) > 2 * (15 + 10)


def test_the_table_tells_what_failed_and_what_waited_for_it(tmp_path: Path) -> None:
    out = io.StringIO()
    display = follow(tmp_path, out)
    for name in ("a", "b"):
        (tmp_path / "logs" / f"{name}.log").write_text("many words\nhardlab: The disk is full.\n  a/file.log\n")
    display.update()
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "logs" / "b.failed").write_text("1\n")
    display.update()
    head, *lines = display.table().splitlines()
    assert head.split() == ["#", "step", "state", "time", "problem"]
    assert lines[0].split()[:4] == ["1", "run", "a", "done"]
    assert (
        "FAILED" in lines[1] and "The disk is full. Log: " in lines[1] and str(tmp_path / "logs" / "b.log") in lines[1]
    )
    assert lines[2].endswith("it needs b, which failed")
    assert "FAILED. The disk is full." in out.getvalue()
    assert "was stopped first" in display.table(stopped=True).splitlines()[-1]
