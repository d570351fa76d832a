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
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from hardlab import config, files, registry
from hardlab.data import path_of
from hardlab.errors import HardlabError
from hardlab.files import write_atomic
from hardlab.recipes import RUNGS
from hardlab.stopping import STOPPED, requests
from hardlab.workbook import costs, plan, progress
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
    dry_run: bool = False,
    out: str | Path | None = None,
) -> int:
    """Run the missing steps of a rung's workbook into ``out`` (default ``out/<rung>``), then print where results are.

    overrides: key=value for every run except the untrained one. claims: include the arms of all claims that this rung
    can test. Returns the exit status: 0 done, 1 failed, 75 stopped by SIGTERM, SIGINT or SIGUSR1; then runs have saved,
    and the same call continues. Raises ``HardlabError`` for an unknown rung, a folder that cannot be written, and a
    folder in which another process works.
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
        print(progress.describe(steps, todo, costs.calibrate(rung) if todo else None, cores))
        return 0
    with locked(out, "the workbook"):
        return _reproduce(steps, cores, rung, out)


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


def _reproduce(steps: Sequence[plan.Step], cores: int, rung: str, out: Path) -> int:
    todo = plan.missing(steps, out)
    if not todo:
        print(f"All {len(steps)} steps of rung {rung} are already done.")
        return _results(out)
    rates = costs.calibrate(rung)
    print(progress.describe(steps, todo, rates, cores), flush=True)
    for step in todo:
        for name in (step.log, step.failed):
            (out / name).unlink(missing_ok=True)
    plan.write(steps, out / "plan.json")
    display = progress.Display(steps, todo, rates, cores, out)
    status = _snakemake(cores, out, display)
    display.update()
    display.close()
    print(display.table(stopped=status == STOPPED))
    if status == STOPPED:
        print("Stopped; the same command continues from here.")
    elif status:
        print(f"Some steps were not done. {_trouble(out, display)}", file=sys.stderr)
    elif rates is not None:
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
    errors = [line.strip() for line in lines if re.match(r"\w*(Error|Exception)\b", line.strip())]
    return f"The workflow engine stopped ({(errors or lines or ['no output'])[-1].strip()}); its log is {out / LOG}."


def _snakemake(cores: int, out: Path, display: progress.Display) -> int:
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(out)),
        *("--cores", str(cores), "--resources", "gpu=1"),
        # our lock ends with its process, but Snakemake's stays after a crash
        *("--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime", "input", "--keep-going"),
    ]  # fmt: skip
    tree = ProcessTree()
    env = tree.environment()
    if not os.access(Path(env.get("HOME", "/nowhere")), os.W_OK):
        env["XDG_CACHE_HOME"] = str(out.absolute() / ".snakemake" / "cache")
    with requests() as stops:
        with open(out / LOG, "w", encoding="utf-8") as log:
            child = subprocess.Popen(command, env=env, start_new_session=True, stdout=log, stderr=subprocess.STDOUT)
        while child.poll() is None and not stops:
            time.sleep(0.1)
            display.update()
        if stops:
            tree.end(lambda: _hosts(child), _no_more_jobs, grace=14)
            child.wait()
            return STOPPED
    return 0 if child.returncode == 0 else 1


def _hosts(child: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [psutil.Process(child.pid)] if child.poll() is None else []


def _no_more_jobs(hosts: Iterable[psutil.Process]) -> None:
    for snakemake in hosts:
        snakemake.send_signal(signal.SIGTERM)
