"""The rules behind `make reproduce`: what they would run, on the real command line."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from processes import cwd, living, wait_for

from hardlab.stopping import STOPPED
from hardlab.types import HardlabError
from hardlab.workbook import plan, workflow
from hardlab.workbook.cluster import Slurm
from hardlab.workbook.plan import Step


def snakemake(folder: Path, *words: str) -> str:
    """What Snakemake prints of the rules of ``plan.json`` in ``folder``."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(workflow.SNAKEFILE), "--directory", str(folder)),
            *("--cores", "2", "--quiet", "progress", "host", "--nolock", *words),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


@pytest.mark.slow
def test_snakemake_plans_the_same_steps_and_gives_every_value_as_it_was_given(tmp_path: Path) -> None:
    folder = tmp_path / "a folder's {name}"
    folder.mkdir()
    given = ["optim.betas=[0.9, 0.99]", "data.name=folder:/a b/{c}'s"]
    steps = plan.steps("smoke", given)
    plan.write(steps, folder / "plan.json")
    printed = snakemake(folder, "--dry-run", "--printshellcmds").splitlines()
    lines = [line.removeprefix("Shell command: ") for line in printed if line.startswith("Shell command: if ")]
    assert sorted(lines) == sorted(s.shell for s in steps)
    words = shlex.split(next(line for line in lines if "simsiam-hvs-static" in line))
    assert words[words.index("simsiam-hvs-static") :][:4] == ["simsiam-hvs-static", "seed=0", *given]


@pytest.mark.slow
def test_the_engine_runs_a_plan_marks_a_failure_and_goes_on_beside_it(tmp_path: Path) -> None:
    def step(name: str, words: tuple[str, ...], *inputs: str) -> Step:
        return Step(name, "run", name, "a test", (words,), inputs, (f"{name}.txt",))

    (tmp_path / "logs").mkdir()
    steps = [step("good", ("--help",)), step("bad", ("pretrain", "simsam")), step("after", ("--help",), "bad.txt")]
    steps.append(Step("end", "report", "end", "all", (("--help",),), ("good.txt", "after.txt"), ("end.txt",)))
    plan.write(steps, tmp_path / "plan.json")
    with pytest.raises(subprocess.CalledProcessError):
        snakemake(tmp_path, "--keep-going")
    assert (tmp_path / "good.txt").exists() and not (tmp_path / "bad.txt").exists()
    assert (tmp_path / "logs" / "bad.failed").read_text() == "2\n"
    assert "Did you mean 'simsiam'" in (tmp_path / "logs" / "bad.log").read_text()
    assert not (tmp_path / "logs" / "after.log").exists()


@pytest.mark.slow
def test_a_job_that_is_tried_again_may_take_more_and_none_of_it_holds_on_this_machine(tmp_path: Path) -> None:
    steps = [Step("a", "run", "a", "all", (("--help",),), (), ("a.txt",), threads=2, gpu=1)]
    for limits, attempt, expected in (
        ({"a": {"mem_mb": 700, "runtime": 12}}, "3", ("mem_mb=2100", "runtime=36")),
        (None, "1", ("gpu=1",)),
    ):
        plan.write(steps, tmp_path / "plan.json", limits)
        [line] = [
            line
            for line in snakemake(tmp_path, "--dry-run", "--attempt", attempt).splitlines()
            if line.strip().startswith("resources:") and "gpu=1" in line
        ]
        assert all(f"{word}," in f"{line.strip()}," for word in expected), line
        assert limits or ("runtime" not in line and "mem_mb" not in line)


def test_a_dry_run_prints_the_plan_with_its_minutes_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = workflow.costs.Rates(0.1, 0.05, "fp32")
    monkeypatch.setattr(workflow.costs, "calibrate", lambda rung: rates)
    assert workflow.reproduce("smoke", out=tmp_path / "out", dry_run=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split(None, 3)[:3] == ["2", "run", "simsiam-hvs"] and "for HVS Figures 2, 3, 4, 9" in lines[1]
    assert "29 of 29 steps" in lines[-1] and " min with 2 at a time" in lines[-1] and "100 ms in fp32" in lines[-1]
    assert not (tmp_path / "out").exists()


def test_an_unknown_rung_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(HardlabError, match="Did you mean 'smoke'"):
        workflow.reproduce("smok")


def test_two_reproductions_in_one_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow.sys, "executable", str(tmp_path / "python"))
    (tmp_path / "hardlab").write_text("")
    with open(tmp_path / ".lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(HardlabError, match="Another process"):
            workflow.reproduce("smoke", out=tmp_path)


def test_a_missing_command_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(HardlabError, match="make install"):
        workflow.reproduce("smoke", out=tmp_path)


def test_when_the_engine_itself_stops_one_sentence_tells_why_and_where_its_log_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "Snakefile"
    broken.write_text("rule all:\n    input:\n        'nowhere'\n")
    monkeypatch.setattr(workflow, "SNAKEFILE", broken)
    monkeypatch.setattr(workflow.costs, "calibrate", lambda rung: None)
    assert workflow.reproduce("smoke", out=tmp_path / "out") == 1
    printed = capsys.readouterr()
    assert "MissingInputException" in printed.err and str(tmp_path / "out" / workflow.LOG) in printed.err
    assert len(printed.err.splitlines()) == 1
    assert json.loads((tmp_path / "out" / "plan.json").read_text())[-1]["outputs"] == ["report.html"]


def test_a_dry_run_for_slurm_says_what_the_largest_job_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for rates, rung, expected in (
        (workflow.costs.Rates(0.1, 0.05, "fp32"), "smoke", r"for threads=1, gpu=0, mem_mb=4000, runtime=\d+\."),
        (None, "gpu", r"for threads=8, gpu=1, mem_mb=16000\."),
    ):
        monkeypatch.setattr(workflow.costs, "calibrate", lambda rung, rates=rates: rates)
        monkeypatch.setattr(workflow.plan, "check", lambda *given: None)  # of images that this machine lacks
        assert workflow.reproduce(rung, slurm=Slurm(9), out=tmp_path / "out", dry_run=True) == 0
        printed = capsys.readouterr().out
        assert re.search(expected, printed.splitlines()[-1]), printed
        assert rates is None or "with 9 at a time" in printed


def test_jobs_of_an_earlier_call_are_named_before_new_ones_are_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow.cluster, "queued", lambda out: ["7", "8"])
    with pytest.raises(HardlabError, match=r"in Slurm's queue \(7, 8\); .* `scancel 7 8`"):
        workflow.reproduce("smoke", slurm=Slurm(1), out=tmp_path)
    assert not (tmp_path / "plan.json").exists()


STOP = """
import sys
from hardlab.workbook import costs, plan, workflow
words = ("pretrain", "simsiam", "epochs=400", "backbone.width=8", "--runs", "runs", "--threads", "1")
plan.steps = lambda *given: [plan.Step("a", "run", "a", "a test", (words,), (), ("a.txt",))]
costs.calibrate = lambda rung: None
sys.exit(workflow.reproduce("smoke", out=sys.argv[1]))
"""


@pytest.mark.slow
def test_a_stop_on_this_machine_saves_the_run_and_leaves_no_process(tmp_path: Path) -> None:
    command = subprocess.Popen([sys.executable, "-c", STOP, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    log = tmp_path / "logs" / "a.log"
    until = time.monotonic() + 120
    while not log.exists() or "| epoch" not in log.read_text():
        assert time.monotonic() < until and command.poll() is None
        time.sleep(0.05)
    command.terminate()
    said, _ = command.communicate(timeout=60)
    assert command.returncode == STOPPED and "the same command continues it" in said and "FAILED" not in said
    assert "stopped and saved" in log.read_text() and not (tmp_path / "logs" / "a.failed").exists()
    assert [p for p in living() if (cwd(p) or "").startswith(str(tmp_path))] == []


@pytest.mark.slow
def test_in_a_job_of_a_cluster_nothing_ends_before_the_command_has_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All processes get a signal at once, as from Slurm; the stand-in for hardlab ends later than an engine would."""
    monkeypatch.setattr(plan.sys, "executable", str(tmp_path / "python"))
    (tmp_path / "hardlab").write_text(
        f"#!/bin/sh\ntrap 'echo > noticed' USR1\ntrap 'sleep 6; echo > saved; exit {STOPPED}' TERM\necho > began\n"
        "while :; do sleep 0.1; done\n"
    )
    (tmp_path / "hardlab").chmod(0o755)
    (tmp_path / "logs").mkdir()
    plan.write([Step("a", "run", "a", "all", (("--help",),), (), ("a.txt",))], tmp_path / "plan.json")
    monkeypatch.undo()
    words = ["--snakefile", workflow.SNAKEFILE, "--directory", tmp_path, "--cores", "1", "--nolock", "--mode", "remote"]
    job = subprocess.Popen([sys.executable, "-m", "snakemake", *words], start_new_session=True)
    try:
        wait_for(tmp_path / "began")
        os.killpg(job.pid, signal.SIGUSR1)
        wait_for(tmp_path / "noticed")
        os.killpg(job.pid, signal.SIGTERM)
        assert job.wait(60) == 1 and (tmp_path / "saved").exists() and not (tmp_path / "logs" / "a.failed").exists()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
