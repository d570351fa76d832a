"""What `hardlab reproduce` asks of Slurm through Snakemake's plugin; Snakemake itself submits and follows the jobs."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hardlab import registry
from hardlab.errors import HardlabError

EXECUTORS = ("local", "slurm")
PROFILES = ("config.v9+.yaml", "config.v8+.yaml", "config.yaml")  # the names that Snakemake 9 looks for, in its order
_PLUGIN = "snakemake_executor_plugin_slurm"
# what Snakemake gets unless the profile sets it. A stopped or killed job is submitted again up to three times, and
# continues; files that a node wrote may take a minute to show on a shared file system.
_DEFAULTS: Mapping[str, Any] = {"retries": 3, "latency-wait": 60}
GONE_S = 120.0  # the time that cancelled jobs get to save and end: Slurm's own limit is 30 s by default


class Slurm(NamedTuple):
    """The choice of Slurm: how many jobs may be in its queue at a time, and the folder of a Snakemake profile."""

    jobs: int
    profile: Path | None = None


def chosen(executor: str, jobs: int | None, profile: Path | None, cores: int | None) -> Slurm | None:
    """Return the choice of Slurm, None for this machine; HardlabError for options that do not go together.

    cores: None if not given.
    """
    if executor not in EXECUTORS:
        raise registry.unknown("executor", executor, EXECUTORS)
    if executor == "local":
        for name, value in (("--jobs", jobs), ("--profile", profile)):
            if value is not None:
                raise HardlabError(f"{name}={value} needs --executor slurm; --cores limits the jobs on this machine.")
        return None
    if cores is not None:
        raise HardlabError(f"--cores={cores} is for this machine; --jobs limits the jobs in Slurm's queue.")
    if jobs is None:
        raise HardlabError("--executor slurm needs --jobs, the number of jobs in Slurm's queue at a time.")
    if profile is not None:
        settings(profile)
    if importlib.util.find_spec(_PLUGIN) is None:
        raise HardlabError("--executor slurm needs Snakemake's plugin: `pip install 'hardlab[cluster]'` adds it.")
    if shutil.which("sbatch") is None:
        raise HardlabError("--executor slurm needs the command 'sbatch': start it where Slurm is installed.")
    return Slurm(jobs, profile)


def settings(profile: Path) -> dict[str, Any]:
    """What a Snakemake profile sets; HardlabError for a folder without one, or with a damaged one."""
    file = next((profile / name for name in PROFILES if (profile / name).is_file()), None)
    if file is None:
        raise HardlabError(f"--profile={profile} is no Snakemake profile: it needs a file config.yaml.")
    import yaml

    try:
        given = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, ValueError) as e:
        raise HardlabError(f"'{file}' cannot be read as YAML: {' '.join(str(e).split())}.") from None
    if not isinstance(given, dict):
        raise HardlabError(f"'{file}' is no Snakemake profile: it needs lines such as `retries: 3`.")
    return given


def options(slurm: Slurm, out: Path) -> list[str]:
    """The options of Snakemake for a folder's jobs; what a profile sets, it keeps."""
    given = settings(slurm.profile) if slurm.profile is not None else {}
    own = dict(_DEFAULTS)
    if not _accounting():
        own["slurm-status-command"] = "squeue"  # the plugin would ask `sacct` wherever it is installed
    words = ["--executor", "slurm", "--jobs", str(slurm.jobs), "--slurm-jobname-prefix", _prefix(out)]
    for name, value in own.items():
        if name not in given and name.replace("-", "_") not in given:
            words += [f"--{name}", str(value)]
    return words if slurm.profile is None else [*words, "--profile", str(slurm.profile.absolute())]


def queued(out: Path) -> list[str]:
    """The ids of a folder's jobs in the queue, running ones too; HardlabError if Slurm does not answer."""
    asked = _ask("squeue", "--noheader", "--me", "--format=%i %j")
    if asked.returncode:
        why = (asked.stderr.strip() or "no output").splitlines()[-1]
        raise HardlabError(f"Slurm does not answer: {why}.")
    jobs = [line.split() for line in asked.stdout.splitlines()]
    return [job[0] for job in jobs if len(job) == 2 and job[1].startswith(_prefix(out) + "_")]


def cancel(out: Path) -> None:
    """Cancel a folder's jobs and wait until they have ended, runs saved; HardlabError if that takes over ``GONE_S``."""
    until = time.monotonic() + GONE_S
    asked: set[str] = set()
    problem, quiet = "", 0
    while quiet < 2:  # a second time, as one may just have been submitted
        try:
            left = queued(out)
            problem = f"Jobs are still in Slurm's queue: `scancel {' '.join(left)}` ends them." if left else ""
            quiet = 0 if left else quiet + 1
            if new := set(left) - asked:
                asked |= new
                _ask("scancel", *sorted(new))
        except HardlabError as e:
            problem = str(e)
        if problem and time.monotonic() > until:
            raise HardlabError(problem)
        time.sleep(0.5)


def trouble(log: Sequence[str]) -> str | None:
    """What Slurm refused or ended last, from the lines of the engine's log; None if nothing."""
    sentence = None
    for line in log:
        if refused := re.search(r"SLURM sbatch failed. The error message was '(.*?)'?[.]?$", line):
            sentence = f"Slurm refused a job ({refused[1].removeprefix('sbatch: error: ')})"
        elif ended := re.search(r"SLURM-job '(\S+)' failed, SLURM status is: '(\w+)'", line):
            sentence = f"Slurm's job {ended[1]} ended as {ended[2]}"
    return sentence


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        return subprocess.CompletedProcess(command, 1, "", str(e))


def _accounting() -> bool:
    """Whether Slurm keeps an account of jobs, which `sacct` reads."""
    return _ask("sacct", "--allocations", "--noheader", "--starttime=now").returncode == 0


def _prefix(out: Path) -> str:
    """The beginning of the names of a folder's jobs, the same in every call."""
    return f"hardlab-{hashlib.sha256(str(out.absolute()).encode()).hexdigest()[:10]}"
