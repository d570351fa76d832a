"""Uses a GPU machine that is lent for minutes and has no network: prepares its files, runs there, merges the results.

    python  -m benchmarks.lease prepare --data PATH/cifar10-jpeg.tar.xz    # here, with a network
    python3 -m benchmarks.lease run --out DIR                              # there, in the root of the checkout
    python3 -m benchmarks.lease measure --out DIR                          # there, afterwards, on the same machine
    python  -m benchmarks.lease merge DIR/*.tar.gz                         # here

docs/gpu.md explains it. This module imports the standard library alone, as do the queue and the archives, which it
shares with `hardlab campaign`. Everything that needs torch runs in other processes, so that a failure there does not
prevent the archives from being packed.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hardlab.workbook.archive import evaluated, pack, units
from hardlab.workbook.job_queue import GRACE_S, STOPPED, Estimate, Job, Machine, Queue, command, end, start

ROOT = Path(__file__).resolve().parents[1]
BROUGHT = ROOT / "lease"  # ignored by git; travels with the checkout
PLAN = Path(__file__).with_name("lease.yaml")  # the plan that `hardlab campaign` orders
QUEUE = "queue.txt"  # in the folder ``BROUGHT``, written by ``prepare``
RATES = Path(__file__).with_name("gpu")  # tables of rates, one file per device
ARCHIVE = "cifar10-jpeg.tar.xz"
PROTOCOLS = ("knn", "linear-lbfgs")
PYTHON = "3.12"
PLATFORM = "x86_64-manylinux_2_28"
# What an image with torch, torchvision, numpy, pyarrow and pillow may lack, in the versions of the lock. Dependencies
# are not resolved, since torch is installed. lightly's loader, transforms and heads need no more.
PACKAGES = (
    "pydantic", "pydantic-core", "annotated-types", "typing-extensions", "typing-inspection", "pyyaml", "click",
    "packaging", "lightly", "lightning-utilities", "tqdm",
)  # fmt: skip
LIMIT_MIB = 60.0  # largest total size of the files sent there: 64 MiB include what packing adds, and 63.9 were refused
ARCHIVE_MB, ARCHIVES = 12.0, 5  # 60 of the 64 MB that may come back; an archive may have 16
TABLE_SHARE = 0.4  # share of the remaining time for the table of rates (--rates)
PACK_EVERY_S = 90.0  # packed results survive if the machine is taken away
# name, largest seconds, words after `python`; {out} is the folder of results: what needs the GPU alone
MEASUREMENTS: tuple[tuple[str, float, str], ...] = (
    ("tests", 60, "-m pytest -q -m gpu -p no:cacheprovider tests/test_waits.py tests/test_views.py "
                  "tests/test_execution.py tests/test_optim.py"),
    ("memory", 50, "-m benchmarks.lease_work throughput {out}/throughput.json 40 --only "
                   "paper/adco paper/dino-resnet50"),
    ("race", 85, "-c RUN race --device cuda --seeds 1 --budget 13s --until 75s --out {out}/race"),
    ("nccl", 30, "-m torch.distributed.run --nproc-per-node 1 -m hardlab.train simsiam --rung smoke --runs {out}/nccl"),
    ("execution", 70, "-m benchmarks.bench_execution --out {out}/execution --seconds 60"),
    ("growth", 50, "-m benchmarks.growth measure --device cuda --out {out}/growth"),
)  # fmt: skip
RUN = "from hardlab.cli import main; main()"  # hardlab is not installed there


class LeaseError(Exception):
    """An error with a message of one sentence for the user."""


# ------------------------------------------------------------------------------------------------ the queue


@dataclass(frozen=True)
class Line:
    """A run of the queue: recipe, rung, overrides and protocols."""

    recipe: str
    rung: str
    overrides: tuple[str, ...]
    protocols: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join([self.recipe, self.rung, *self.overrides])


def read_queue(text: str) -> list[Line]:
    """Parse a queue into its runs; raises LeaseError with the number of a line that cannot be read."""
    out = []
    for number, line in enumerate(text.splitlines(), 1):
        command, _, after = line.partition("#")[0].partition(" -- ")
        words = command.split()
        if not words:
            continue
        given = [w.partition("=") for w in words[2:]]
        if len(words) < 2 or not all(equals for _, equals, _ in given):
            raise LeaseError(
                f"line {number} of the queue cannot be read: write RECIPE RUNG [KEY=VALUE]... [-- PROTOCOL...], not "
                f"'{line.strip()}'."
            )
        seeds = next((value for key, _, value in given if key == "seed"), "0")
        match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", seeds)
        if match is None:
            raise LeaseError(f"line {number} of the queue: seed={seeds} is no seed; write seed=3 or seed=0..9.")
        for seed in range(int(match[1]), int(match[2] or match[1]) + 1):
            rest = tuple(f"{k}={v.replace('{seed}', str(seed))}" for k, _, v in given if k != "seed")
            protocols = tuple(after.split()) or PROTOCOLS
            out += [Line(recipe, words[1], (f"seed={seed}", *rest), protocols) for recipe in words[0].split(",")]
    return out


# ------------------------------------------------------------------------------------------------ what comes back


def collected(jobs: Sequence[Job], table: Path) -> set[str]:
    """The ids of jobs whose table has rows of all their protocols. table: figures/data/evaluation.csv."""
    if not table.exists():
        return set()
    have: dict[str, set[str]] = {}
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            have.setdefault(row["run"], set()).add(row["protocol"])
    return {j.id for j in jobs if j.protocols and set(j.protocols) <= have.get(j.id, set())}


def _rows(folder: Path) -> int:
    """The number of a run's results; -1 if the run is not done."""
    rows = folder / "results.jsonl"
    return -1 if not evaluated(folder, ()) else len(rows.read_text().splitlines()) if rows.exists() else 0


def keep_rates(brought: Path, kept: Path) -> None:
    """Keep the table of rates and the seconds by part in one file, named after the device, but not of a rehearsal."""
    paths = [brought / f"{name}.json" for name in ("throughput", "throughput-parts")]
    tables = [json.loads(path.read_text()) for path in paths if path.exists()]
    if not tables or tables[0].get("rehearsal", True):
        return
    seconds = {row["rate"]: row["seconds"] for table in tables[1:] for row in table["rows"] if row.get("seconds")}
    rows = [row | ({"seconds": seconds[row["rate"]]} if row["rate"] in seconds else {}) for row in tables[0]["rows"]]
    name = re.sub(r"[^a-z0-9]+", "-", tables[0]["device"].lower()).strip("-")
    kept.mkdir(parents=True, exist_ok=True)
    (kept / f"{name}.json").write_text(json.dumps(tables[0] | {"rows": rows}, indent=1) + "\n")


def merge(archives: Sequence[Path], into: Path, brought: Path, kept: Path = RATES) -> list[str]:
    """Unpack the archives of a lease; returns the ids of their runs.

    Runs go to ``into``, the table of rates to ``kept``, which is committed, and the rest to ``brought``, so that the
    next lease continues. A finished run in ``into`` with as many rows stays. Raises LeaseError, and changes nothing,
    for an archive that is damaged or holds anything but files below runs/ and logs/.
    """
    into.mkdir(parents=True, exist_ok=True)
    brought.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into, prefix=".lease-") as name:
        scratch = Path(name)
        for archive in archives:
            try:
                with tarfile.open(archive) as tar:
                    for member in tar:
                        parts = Path(member.name).parts
                        if not member.isfile() or parts[0] not in ("runs", "logs") or ".." in parts or len(parts) < 2:
                            raise LeaseError(f"{archive} holds '{member.name}', which no lease packs; none is merged.")
                        source = tar.extractfile(member)
                        assert source is not None
                        target = scratch.joinpath(*parts)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(source.read())
            except (OSError, tarfile.TarError, EOFError, zlib.error) as e:
                raise LeaseError(f"{archive} cannot be read ({e}); nothing is merged.") from e
        came = sorted(p.name for p in (scratch / "runs").glob("*")) if (scratch / "runs").is_dir() else []
        for run in came:
            target, new = into / run, scratch / "runs" / run
            if _rows(target) < _rows(new):
                shutil.rmtree(target, ignore_errors=True)
                new.rename(target)
        for table in sorted((scratch / "logs").glob("throughput*.json")):
            shutil.copy(table, brought / table.name)
    keep_rates(brought, kept)
    known = brought / "done.json"
    ids = set(json.loads(known.read_text())) if known.exists() else set()
    known.write_text(json.dumps(sorted(ids | set(came)), indent=0) + "\n")  # a lease packs all rows of a run or none
    return came


# ------------------------------------------------------------------------------------------------ before the lease


def prepare(
    data: Path | None, brought: Path = BROUGHT, limit_mib: float = LIMIT_MIB, say: Callable[[str], None] = print
) -> None:
    """Collect what the machine lacks in ``brought``, and print the sizes of all files to send, in MiB."""
    if data is not None and not data.is_file():
        raise LeaseError(f"There is no archive '{data}'; name {ARCHIVE}, or leave --data out.")
    brought.mkdir(exist_ok=True)
    site = brought / "site"
    shutil.rmtree(site, ignore_errors=True)
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if uv is None:
        raise LeaseError("uv is missing; `make install` installs it.")
    pinned = [f"{name}=={pins[name]}" for name in PACKAGES]
    command = [uv, "pip", "install", "--quiet", "--target", str(site), "--no-deps", "--only-binary", ":all:",
               "--python-version", PYTHON, "--python-platform", PLATFORM, *pinned]  # fmt: skip
    if subprocess.run(command, cwd=ROOT).returncode != 0:
        raise LeaseError("The packages could not be downloaded; see the output of uv above.")
    for useless in [*site.rglob("__pycache__"), site / "bin"]:
        shutil.rmtree(useless, ignore_errors=True)
    about = importlib.metadata.distribution("hardlab")  # the code is in the checkout; doctor reads its requirements
    metadata = site / f"hardlab-{about.version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(about.read_text("METADATA") or "")
    (brought / "checkout.json").write_text(json.dumps({"commit": commit(), "digest": digest()}) + "\n")
    if data is not None:
        shutil.copy(data, brought / ARCHIVE)
    sizes = {p.name: size_mib([p]) for p in sorted(brought.iterdir())}
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True)  # fmt: skip
    sizes["the checkout"] = size_mib([ROOT / name for name in listed.stdout.split("\0") if name])
    sizes |= {QUEUE: size_mib([write_queue(brought / QUEUE, data)])}
    weigh(sizes, limit_mib, [*ROOT.glob("figures/*.png"), *ROOT.glob("figures/*.svg")], say)
    if not (brought / ARCHIVE).is_file():
        say(f"Without {ARCHIVE} (--data) the runs on CIFAR-10 cannot be made.")


def write_queue(queue: Path, data: Path | None) -> Path:
    """Write the missing runs of ``PLAN`` in the order of `hardlab campaign`, by the rates of the last GPU."""
    from hardlab import config
    from hardlab.analysis import schema
    from hardlab.workbook import campaign_plan
    from hardlab.workbook.job_queue import Estimate

    tables = [json.loads(path.read_text()) for path in RATES.glob("*.json")]
    none: dict[str, Any] = {"device": "", "rows": []}
    newest = max(tables, key=lambda table: str(table["date"]), default=none)
    known = {row["rate"]: row["images_per_s"] for row in newest["rows"] if row.get("images_per_s")}
    collected = ROOT / "figures" / "data"
    rates = campaign_plan.rates(schema.read_manifests(collected), newest["device"], "bf16", known)
    stages = campaign_plan.read(str(PLAN))
    survey = campaign_plan.Survey(stages, collected, queue.parent / "runs", "bf16", data.parent if data else None)
    made = campaign_plan.work_out(survey, Estimate(rates))
    lines = [f"# {claim}: {why}" for claim, why in made.refused.items()]
    for job in made.jobs:
        if job.id in survey.changes:  # a parent needs no line: it comes with the run that starts from it
            pairs = [f"{k}={''.join(config.written(v).split())}" for k, v in survey.changes[job.id].items()]
            lines.append(f"{' '.join([*job.rate.split('/')[::-1], *pairs])} -- {' '.join(job.protocols)}")
    queue.write_text("\n".join(lines) + "\n")
    return queue


def size_mib(paths: Iterable[Path]) -> float:
    """The size in MiB of files and folders."""
    files = [f for p in paths for f in ([p] if p.is_file() else p.rglob("*"))]
    return sum(f.stat().st_size for f in files if f.is_file()) / 2**20


def weigh(sizes: Mapping[str, float], limit_mib: float, pictures: Sequence[Path], say: Callable[[str], None]) -> None:
    """Say how many MiB each part takes that travels, and refuse too many with a LeaseError that says what to leave out.

    pictures: files of the checkout that no run reads.
    """
    total, spare = sum(sizes.values()), size_mib(pictures)
    for name, size in sizes.items():
        say(f"{size:8.1f} MiB  {name}")
    say(f"{total:8.1f} MiB  in all, of {limit_mib:g}")
    if total > limit_mib:
        advice = (
            f"delete the {len(pictures)} pictures of figures/ ({spare:.1f} MiB) until then, which no run reads and "
            "`git checkout figures` brings back"
            if spare
            else "leave out the largest part"
        )
        raise LeaseError(f"{total:.1f} MiB are more than the {limit_mib:g} MiB that may travel: {advice}.")


def commit() -> str:
    """The commit of this checkout, with a mark if the package differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", "hardlab") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def digest() -> str:
    """A digest of the package's files, which identifies the commit on a machine without git."""
    h = hashlib.sha256()
    for path in sorted((ROOT / "hardlab").rglob("*.py")):
        h.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return h.hexdigest()


# ------------------------------------------------------------------------------------------------ during the lease


class Sharing:
    """NVIDIA's MPS, if the driver includes it: kernels of several processes run at once instead of in turns.

    Its daemon is started with a private folder and ends with the lease; no setting of the GPU changes.
    """

    COMMAND = "nvidia-cuda-mps-control"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = shutil.which(self.COMMAND) or shutil.which(self.COMMAND, path="/usr/local/nvidia/bin:/usr/bin")

    def start(self, env: dict[str, str], check: Sequence[str], seconds: float = 40.0) -> tuple[dict[str, str], str]:
        """Start the daemon; returns the variables of processes that share the GPU, empty without MPS, and a message.

        check: a command that must succeed with the variables set, in ``seconds``.
        """
        if self.command is None:
            return {}, "the processes take turns on the GPU: MPS is not installed"
        more = {"CUDA_MPS_PIPE_DIRECTORY": str(self.folder), "CUDA_MPS_LOG_DIRECTORY": str(self.folder / "log")}
        self.env = env | more
        try:
            (self.folder / "log").mkdir(parents=True, exist_ok=True)
            # its output is discarded: the daemon would keep a pipe open
            subprocess.run([self.command, "-d"], env=self.env, timeout=seconds, check=True, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)  # fmt: skip
            subprocess.run(check, env=self.env, cwd=ROOT, timeout=seconds, check=True, capture_output=True)
        except (OSError, subprocess.SubprocessError) as e:
            self.end()
            return {}, f"the processes take turns on the GPU: MPS does not work ({e})"
        return more, "the processes share the GPU by MPS"

    def end(self) -> None:
        """Stop the daemon, if it runs."""
        if self.command is not None and hasattr(self, "env"):
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run([self.command], input=b"quit -t 5\n", env=self.env, timeout=15,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip


class Lease:
    """One lease: doctor, the table of rates and the queue, with archives packed after each."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.start = time.monotonic()
        self.args = args
        self.budget = 60 * args.budget
        self.margin = min(45.0, 0.15 * self.budget)
        self.grace = min(GRACE_S, self.margin / 3)
        self.work: Path = args.work.resolve()
        self.runs, self.logs, self.out = self.work / "runs", self.work / "logs", args.out.resolve()
        for folder in (self.runs, self.logs, self.out):
            folder.mkdir(parents=True, exist_ok=True)
        self.asked: list[int] = []
        self.phase: subprocess.Popen[bytes] | None = None
        self.planned: list[Job] = []  # the whole queue
        self.jobs: list[Job] = []  # those still to run
        self.state: dict[str, str] = {}
        self.refused: list[str] = []
        self.left_out: list[str] = []
        self.packed = time.monotonic()
        self.env = environment(args.brought, self.work)
        # not below the checkout, because the path of its socket must be short
        self.sharing = Sharing(Path(tempfile.mkdtemp(prefix="mps-")))
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        message = f"[{time.monotonic() - self.start:6.1f} s] {line}"
        self.lines.append(message)
        with contextlib.suppress(BrokenPipeError):
            print(message, flush=True)

    def stop(self) -> bool:
        return bool(self.asked)

    def deadline(self) -> float:
        """The end of the queue, which leaves enough time to end the children and pack the results."""
        return self.start + self.budget - self.margin

    def child(self, name: str, words: list[str], **more: Any) -> subprocess.Popen[bytes]:
        """Start a process in its own group, with its output in logs/<name>.log."""
        return start(words, self.logs / f"{name}.log", self.env | more.pop("env", {}), cwd=ROOT, **more)

    def wait(self, name: str, process: subprocess.Popen[bytes], until: float) -> int | None:
        """Wait for a process; returns its exit status, or None if it was ended because time was up."""
        while process.poll() is None:
            if self.stop() or time.monotonic() > until:
                end([process], self.grace)
                self.say(f"{name} was ended")
                return None
            time.sleep(0.1)
        if process.returncode not in (0, STOPPED):
            self.say(f"{name} ended with status {process.returncode}: {last_line(self.logs / f'{name}.log')}")
        return process.returncode

    def python(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "benchmarks.lease_work", *words]

    def go(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        if self.args.verb == "measure":
            return self.measure_all()
        try:
            self._go()
        finally:
            self.sharing.end()
            shutil.rmtree(self.sharing.folder, ignore_errors=True)
            self.finish()
        return STOPPED if self.asked else 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked.append(number)

    def _go(self) -> None:
        self.say(f"{self.args.budget:g} minutes, {os.cpu_count()} cores; the results are in {self.out}")
        for name in ("doctor", "plan"):
            (self.logs / f"{name}.log").unlink(missing_ok=True)  # of an earlier call
        doctor = self.child("doctor", [sys.executable, "-c", "from hardlab.cli import main; main()", "doctor"])
        data = self.work / "data"
        data.mkdir(exist_ok=True)
        archive: Path = self.args.brought / ARCHIVE
        if archive.is_file() and not (data / ARCHIVE).exists():
            (data / ARCHIVE).symlink_to(archive.resolve())
        # reads the queue, and the data once for all runs, while doctor runs
        words = (
            "plan",
            str(self.args.queue or self.args.brought / QUEUE),
            str(self.work / "plan.json"),
            self.args.rehearse,
        )
        plan = self.child("plan", self.python(*words))
        self.wait("doctor", doctor, self.deadline())
        text = (self.logs / "doctor.log").read_text()
        self.say("doctor:\n" + text.rstrip())
        if self.wait("plan", plan, self.deadline()) != 0:
            return
        kept_plan = json.loads((self.work / "plan.json").read_text())
        self.planned = [Job(**job) for job in kept_plan["jobs"]]
        self.jobs = self.undone(self.planned)
        self.refused = kept_plan["refused"]
        for line in self.refused:
            self.say(f"cannot be run: {line}")
        self.say(f"{len(self.jobs)} runs to be made on {kept_plan['device']}; {kept_plan['rehearsal']}")
        self.measure(kept_plan["rehearsal_on"])
        self.pack()
        self.queue(kept_plan)

    def measure_all(self) -> int:
        """Run ``MEASUREMENTS`` one after the other, each with its limit; logs and rows are in --out."""
        for name, seconds, text in MEASUREMENTS:
            if self.stop() or time.monotonic() > self.start + self.budget:
                self.say(f"{name}: no time left")
                continue
            words = [RUN if word == "RUN" else word for word in text.format(out=self.out).split()]
            process = self.child(name, [sys.executable, *words])
            self.wait(name, process, min(time.monotonic() + seconds, self.start + self.budget))
            self.say(f"{name}: {last_line(self.logs / f'{name}.log')}")
            shutil.copy(self.logs / f"{name}.log", self.out)
        return STOPPED if self.asked else 0

    def undone(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs that no earlier call finished, and the parents whose weights they need."""
        known = self.args.brought / "done.json"
        done = set(json.loads(known.read_text())) if known.exists() else set()
        done |= {j.id for j in jobs if evaluated(self.runs / j.id, j.protocols)} | collected(jobs, self.args.collected)
        left = [j for j in jobs if j.id not in done and j.protocols]
        needed = {j.parent for j in left}
        if done:
            self.say(f"{len([j for j in jobs if j.id in done])} runs of earlier calls are skipped")
        return [j for j in jobs if (j.id in needed) or j in left]

    def measure(self, rehearsal: bool) -> None:
        """Measure the table of rates: images/s, then, in a process with blocking launches, the seconds by part."""
        begin = time.monotonic()
        until = begin + self.args.rates * (self.deadline() - begin)
        for name, env in (("throughput", {}), ("throughput-parts", {"CUDA_LAUNCH_BLOCKING": "1"})):
            if self.stop():
                return
            target = self.logs / f"{name}.json"
            earlier = self.args.brought / target.name
            if earlier.is_file() and not target.exists():
                shutil.copy(earlier, target)
            share = until if name != "throughput" else begin + 0.7 * (until - begin)
            seconds = max(0.0, share - time.monotonic())
            if not self.args.rates or (seconds < 5 and not rehearsal):
                self.say(f"{name}: no time left")
                continue
            words = ["throughput", str(target), f"{seconds:.0f}", *(["--rehearsal"] if rehearsal else []),
                     *(["--parts"] if env else [])]  # fmt: skip
            self.wait(name, self.child(name, self.python(*words), env=env), share + 20)
        table = self.table()
        self.say(f"rates:\n{table}")
        for path in self.logs.glob("throughput*.json"):
            shutil.copy(path, self.out / path.name)

    def rows(self, name: str = "throughput") -> list[dict[str, Any]]:
        path = self.logs / f"{name}.json"
        return json.loads(path.read_text())["rows"] if path.exists() else []

    def table(self) -> str:
        parts = {row["rate"]: row["seconds"] for row in self.rows("throughput-parts") if row.get("seconds")}
        lines = [f"{'network, recipe':34}{'images/s':>10}{'of peak':>9}{'MB':>8}  seconds a step by part"]
        for row in self.rows():
            of_peak = f"{100 * row['share']:8.1f}%" if row.get("share") is not None else f"{'':9}"
            split = parts.get(row["rate"], {})
            columns = ", ".join(f"{part} {1e3 * s:.2f} ms" for part, s in split.items() if part != "total")
            value = f"{row['images_per_s']:10.0f}" if row.get("images_per_s") else f"{'failed':>10}"
            memory = f"{row['peak_memory_mb']:8.0f}" if row.get("peak_memory_mb") else f"{'':8}"
            name = f"{row['network']}, {row['recipe']}"
            if "loader_images_per_s" in row:
                columns = (
                    f"loader alone {row['loader_images_per_s']:.0f}, step alone {row['step_images_per_s']:.0f} images/s"
                )
            lines.append(f"{name:34}{value}{of_peak}{memory}  {columns or row.get('error', '')}".rstrip())
        return "\n".join(lines)

    def queue(self, plan: dict[str, Any]) -> None:
        rates = {row["rate"]: row for row in self.rows() if row.get("images_per_s") and row.get("peak_memory_mb")}
        places = self.args.jobs or plan["places"]
        gpu = plan["device"] != "cpu"
        estimate = Estimate(rates, overhead=20.0 if gpu else 15.0, context_mb=600.0 if gpu else 100.0)

        def launch(job: Job) -> subprocess.Popen[bytes]:
            return self.child(job.id, command(job, self.runs), config=job.config)

        todo = Queue(self.jobs, Machine(places, plan["memory_mb"]), estimate, launch, self.say, self.grace)
        self.state = todo.state

        def tick() -> None:
            if time.monotonic() - self.packed > PACK_EVERY_S:
                self.pack()

        if gpu and self.args.share == "auto":
            check = [sys.executable, "-c", "import torch; torch.ones(1, device='cuda').item()"]
            more, sentence = self.sharing.start(self.env, check)
            self.env |= more
            self.say(sentence)
        self.say(f"queue: {places} places, {plan['memory_mb'] / 1024:.0f} GB")
        todo.run(self.deadline(), self.stop, tick)
        rest = [j for j in self.jobs if self.state.get(j.id) != "done"]
        seconds = [(estimate.seconds(j), j.weight) for j in rest]
        known = [s * weight / todo.machine.places for s, weight in seconds if s is not None]
        unknown = f", and {len(rest) - len(known)} of unknown length" if len(known) < len(rest) else ""
        self.say(f"{len(rest)} runs are left: about {sum(known) / 60:.0f} minutes of this machine{unknown}")

    def pack(self) -> None:
        """Pack all runs that are done so far, by earlier calls too, and write the report beside the archives."""
        done = [j.id for j in self.planned if evaluated(self.runs / j.id, j.protocols)]
        checkout = self.args.brought / "checkout.json"
        known = json.loads(checkout.read_text()) if checkout.exists() else {}
        if known.get("digest") == digest():
            for run in done:
                stamp(self.runs / run / "manifest.json", known["commit"])
        (self.logs / "report.txt").write_text(self.report(done))
        limit = int(min(16.0, self.args.archive_mb) * 1e6)
        archives = [self.out / f"lease-{i}.tar.gz" for i in range(1, self.args.archives + 1)]
        self.left_out = pack(archives, units(self.runs, self.logs, done), limit=limit)
        (self.out / "report.txt").write_text(self.report(done))
        self.packed = time.monotonic()

    def report(self, done: Sequence[str]) -> str:
        doctor = self.logs / "doctor.log"
        left = [f"{self.state.get(j.id, 'not started'):12} {j.line}  ({j.id})" for j in self.jobs if j.id not in done]
        parts = {
            "doctor": doctor.read_text() if doctor.exists() else "",
            "rates": self.table() if self.rows() else "none",
            "done": "\n".join(done),
            "left": "\n".join(left),
            "cannot be run": "\n".join(self.refused),
            "not packed, because the archives are full": "\n".join(self.left_out),
            "log": "\n".join(line for line in self.lines if "\n" not in line),
        }
        return "\n".join(f"== {name}\n{text.rstrip()}\n" for name, text in parts.items() if text)

    def finish(self) -> None:
        self.pack()
        sizes = ", ".join(f"{p.name} {p.stat().st_size / 1e6:.1f} MB" for p in sorted(self.out.glob("lease-*.tar.gz")))
        done = [j for j in self.planned if evaluated(self.runs / j.id, j.protocols)]
        self.say(f"packed {len(done)} of {len(self.planned)} runs: {sizes or 'nothing'}")
        if self.left_out:
            self.say(f"no room for {len(self.left_out)}: {', '.join(self.left_out[:5])}")
        for job in [j for j in self.jobs if j not in done][:10]:
            self.say(f"left: {job.line} ({self.state.get(job.id, 'not started')})")


def stamp(path: Path, known: str) -> None:
    """Write the commit into a manifest that lacks it, because the machine has no git."""
    about = json.loads(path.read_text())
    if about.get("commit") == "unknown":
        about |= {"commit": known.removesuffix("-dirty"), "dirty": known.endswith("-dirty")}
        scratch = path.with_suffix(".part")
        scratch.write_text(json.dumps(about, indent=1) + "\n")
        scratch.replace(path)


def last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"


def environment(brought: Path, work: Path) -> dict[str, str]:
    """The environment of child processes, with the checkout and, if they fit this Python, the packages brought."""
    paths = [str(ROOT)]
    site = brought.resolve() / "site"
    if site.is_dir() and f"{sys.version_info.major}.{sys.version_info.minor}" == PYTHON and sys.platform == "linux":
        # a copy, beside which Python writes its bytecode: what is brought stays as it was, and may travel again
        paths.append(str(shutil.copytree(site, work / "site", dirs_exist_ok=True)))
    paths += [p for p in [os.environ.get("PYTHONPATH")] if p]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths), "HARDLAB_DATA": str(work / "data"), "HARDLAB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "",  # else each of two hundred processes would compile the package
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ the command line


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m benchmarks.lease", description=(__doc__ or "").splitlines()[0])
    verbs = top.add_subparsers(dest="verb", required=True)

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text)
        made.add_argument("--brought", type=Path, default=BROUGHT, help="Folder of the files to send (%(default)s).")
        return made

    p = verb("prepare", "Collect the files that the machine lacks, and print their sizes.")
    p.add_argument("--data", type=Path, help=f"{ARCHIVE}, for the runs on CIFAR-10.")
    p.add_argument("--limit-mib", type=float, default=LIMIT_MIB, help="Largest total size to send (%(default)s).")
    p = verb("run", "Use the machine until the budget ends; the results are in --out.")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--budget", type=float, default=9.5, metavar="MINUTES")
    p.add_argument("--queue", type=Path, help=f"Default: {QUEUE} in --brought.")
    p.add_argument(
        "--work", type=Path, default=ROOT / "out" / "lease", help="A second call continues there (%(default)s)."
    )
    p.add_argument("--jobs", type=int, help="Runs side by side; default: by cores and memory.")
    p.add_argument("--rates", type=float, default=TABLE_SHARE, metavar="SHARE",
                   help="Largest share of the time for the table of rates (%(default)s).")  # fmt: skip
    p.add_argument("--collected", type=Path, default=ROOT / "figures" / "data" / "evaluation.csv",
                   help="Collected rows, whose runs are skipped (%(default)s).")  # fmt: skip
    p.add_argument("--share", choices=("auto", "no"), default="auto",
                   help="Let runs share the GPU by MPS, if the driver includes it.")  # fmt: skip
    p.add_argument("--rehearse", choices=("auto", "yes", "no"), default="auto",
                   help="Shorten all runs, as a rehearsal; auto: if there is no GPU.")  # fmt: skip
    p.add_argument("--archive-mb", type=float, default=ARCHIVE_MB,
                   help="Largest size of an archive in 10**6 bytes, at most 16 (%(default)s).")  # fmt: skip
    p.add_argument("--archives", type=int, default=ARCHIVES)
    p = verb("measure", "Measure what needs the GPU alone: memory, a race, execution, growth; and test it.")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--budget", type=float, default=5.0, metavar="MINUTES")
    p.add_argument(
        "--work", type=Path, default=ROOT / "out" / "lease", help="Where `run` has put the images (%(default)s)."
    )
    p = verb("merge", "Unpack the archives of a lease; the next lease continues from there.")
    p.add_argument("archives", nargs="+", type=Path)
    p.add_argument("--into", type=Path, default=ROOT / "runs")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        if args.verb == "prepare":
            prepare(args.data, args.brought, args.limit_mib)
        elif args.verb == "merge":
            came = merge(args.archives, args.into, args.brought)
            print(f"{len(came)} runs are in {args.into}; collect: `hardlab figures --all --from {args.into} --add`")
        else:
            return Lease(args).go()
    except LeaseError as e:
        print(f"lease: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
