"""Starts Snakemake on the workbook's rules, and ends it in good order."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

from hardlab import registry
from hardlab.recipes import RUNGS
from hardlab.stopping import STOPPED, requests
from hardlab.types import HardlabError
from hardlab.workbook.family import Family

SNAKEFILE = Path(__file__).with_name("Snakefile")
SEEDS = {"smoke": 1, "cpu": 3, "gpu": 3, "paper": 3}


def reproduce(
    rung: str = "smoke",
    overrides: Sequence[str] = (),
    *,
    claims: bool = False,
    cores: int = 2,
    dry_run: bool = False,
    out: str | Path | None = None,
) -> int:
    """Run what is missing of a rung's workbook into ``out`` (default ``out/<rung>``), then print where the results are.

    overrides: key=value for every run but the untrained one. claims: also the arms of all claims testable at this rung.
    Returns the exit status: 0 done, 1 failed, 75 stopped by SIGTERM, SIGINT or SIGUSR1, in which case runs have saved
    and the same call goes on from there. Raises ``HardlabError`` for an unknown rung, a folder that cannot be written,
    and where another process is at work in the same folder.
    """
    if rung not in RUNGS:
        raise registry.unknown("rung", rung, RUNGS)
    out = Path(out or Path("out") / rung)
    hardlab = Path(sys.executable).with_name("hardlab")
    if not hardlab.exists():
        raise HardlabError(f"The command '{hardlab}' is not there; `make install` puts it beside this Python.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = open(out / ".lock", "w")  # noqa: SIM115  held until this process ends, however it ends
    except OSError as e:
        raise HardlabError(f"'{out}' cannot be written ({e.strerror}); run this in another folder.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise HardlabError(f"Another process reproduces in '{out}'; wait for it or stop it.") from None
        status = _snakemake(settings(rung, overrides, claims), cores, dry_run, out)
    if status == 0 and not dry_run:
        print("Figures:", *sorted(out.glob("figures/*.svg")), sep="\n  ")
        print(f"Report:\n  {out / 'report.html'}")
    elif status not in (0, STOPPED):
        print(f"Not all of it was done; what each step said is in {out / 'logs'}.", file=sys.stderr)
    return status


def settings(rung: str, overrides: Sequence[str] = (), claims: bool = False) -> list[str]:
    """What the rules read, as Snakemake's ``--config`` takes it."""
    given = [f"overrides={shlex.join(overrides)}"] if overrides else []
    return [f"rung={rung}", f"seeds={SEEDS[rung]}", f"claims={int(claims)}", *given]


def _snakemake(given: list[str], cores: int, dry_run: bool, out: Path) -> int:
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(out)),
        *("--cores", str(cores), "--resources", "gpu=1"),
        *("--config", *given),
        # ours is a lock that goes with its process; Snakemake's stays after a crash
        *("--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime", "input", "--keep-going"),
        *(("--dry-run", "--quiet", "rules", "host") if dry_run else ("--quiet", "progress", "host")),
    ]  # fmt: skip
    family = Family()
    env = family.environment()
    if not os.access(Path(env.get("HOME", "/nowhere")), os.W_OK):
        env["XDG_CACHE_HOME"] = str(out.absolute() / ".snakemake" / "cache")
    with requests() as stops:
        child = subprocess.Popen(command, env=env, start_new_session=True)
        while child.poll() is None and not stops:
            time.sleep(0.1)
        if stops:
            family.end(lambda: _hosts(child), _no_more_jobs, grace=14)
            child.wait()
            return STOPPED
    return 0 if child.returncode == 0 else 1


def _hosts(child: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [psutil.Process(child.pid)] if child.poll() is None else []


def _no_more_jobs(hosts: Iterable[psutil.Process]) -> None:
    for snakemake in hosts:
        snakemake.send_signal(signal.SIGTERM)
