"""A run's folder with its manifest, metrics, view log and lock; only this module writes to ``runs/<id>/``."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import importlib.metadata
import io
import itertools
import json
import os
import platform
import resource
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hardlab import build, checkpoint, config, files, machine, ranks
from hardlab.config import Run
from hardlab.data import Images
from hardlab.hard.base import Hard
from hardlab.methods.base import Method
from hardlab.types import Candidates, HardlabError
from hardlab.views import PARAMS

HELD = 256  # steps of the view log to keep on the device before copying them to the host
REPLACED = ".replaced"  # where a folder of runs keeps runs that were started again
_PACKAGES = ("hardlab", "torch", "torchvision", "numpy", "pyarrow", "pydantic")


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def commit() -> tuple[str, bool]:
    """The commit (hex) of hardlab's checkout and whether it has changes; ("unknown", False) outside a checkout."""
    at = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=at, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # only changes of the package itself can change a result
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", "."))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", False


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MB: of the device for a GPU, else the resident memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def versions() -> dict[str, str]:
    installed = {}
    for name in _PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


class OtherImages(checkpoint.Refused):
    """The images of a run differ from those that it was trained on."""


def check_images(name: str, seen: Mapping[str, Any], images: Images) -> None:
    """Raise ``OtherImages`` if ``images`` are not those that the run of this name was trained on.

    seen: ``data`` of its manifest or of a checkpoint; without a digest there is nothing to compare.
    """
    recorded, digest = seen.get("digest"), images.digest()
    if recorded is None or recorded == digest:
        return
    if not isinstance(recorded, str) or len(recorded) != len(digest) or set(recorded) - set("0123456789abcdef"):
        raise HardlabError(f"The record of the images of {name} is damaged: its digest is {str(recorded)[:40]!r}.")
    expected, count = seen.get("count"), len(images)
    counts = f"{count} images, not {'the same' if expected in (None, count) else expected}"
    raise OtherImages(
        f"{name} was trained on other images than {seen.get('name', images.name)} holds now ({counts}; digest "
        f"{digest[:8]}, then {recorded[:8]}): put the old ones back, or start a new run with `hardlab pretrain --anew` "
        "(in Python anew=True), which keeps the old one aside."
    )


def check_test_images(name: str, seen: Mapping[str, Any], images: Images) -> None:
    """Raise ``OtherImages`` if ``images`` are not the test images by which the run of this name was monitored.

    seen: ``data`` of its manifest; without the digest of a test split there is nothing to compare.
    """
    then, now = seen.get("test_digest"), images.digest()
    if then is not None and then != now:
        raise OtherImages(
            f"{name} was monitored on other test images than {seen.get('name', images.name)} holds now (digest "
            f"{now[:8]}, then {str(then)[:8]}): put the old ones back, or start a new run with `hardlab pretrain "
            "--anew` (in Python anew=True), which keeps the old one aside."
        )


class Folder:
    """``runs/<id>/`` opened for training, with a lock so that two processes never mix their files.

    wait: called repeatedly while another process has the lock; without it, that is a HardlabError.
    """

    def __init__(self, runs_dir: Path, run: Run, wait: Callable[[], None] | None = None) -> None:
        self.run, self.path = run, runs_dir / run.id
        while not self._locked():
            if wait is None:
                raise HardlabError(f"Another process is training in {self.path}; wait for it or stop it.")
            wait()
        self.checkpoints = self.path / "checkpoints"
        self.complaint = ""  # the error of a damaged manifest: the checkpoints say where the run was
        try:
            self.manifest: dict[str, Any] = manifest(self.path) or {}
        except HardlabError as e:
            self.manifest, self.complaint = {}, str(e)
        kept = self.manifest.get("files")
        self.sums: dict[str, str] = kept if isinstance(kept, dict) else {}  # file -> its digest
        self._seen: list[tuple[Candidates, torch.Tensor, int, int]] = []  # on the device, for the first images
        self._sent: list[tuple[Candidates, torch.Tensor, int, int]] = []  # on their way to the host
        self._arrived: torch.cuda.Event | None = None  # once it has happened, they are there
        self._rows: list[pa.Table] = []
        self._crops: list[pa.Table] = []

    def _locked(self) -> bool:
        """Take the lock; returns False if another process has it."""
        while True:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._lock = open(self.path / "lock", "a", opener=files.regular)  # noqa: SIM115  held as long as the process trains
            except OSError as e:
                raise HardlabError(
                    f"{self.path} cannot be written ({e.strerror}); choose another folder for runs."
                ) from e
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._lock.close()
                return False
            except OSError as e:
                self._lock.close()
                raise HardlabError(f"{self.path} cannot be locked ({e.strerror}); choose another folder.") from e
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self._lock.name).st_ino == os.fstat(self._lock.fileno()).st_ino:
                    return True
            self._lock.close()  # the folder was removed before it was locked

    def set_aside(self) -> Path | None:
        """Move the run to ``.replaced/<id>-<n>`` and start an empty folder; returns the path of the moved run."""
        if {p.name for p in self.path.iterdir()} <= {"lock"}:
            return None
        replaced = self.path.parent / REPLACED
        try:
            replaced.mkdir(exist_ok=True)
            number = next(n for n in itertools.count(1) if not (replaced / f"{self.run.id}-{n}").exists())
            aside = self.path.rename(replaced / f"{self.run.id}-{number}")
        except OSError as e:
            raise HardlabError(f"{self.path} cannot be moved away ({e.strerror}); nothing was changed.") from e
        self._lock.close()
        if not self._locked():
            raise HardlabError(f"Another process is training in {self.path}; the old run is in {aside}.")
        self.manifest, self.complaint = {}, ""
        return aside

    def close(self) -> None:
        if not self.manifest and not self.complaint:  # refused before it began: leave nothing behind
            with contextlib.suppress(OSError):
                (self.path / "lock").unlink()
                self.path.rmdir()
        self._lock.close()

    def begin(
        self,
        device: torch.device,
        precision: machine.Precision,
        data: dict[str, Any],
        parent: str | None,
        parameters: dict[str, int],
    ) -> None:
        """Write the manifest of a run that starts or continues; a damaged one is kept beside it."""
        head, dirty = commit()
        if self.complaint:
            with contextlib.suppress(OSError):
                (self.path / "manifest.json").rename(self.path / "manifest.json.damaged")
        self.manifest = {
            "id": self.run.id,
            "config": self.run.model_dump(mode="json"),
            "config_hash": self.run.hash,
            "commit": head,
            "dirty": dirty,
            "versions": versions(),
            "python": platform.python_version(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else machine.processor(),
            "cuda": torch.version.cuda if device.type == "cuda" else None,
            "driver": driver() if device.type == "cuda" else None,
            "precision": precision,
            "threads": torch.get_num_threads(),
            "world_size": ranks.size(),
            **({"backend": ranks.backend()} if ranks.size() > 1 else {}),
            "seed": self.run.seed,
            "data": data,
            "parameters": parameters,
            "started": self.manifest.get("started", now()),
            "ended": None,
            "state": "running",
            "parent": parent,
            "error": None,
            "health": [],
            # what was written before, without the log, to which lines are added
            "files": {n: sum_ for n, sum_ in self.sums.items() if (self.path / n).exists() and n != "metrics.jsonl"},
        }
        self.update()

    def update(self, **fields: Any) -> None:
        self.manifest |= fields
        text = json.dumps(self.manifest, indent=1, ensure_ascii=False) + "\n"
        # the name of a broken image, or of a file in an error, need not be UTF-8
        checkpoint.write_atomic(self.path / "manifest.json", text.encode(errors="replace"))

    def metric(self, row: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``; the first names the run."""
        try:
            with open(self.path / "metrics.jsonl", "a", encoding="utf-8", opener=files.regular) as f:
                f.write(json.dumps(row if f.tell() else row | {"run": self.run.id}) + "\n")
        except OSError as e:
            raise HardlabError(f"{self.path / 'metrics.jsonl'} could not be written ({e.strerror}).") from e

    def rewind(self, step: int) -> int:
        """Delete everything that was logged after ``step``, so that a resumed run logs it once.

        Returns the number of damaged lines in the log; if there are any, the old log is kept as
        ``metrics.jsonl.damaged``.
        """
        path, harmed = self.path / "metrics.jsonl", 0
        if path.exists():
            try:
                content = files.content(path)
            except OSError as e:
                raise files.damaged(path, e) from e
            lines = content.splitlines(keepends=True)
            self._check_own(lines, path)
            steps = [_step_of(line, path, number, self.run.id) for number, line in enumerate(lines, 1)]
            harmed = sum(at is None for at, line in zip(steps, lines, strict=True) if line.endswith(b"\n"))
            if harmed:
                checkpoint.write_atomic(path.with_name("metrics.jsonl.damaged"), content)
            remaining = [line for line, at in zip(lines, steps, strict=True) if at is not None and at <= step]
            checkpoint.write_atomic(path, b"".join(remaining))
        for segment in [s for name in ("views", "crops") for s in (self.path / name).glob("step-*.parquet")]:
            if _number(segment.stem) > step:
                segment.unlink()
        for file in (self.path / "snapshots").glob("*.npz"):
            if _number(file.stem) > step:
                file.unlink()
        return harmed

    def _check_own(self, lines: Sequence[bytes], path: Path) -> None:
        """Raise HardlabError for a log that names another run; damaged lines and names are skipped."""
        for number, line in enumerate(lines, 1):
            if b'"run"' not in line:
                continue
            with contextlib.suppress(files.DamagedFile):
                named = files.read_line(line, path, number).get("run", self.run.id)
                if _other_run(str(named), self.run.id):
                    raise HardlabError(
                        f"'{path}' is the log of the run {named}, not of {self.run.id}: put the right one back, or "
                        "remove it, and the run goes on with a new one."
                    )

    def seal(self) -> None:
        """Add the digest of the whole log to the manifest, with those of the other files."""
        with contextlib.suppress(OSError):
            self.sums["metrics.jsonl"] = files.seal(files.content(self.path / "metrics.jsonl"))
        self.update(files=self.sums)

    def _write(self, name: str, written: bytes) -> None:
        files.make_folder((self.path / name).parent)
        checkpoint.write_atomic(self.path / name, written)
        self.sums[name] = files.seal(written)
        if self.manifest:
            self.update(files=self.sums)

    def log_views(self, seen: Candidates, index: torch.Tensor, epoch: int, step: int, rows: int) -> None:
        """Keep every candidate of the first ``rows`` images of this step for the next segment, on their device.

        Generated images, which have no row in the data set and come last in a batch, are left out. A candidate of more
        than two views is logged as its first two, and one of a single view as a pair with itself.
        """
        rows = min(rows, len(seen.best))

        def kept(t: torch.Tensor) -> torch.Tensor:
            return t[:rows].detach().clone()  # a view would keep the whole tensor

        local = None if seen.local is None else kept(seen.local)
        few = Candidates(kept(seen.params), seen.pairs, kept(seen.loss), kept(seen.best), local)
        self._seen.append((few, kept(index), epoch, step))
        if len(self._seen) >= HELD:
            self._send_views()

    def _send_views(self) -> None:
        """Begin to copy the part of the view log on the device to the host, without waiting for it."""
        for seen, index, epoch, step in self._seen:
            params, pairs, loss, best, of_row = (
                t.to("cpu", non_blocking=True) for t in (seen.params, seen.pairs, seen.loss, seen.best, index)
            )
            local = None if seen.local is None else seen.local.to("cpu", non_blocking=True)
            self._sent.append((Candidates(params, pairs, loss, best, local), of_row, epoch, step))
        device = self._seen[0][1].device
        if device.type == "cuda":
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(device))
        self._seen = []

    def collect_views(self) -> None:
        """Copy the part of the view log on the device to the host, which synchronises."""
        if self._arrived is not None:
            self._arrived.synchronize()
        for seen, index, epoch, step in self._sent + self._seen:
            self._collect(seen, index, epoch, step)
        self._sent, self._seen, self._arrived = [], [], None

    def _collect(self, seen: Candidates, index: torch.Tensor, epoch: int, step: int) -> None:
        index = index.cpu()
        real = torch.nonzero(index >= 0)[:, 0]
        index = index[real]
        params, loss, best = (t.cpu()[real].float() for t in (seen.params, seen.loss, seen.best))
        pairs = seen.pairs.cpu()[:, [0, min(1, seen.pairs.shape[1] - 1)]]
        b, c = loss.shape
        columns: dict[str, Any] = {
            "epoch": np.full(b * c, epoch, np.int32),
            "step": np.full(b * c, step, np.int32),
            "index": index.repeat_interleave(c).numpy(),
            "candidate": torch.arange(c, dtype=torch.int16).repeat(b).numpy(),
            "a": pairs[:, 0].to(torch.int8).repeat(b).numpy(),
            "b": pairs[:, 1].to(torch.int8).repeat(b).numpy(),
            "loss": loss.reshape(-1).numpy(),
            "chosen": (torch.arange(c) == best[:, None]).reshape(-1).numpy(),
        }
        for side, name in ((0, "a"), (1, "b")):
            of_pair = params[:, pairs[:, side]].reshape(b * c, -1)  # (B*C,P)
            columns |= {f"{name}_{p}": of_pair[:, j].contiguous().numpy() for j, p in enumerate(PARAMS)}
        self._rows.append(_table(columns))
        if seen.local is not None:
            self._crops.append(_crops(seen, real, index, epoch, step))

    def snapshot(self, name: str, step: int, arrays: Mapping[str, torch.Tensor]) -> None:
        """Write the arrays of one part of the run to ``snapshots/<name>-<step>.npz``, atomically."""
        if not arrays:
            return
        sink = io.BytesIO()
        np.savez_compressed(sink, **{k: t.detach().cpu().numpy() for k, t in arrays.items()})  # type: ignore[arg-type]
        self._write(f"snapshots/{name}-{step:08d}.npz", sink.getvalue())

    def flush_views(self, step: int) -> None:
        """Write the kept candidates as one segment, atomically."""
        self.collect_views()
        for name, tables in (("views", self._rows), ("crops", self._crops)):
            if not tables:
                continue
            sink = pa.BufferOutputStream()
            pq.write_table(pa.concat_tables(tables), sink, compression="zstd", write_page_checksum=True)
            self._write(f"{name}/step-{step:08d}.parquet", sink.getvalue().to_pybytes())
        self._rows, self._crops = [], []


def _crops(seen: Candidates, real: torch.Tensor, index: torch.Tensor, epoch: int, step: int) -> pa.Table:
    """A row per small crop of each logged image: its parameters and the numbers of the candidates that contain it."""
    assert seen.local is not None
    params = seen.local.cpu()[real].float()  # (b,L,P)
    b, crops, _ = params.shape
    first, sets = seen.params.shape[1], seen.pairs.cpu()
    holders = [(sets == first + i).any(1).nonzero()[:, 0].tolist() for i in range(crops)]
    columns: dict[str, Any] = {
        "epoch": np.full(b * crops, epoch, np.int32),
        "step": np.full(b * crops, step, np.int32),
        "index": index.repeat_interleave(crops).numpy(),
        "slot": torch.arange(first, first + crops, dtype=torch.int16).repeat(b).numpy(),
        "candidates": pa.array(holders * b, pa.list_(pa.int16())),
    }
    flat = params.reshape(b * crops, -1)
    return _table(columns | {p: flat[:, j].contiguous().numpy() for j, p in enumerate(PARAMS)})


def _table(columns: Mapping[str, pa.Array | np.ndarray]) -> pa.Table:
    """A table of columns without missing values; pyarrow's own conversion would import pandas."""

    def column(x: pa.Array | np.ndarray) -> pa.Array:
        if isinstance(x, pa.Array):
            return x
        values = np.packbits(x, bitorder="little") if x.dtype == bool else np.ascontiguousarray(x)
        return pa.Array.from_buffers(pa.from_numpy_dtype(x.dtype), len(x), [None, pa.py_buffer(values)])

    return pa.table({name: column(x) for name, x in columns.items()})


def driver() -> str | None:
    """The version of the GPU's driver, or None if it is unknown."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.split("\n")[0].strip()


def _other_run(named: str, run: str) -> bool:
    """Whether a name is that of another run, and not this one's with a byte or two damaged: their hashes are apart."""
    return bool(files.RUN.fullmatch(named)) and sum(a != b for a, b in zip(named[-10:], run[-10:], strict=True)) > 2


def _step_of(line: bytes, path: Path, number: int, run: str) -> int | None:
    """The step of a line of the log of ``run``; None if it is damaged, or cut off like the last of a killed process."""
    try:
        (row,) = files.of_run([files.read_line(line, path, number)], run, path)
    except HardlabError:
        return None
    step: int = row["step"]
    return step if line.endswith(b"\n") else None


def _number(stem: str) -> int:
    """The step at the end of a segment's or snapshot's name; None for other files."""
    last = stem.rpartition("-")[2]
    return int(last) if last.isdecimal() else -1


def manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a run's folder, or None if there is none yet. Raises HardlabError for a damaged one."""
    file = path / "manifest.json"
    return files.read_manifest(file) if file.exists() else None


def metrics(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl``, all or those of one kind (``step``, ``epoch``).

    HardlabError for damaged lines, and for a log that is not that of the run as far as it, or the manifest, says so.
    """
    return [r for r in files.read_own_lines(path, "metrics.jsonl") if kind is None or r["kind"] == kind]


def image_names(path: Path, root: str | Path | None = None) -> Sequence[str]:
    """The name of each training image of a run, by ``index`` in its view log.

    root: the folder of the data sets. Raises HardlabError if the images are not on this machine, or have changed.
    """
    run, about = config.read_run(path)
    images = build.images(run, root=root)
    check_images(path.name, about["data"], images)
    return images.names


def open_run(path: Path, step: int | None = None) -> tuple[Run, Method, dict[str, Any]]:
    """Configuration, trained method and manifest of a run's folder; ``checkpoint`` in the manifest names the file.

    step: of the checkpoint; None = the newest intact one.
    """
    run, about = config.read_run(path)
    method = build.method(run)
    build.strategies(run, method)  # the state includes the strategies' changes of the network
    state = method.state_dict()  # banks sized by the data are training state, which only on_start makes

    def load(saved: dict[str, Any]) -> None:
        method.load_state_dict({k: v for k, v in saved["method"].items() if k in state})

    file = restored(path, about, step, load)
    return run, method, about | {"checkpoint": file.name}


def open_whole(
    path: Path, step: int | None = None, root: str | Path | None = None
) -> tuple[Run, Method, list[Hard], Images]:
    """As ``open_run``, with the whole state of training: the method's banks and the strategies' networks too.

    root: the folder of the data sets. Returns configuration, method, strategies, training images.
    """
    run, about = config.read_run(path)
    images = build.images(run, root=root)
    check_images(path.name, about["data"], images)
    method = build.method(run)
    hard = build.strategies(run, method)
    method.on_start(images, run.batch_size)

    def load(saved: dict[str, Any]) -> None:
        method.load_state_dict(saved["method"])
        for h, state in zip(hard, saved["hard"], strict=True):
            h.on_start(images, run.batch_size)
            h.load_state_dict(state)

    restored(path, about, step, load)
    return run, method, hard, images


def restored(path: Path, about: Mapping[str, Any], step: int | None, load: Callable[[dict[str, Any]], None]) -> Path:
    """The path of the checkpoint that ``load`` restored. step: None = the newest intact one."""

    def own(saved: dict[str, Any]) -> None:
        if saved.get("config_hash", about.get("config_hash")) != about.get("config_hash"):
            raise HardlabError("it belongs to another run.")
        load(saved)

    if step is None:
        state = checkpoint.newest(path / "checkpoints", own)
        if state is None:
            raise HardlabError(f"{path} has no checkpoint yet; its state is '{about['state']}'.")
        if about["state"] == "done" and state[2]:
            raise HardlabError(f"{state[2][0]} An older checkpoint cannot stand in for it: train the run again.")
        return state[1]
    checkpoints = {checkpoint.named(p)[0]: p for p in checkpoint.listed(path / "checkpoints")}
    checkpoint.check_step(path, step)
    checkpoint.take(checkpoints[step], own)
    return checkpoints[step]
