"""The workbook as jobs of a real Slurm of one node on loopback: to the report, through preemption, and cancelled."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import slurm

from hardlab import recipes, run_folder
from hardlab.config import parse
from hardlab.stopping import STOPPED
from hardlab.workbook.plan import Step, Training

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
INSTALL = "on Debian, `apt-get install slurm-wlm munge` as root adds it"
# what a site sets: where jobs run. Looking soon and often is for a test only.
PROFILE = """\
default-resources:
  slurm_partition: short
slurm-init-seconds-before-status-checks: 1
latency-wait: 5
"""
SMALL = ("backbone.width=8", "batch_size=32", "data.fraction=0.1", "precision=fp32")
# `workflow.reproduce` with the steps and the profile of its arguments, none of which is known to the cost table
CODE = """
import json, sys
from pathlib import Path
from hardlab.workbook import cluster, costs, plan, workflow
rows, profile, out = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
for row in rows:
    row["trains"] = [plan.Training(*t) for t in row["trains"]]
plan.steps = lambda *given: [plan.Step(**row) for row in rows]
costs.calibrate = lambda rung: None
sys.exit(workflow.reproduce("smoke", slurm=cluster.chosen("slurm", 2, profile, None), out=out))
"""


@pytest.fixture(scope="module")
def env() -> Iterator[dict[str, str]]:
    """The environment of a Slurm that runs, with few threads and the plain output of a file."""
    if missing := slurm.missing():
        pytest.skip(f"No Slurm is installed ({', '.join(missing)}): {INSTALL}.")
    if os.geteuid() != 0:
        pytest.skip("Slurm is started as root only.")
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="the plugin is missing: install the extra 'cluster'")
    with slurm.one_node() as running:
        running.pop("PYTHONDONTWRITEBYTECODE", None)  # each job would compile all of Snakemake
        yield running


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "config.yaml").write_text(PROFILE)
    return tmp_path / "profile"


def ask(env: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()


def wait(done: Callable[[], object], seconds: float = 180) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, done
        time.sleep(0.05)


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


Start = Callable[[Sequence[str | Path]], subprocess.Popen[str]]
Run = Callable[[Sequence[Step]], subprocess.Popen[str]]


@pytest.fixture
def start(env: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Starts a command in the test's folder; at the end, what still runs is asked to stop, and cancels its jobs."""
    started: list[subprocess.Popen[str]] = []

    def begin(command: Sequence[str | Path]) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
        return started[-1]

    yield begin
    for command in started:
        if command.poll() is None:
            command.terminate()
            command.communicate()


@pytest.fixture
def reproduce(start: Start, profile: Path, tmp_path: Path) -> Run:
    """Starts `workflow.reproduce` with given steps in the folder ``out``."""

    def begin(steps: Sequence[Step]) -> subprocess.Popen[str]:
        return start([sys.executable, "-c", CODE, json.dumps([asdict(s) for s in steps]), profile, tmp_path / "out"])

    return begin


def finished(command: subprocess.Popen[str], seconds: float = 900) -> tuple[int, str]:
    said, _ = command.communicate(timeout=seconds)
    return command.returncode, said


def test_the_workbook_runs_as_jobs_of_slurm_to_its_report(
    env: dict[str, str], start: Start, profile: Path, tmp_path: Path
) -> None:
    words = f"reproduce --executor slurm --jobs 4 --profile {profile} epochs=2 data.fraction=0.2".split()
    status, said = finished(start([Path(sys.executable).with_name("hardlab"), *words]), seconds=3000)
    assert status == 0, said
    out = tmp_path / "out" / "smoke"
    steps = json.loads((out / "plan.json").read_text())
    assert f"{len(steps)} of {len(steps)} steps to run" in said and "with 4 at a time" in said
    assert [line for line in said.splitlines() if re.search(r"step 1 of \d+: simsiam, .*: started", line)]
    assert sum(" done in " in line for line in said.splitlines()) == len(steps)
    assert "<html" in (out / "report.html").read_text()
    assert all((out / name).exists() for step in steps for name in step["outputs"])
    log = (out / "logs" / "snakemake.log").read_text()
    assert len(set(re.findall(r"submitted with SLURM jobid (\d+)", log))) == len(steps)
    assert ask(env, "squeue", "--noheader") == ""


def test_a_run_saves_and_goes_on_when_it_is_cancelled_signalled_and_preempted(
    env: dict[str, str], reproduce: Run, tmp_path: Path
) -> None:
    """Ctrl-C, the same command, then two signals to the job's steps, and a job of a higher partition."""
    words = ("epochs=400", *SMALL)  # some fifty seconds, so that no signal comes late
    own = ("pretrain", "simsiam", *words, "--runs", "runs", "--threads", "1")
    config = recipes.recipe("simsiam", "smoke", parse(words))
    run, done = config.id, f"runs/{config.id}/evaluated.txt"
    trains = (Training(run, "simsiam", 6000),)
    steps = [
        Step("simsiam", "run", "simsiam", "a test", (own,), (), (done,), trains=trains),
        Step("report", "run", "report", "the end", (("--help",),), (done,), ("report.html",)),
    ]
    out = tmp_path / "out"
    log = out / steps[0].log

    def job() -> str:
        return ask(env, "squeue", "--noheader", "--states=RUNNING", "--partition=short", "--format=%i")

    command = reproduce(steps)
    wait(lambda: " | epoch" in text(log))
    command.send_signal(signal.SIGINT)
    status, said = finished(command)
    assert status == STOPPED and "Cancelling the jobs in Slurm's queue" in said, said
    assert "the same command continues from here" in said and "FAILED" not in said
    assert ask(env, "squeue", "--noheader") == ""
    assert "stopped and saved" in text(log)
    assert run_folder.manifest(out / "runs" / run)["state"] == "stopped"

    command = reproduce(steps)
    urgent = ("sbatch", "--partition=urgent", "--cpus-per-task=8", "--output=/dev/null", "--wrap=sleep 1")
    for words in (("scancel", "--signal=TERM"), ("scancel", "--signal=USR1"), urgent):
        wait(lambda: re.search(r"continues at step .*\n.* \| epoch", text(log)) and "saved" not in text(log))
        which = job()
        ask(env, *words, *([which] if words[0] == "scancel" else []))
        wait(lambda: "stopped and saved" in text(log))
    # Slurm itself puts a preempted job back into its queue, to begin two minutes later
    wait(lambda: ask(env, "squeue", "--noheader", f"--jobs={which}", "--format=%T") == "PENDING")
    ask(env, "scontrol", "update", f"JobId={which}", "StartTime=now")
    status, said = finished(command)
    assert status == 0 and "FAILED" not in said, said
    assert run_folder.manifest(out / "runs" / run)["state"] == "done"
    assert len(re.findall(r"submitted with SLURM jobid", text(out / "logs" / "snakemake.log"))) == 4  # 3 runs, 1 report


def test_slurm_is_asked_for_the_threads_gpus_memory_and_minutes_of_the_plan(
    env: dict[str, str], reproduce: Run, profile: Path, tmp_path: Path
) -> None:
    step = Step("large", "run", "large", "a test", (("--help",),), (), ("a.txt",), threads=4, gpu=1)
    with open(profile / "config.yaml", "a") as more:
        more.write("set-resources:\n  large:\n    runtime: 33\n")
    status, said = finished(reproduce([step]))
    assert status == 0, said
    [number] = re.findall(r"submitted with SLURM jobid (\d+)", text(tmp_path / "out" / "logs" / "snakemake.log"))
    job = ask(env, "scontrol", "--oneliner", "show", "job", number)
    assert "TRES=cpu=4,mem=8000M," in job and "TresPerJob=gres:gpu:1" in job, job
    assert "TimeLimit=00:33:00" in job and "Partition=short" in job and "JobState=COMPLETED" in job


def test_what_slurm_refuses_or_ends_is_told_in_a_sentence_with_the_path_of_the_log(
    reproduce: Run, profile: Path, tmp_path: Path
) -> None:
    step = Step("a", "run", "a", "a test", (("--help",),), (), ("a.txt",))
    (profile / "config.yaml").write_text(PROFILE.replace("short", "nowhere") + "retries: 1\n")
    status, said = finished(reproduce([step]))
    log = tmp_path / "out" / "logs" / "snakemake.log"
    assert status == 1 and "Slurm refused a job (" in said and "nvalid partition" in said, said
    assert f"the log of the workflow engine is {log}." in said.splitlines()[-1] and "Traceback" not in said
    assert text(log).count("SLURM sbatch failed") == 2  # one more try, as the profile says


def test_a_step_that_fails_is_reported_with_its_reason_before_the_engine_has_tried_it_again(
    reproduce: Run, profile: Path, tmp_path: Path
) -> None:
    (profile / "config.yaml").write_text(PROFILE + "retries: 1\n")
    step = Step("bad", "run", "bad", "a test", (("pretrain", "simsam"),), (), ("a.txt",))
    status, said = finished(reproduce([step]))
    assert status == 1 and "FAILED. There is no recipe 'simsam'" in said, said
    assert text(tmp_path / "out" / step.failed) == "2\n"
    assert text(tmp_path / "out" / "logs" / "snakemake.log").count("submitted with SLURM jobid") == 2
