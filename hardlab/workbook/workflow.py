"""Runs the workbook's steps through Snakemake, and stops it in order."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from hardlab import config, files, registry
from hardlab.data import path_of
from hardlab.errors import HardlabError
from hardlab.files import write_atomic
from hardlab.recipes import RUNGS
from hardlab.stopping import STOPPED, requests
from hardlab.workbook import cluster, costs, plan, progress
from hardlab.workbook.process_tree import ProcessTree

if TYPE_CHECKING:
    from hardlab.data import Images

SNAKEFILE = Path(__file__).with_name("Snakefile")
LOG = "logs/snakemake.log"  # the output of the workflow engine


def reproduce(
    rung: str = "smoke",
    overrides: Sequence[str] = (),
    *,
    claims: bool = False,
    cores: int = 2,
    slurm: cluster.Slurm | None = None,
    dry_run: bool = False,
    out: str | Path | None = None,
) -> int:
    """Run the missing steps of a rung's workbook into ``out`` (default ``out/<rung>``), then print where results are.

    overrides: key=value for every run except the untrained one. claims: include the arms of all claims that this rung
    can test. cores: steps at a time on this machine. slurm: makes each step a job of Slurm instead. Returns the exit
    status: 0 done, 1 failed, 75 stopped by SIGTERM, SIGINT or SIGUSR1; then runs have saved, and the same call
    continues. Raises ``HardlabError`` for an unknown rung, a folder that cannot be written, and a folder in which
    another process works or, with slurm, jobs of an earlier call.
    """
    if rung not in RUNGS:
        raise registry.unknown("rung", rung, RUNGS)
    out = Path(out or Path("out") / rung)
    hardlab = Path(sys.executable).with_name("hardlab")
    if not hardlab.exists():
        raise HardlabError(f"The command '{hardlab}' is missing; `make install` puts it beside this Python.")
    pairs = [config.from_here(pair) for pair in overrides]
    steps = plan.steps(rung, pairs, claims)
    _check_folders(steps, out)
    files.check_folder(out)
    plan.check(rung, pairs, claims)
    if dry_run:
        todo = plan.missing(steps, out)
        rates = costs.calibrate(rung) if todo else None
        print(progress.describe(steps, todo, rates, cores if slurm is None else slurm.jobs))
        if slurm is not None and todo:
            print(_asked_of_slurm(todo, rates))
        return 0
    with locked(out, "the workbook"):
        if slurm is not None and (ids := cluster.queued(out)):
            raise HardlabError(
                f"Jobs of an earlier call for '{out}' are in Slurm's queue ({', '.join(ids)}); wait for them, or end "
                f"them with `scancel {' '.join(ids)}`."
            )
        return _reproduce(steps, cores, slurm, rung, out)


@contextmanager
def locked(out: Path, task: str) -> Iterator[None]:
    """Lock a folder with ``logs/`` against other processes; raises HardlabError if one has locked it."""
    try:
        (out / "logs").mkdir(parents=True, exist_ok=True)
        lock = open(out / ".lock", "w")  # noqa: SIM115  held until this process ends
    except OSError as e:
        raise HardlabError(f"'{out}' cannot be written ({e.strerror}); run the command in another folder.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise HardlabError(f"Another process is running {task} in '{out}'; wait for it or stop it.") from None
        yield


def _check_folders(steps: Sequence[plan.Step], out: Path) -> None:
    """Raise ``run_folder.OtherImages`` if the folder of images of a finished run has changed since."""
    loaded: dict[config.Data, tuple[Images, Images]] = {}
    for step in steps:
        file = out / "runs" / (step.run or "") / "manifest.json"
        if step.run is None or not (out / step.outputs[0]).exists() or not file.exists():
            continue
        about = files.read_manifest(file, need=("config", "data"))
        run = config.of(about)
        if path_of(run.data.name) is None:
            continue
        from hardlab import build
        from hardlab.evaluate import runner

        if run.data not in loaded:
            loaded[run.data] = build.images(run), build.images(run, "test")
        runner.check_reused(file.parent, run, about, *loaded[run.data])


def _asked_of_slurm(todo: Sequence[plan.Step], rates: costs.Rates | None) -> str:
    """A sentence on the largest request of a plan's jobs."""
    each = [{"threads": step.threads, "gpu": step.gpu, **costs.limits(step, rates)} for step in todo]
    most = [f"{name}={max(asked[name] for asked in each)}" for name in each[0]]
    return f"Each is a job of Slurm; the largest asks for {', '.join(most)}."


def _reproduce(steps: Sequence[plan.Step], cores: int, slurm: cluster.Slurm | None, rung: str, out: Path) -> int:
    todo = plan.missing(steps, out)
    if not todo:
        print(f"All {len(steps)} steps of rung {rung} are already done.")
        return _results(out)
    rates = costs.calibrate(rung)
    at_a_time = cores if slurm is None else slurm.jobs
    print(progress.describe(steps, todo, rates, at_a_time), flush=True)
    if slurm is not None:
        print(_asked_of_slurm(todo, rates), flush=True)
    for step in todo:
        for name in (step.log, step.failed):
            (out / name).unlink(missing_ok=True)
    limits = {step.name: costs.limits(step, rates) for step in steps} if slurm is not None else None
    plan.write(steps, out / "plan.json", limits)
    display = progress.Display(steps, todo, rates, at_a_time, out)
    status = _here(cores, out, display) if slurm is None else _in_slurm(slurm, out, display)
    display.update()
    display.close()
    print(display.table(stopped=status == STOPPED))
    if status == STOPPED:
        print("Stopped; the same command continues from here.")
    elif status:
        print(f"Some steps were not done. {_trouble(out, display)}", file=sys.stderr)
    elif rates is not None and slurm is None:
        times = {"rates": rates._asdict(), "took": display.took, "minutes": (time.monotonic() - display.begun) / 60}
        write_atomic(out / "times.json", json.dumps(times, indent=1).encode())
    return status or _results(out)


def _results(out: Path) -> int:
    print(f"Figures: {len(list(out.glob('figures/*.svg')))} in {out / 'figures'}")
    print(f"Report:  {out / 'report.html'}")
    return 0


def _trouble(out: Path, display: progress.Display) -> str:
    """A sentence on what went wrong, with the path of the log."""
    if display.failed:
        return f"The log of each step is in {out / 'logs'}."
    lines = (out / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    if why := cluster.trouble(lines):
        return f"{why}; the log of the workflow engine is {out / LOG}."
    errors = [line.strip() for line in lines if re.match(r"\w*(Error|Exception)\b", line.strip())]
    return f"The workflow engine stopped ({(errors or lines or ['no output'])[-1].strip()}); its log is {out / LOG}."


def _here(cores: int, out: Path, display: progress.Display) -> int:
    """Run the steps on this machine; on a request to stop, end all their processes."""
    tree = ProcessTree()
    with (
        requests() as stops,
        _snakemake(["--cores", str(cores), "--resources", "gpu=1"], out, tree.environment()) as child,
    ):
        if _followed(child, stops, display):
            tree.end(lambda: _hosts(child), _no_more_jobs, grace=14)
            child.wait()
            return STOPPED
    return 0 if child.returncode == 0 else 1


def _in_slurm(slurm: cluster.Slurm, out: Path, display: progress.Display) -> int:
    """Run the steps as jobs of Slurm; on a request to stop, cancel them and wait until they have ended."""
    with requests() as stops, _snakemake(cluster.options(slurm, out), out, dict(os.environ)) as child:
        stopped = _followed(child, stops, display)
        if stopped:
            print("Cancelling the jobs in Slurm's queue; runs save first.", flush=True)
            with suppress(ProcessLookupError):
                # its own way to cancel misses jobs whose state it is just asking for
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        if stopped or child.returncode:
            try:
                cluster.cancel(out)
            except HardlabError as e:
                print(f"hardlab: {e}", file=sys.stderr)
    return STOPPED if stopped else 0 if child.returncode == 0 else 1


def _followed(child: subprocess.Popen[bytes], stops: Sequence[int], display: progress.Display) -> bool:
    """Update the display until the engine has ended; returns whether a request to stop came first."""
    while child.poll() is None and not stops:
        time.sleep(0.1)
        display.update()
    return bool(stops)


@contextmanager
def _snakemake(words: Sequence[str], out: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(out), *words),
        # our lock ends with its process, but Snakemake's stays after a crash
        *("--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime", "input", "--keep-going"),
    ]  # fmt: skip
    if not os.access(Path(env.get("HOME", "/nowhere")), os.W_OK):
        env["XDG_CACHE_HOME"] = str(out.absolute() / ".snakemake" / "cache")
    with open(out / LOG, "w", encoding="utf-8") as log:
        yield subprocess.Popen(command, env=env, start_new_session=True, stdout=log, stderr=subprocess.STDOUT)


def _hosts(child: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [psutil.Process(child.pid)] if child.poll() is None else []


def _no_more_jobs(hosts: Iterable[psutil.Process]) -> None:
    for snakemake in hosts:
        snakemake.send_signal(signal.SIGTERM)
