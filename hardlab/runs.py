"""A run's folder: manifest, metrics, view log, lock. The only writer of ``runs/<id>/``."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import importlib.metadata
import io
import json
import os
import platform
import resource
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hardlab import build, checkpoint, config, machine
from hardlab.config import Run
from hardlab.data import Images
from hardlab.hard.base import Hard
from hardlab.methods.base import Method
from hardlab.types import Candidates, HardlabError
from hardlab.views import PARAMS

_PACKAGES = ("hardlab", "torch", "torchvision", "numpy", "pyarrow", "pydantic")


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def commit() -> tuple[str, bool]:
    """(hex id, whether the tree is dirty) of the checkout that hardlab runs from; ("unknown", False) outside one."""
    at = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=at, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # only what can change a result counts: the package itself
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", "."))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", False


def peak_memory_mb(device: torch.device) -> float:
    """Peak of the device's memory on a GPU, of the process's resident memory elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


class Folder:
    """``runs/<id>/`` opened for training: locked, so that two runs never mix their files.

    wait: called again and again while another process trains in it; without it that is a HardlabError.
    """

    def __init__(self, runs_dir: Path, run: Run, wait: Callable[[], None] | None = None) -> None:
        self.run, self.path = run, runs_dir / run.id
        while not self._locked():
            if wait is None:
                raise HardlabError(f"Another process trains in {self.path}; wait for it or stop it.")
            wait()
        self.checkpoints = self.path / "checkpoints"
        self.manifest: dict[str, Any] = manifest(self.path) or {}
        self._rows: list[pa.Table] = []
        self._crops: list[pa.Table] = []

    def _locked(self) -> bool:
        """Whether this process has the lock now; False where another one has it."""
        while True:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._lock = open(self.path / "lock", "a")  # noqa: SIM115  held as long as the process trains
            except OSError as e:
                raise HardlabError(
                    f"{self.path} cannot be written ({e.strerror}); name another folder for runs."
                ) from e
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._lock.close()
                return False
            except OSError as e:
                self._lock.close()
                raise HardlabError(f"{self.path} cannot be locked ({e.strerror}); name another folder for runs.") from e
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self._lock.name).st_ino == os.fstat(self._lock.fileno()).st_ino:
                    return True
            self._lock.close()  # of a folder that was removed before it was locked

    def close(self) -> None:
        if not self.manifest:  # refused before it began: nothing stays behind
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
        """Write the manifest of a run that starts or goes on."""
        head, dirty = commit()
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
            "world_size": 1,
            "seed": self.run.seed,
            "data": data,
            "parameters": parameters,
            "started": self.manifest.get("started", now()),
            "ended": None,
            "state": "running",
            "parent": parent,
            "error": None,
            "health": [],
        }
        self.update()

    def update(self, **fields: Any) -> None:
        self.manifest |= fields
        checkpoint.write_atomic(self.path / "manifest.json", (json.dumps(self.manifest, indent=1) + "\n").encode())

    def metric(self, row: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        try:
            with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as f:
                f.write(json.dumps(row) + "\n")
        except OSError as e:
            raise HardlabError(f"{self.path / 'metrics.jsonl'} could not be written ({e.strerror}).") from e

    def rewind(self, step: int) -> None:
        """Forget everything that was logged after ``step``, so that a resumed run logs it once."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines(keepends=True) if _step_of(line) <= step]
            checkpoint.write_atomic(path, "".join(kept).encode())
        for segment in [s for name in ("views", "crops") for s in (self.path / name).glob("step-*.parquet")]:
            if int(segment.stem.removeprefix("step-")) > step:
                segment.unlink()
        for file in (self.path / "snapshots").glob("*.npz"):
            if int(file.stem.rpartition("-")[2]) > step:
                file.unlink()

    def log_views(self, seen: Candidates, index: torch.Tensor, epoch: int, step: int, rows: int) -> None:
        """Keep every candidate of the first ``rows`` images of this step for the next segment.

        Rows without a place in the data set (generated images) are left out; a candidate of more than two views is
        kept under its first two, and one of a single view as a pair with itself.
        """
        real = torch.nonzero(index[: len(seen.best)] >= 0)[:rows, 0]
        params, loss, best = (t[real].detach().float().cpu() for t in (seen.params, seen.loss, seen.best))
        pairs, index = seen.pairs.cpu()[:, [0, min(1, seen.pairs.shape[1] - 1)]], index[real].cpu()
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
        """Keep the arrays of one part of the run as ``snapshots/<name>-<step>.npz``, whole or not at all."""
        if not arrays:
            return
        sink = io.BytesIO()
        np.savez_compressed(sink, **{k: t.detach().cpu().numpy() for k, t in arrays.items()})  # type: ignore[arg-type]
        (self.path / "snapshots").mkdir(exist_ok=True)
        checkpoint.write_atomic(self.path / "snapshots" / f"{name}-{step:08d}.npz", sink.getvalue())

    def flush_views(self, step: int) -> None:
        """Write what was kept as one segment, whole or not at all."""
        for name, tables in (("views", self._rows), ("crops", self._crops)):
            if not tables:
                continue
            sink = pa.BufferOutputStream()
            pq.write_table(pa.concat_tables(tables), sink, compression="zstd")
            folder = self.path / name
            folder.mkdir(exist_ok=True)
            checkpoint.write_atomic(folder / f"step-{step:08d}.parquet", sink.getvalue().to_pybytes())
        self._rows, self._crops = [], []


def _crops(seen: Candidates, real: torch.Tensor, index: torch.Tensor, epoch: int, step: int) -> pa.Table:
    """A row per small crop of each logged image: its parameters, and the numbers of the candidates that hold it."""
    assert seen.local is not None
    params = seen.local[real].detach().float().cpu()  # (b,L,P)
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
    """A table of columns without gaps; pyarrow's own conversions would import pandas for it."""

    def column(x: pa.Array | np.ndarray) -> pa.Array:
        if isinstance(x, pa.Array):
            return x
        values = np.packbits(x, bitorder="little") if x.dtype == bool else np.ascontiguousarray(x)
        return pa.Array.from_buffers(pa.from_numpy_dtype(x.dtype), len(x), [None, pa.py_buffer(values)])

    return pa.table({name: column(x) for name, x in columns.items()})


def driver() -> str | None:
    """The version of the GPU's driver, or None where it cannot be asked."""
    try:
        told = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.split("\n")[0].strip()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # the last line of a killed process
        return float("inf")


def manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a run's folder, or None where there is none yet."""
    file = path / "manifest.json"
    return json.loads(file.read_text()) if file.exists() else None


def metrics(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl``, all or of one kind (``step``, ``epoch``)."""
    file = path / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [r for r in rows if kind is None or r["kind"] == kind]


def open_run(path: Path, step: int | None = None) -> tuple[Run, Method, dict[str, Any]]:
    """Configuration, trained method and manifest of a run's folder; the manifest with ``checkpoint``, the file's name.

    step: of the checkpoint; None = the newest whole one.
    """
    about = _told(path)
    run = config.make(about["config"])
    saved, file = _saved(path, about, step)
    method = build.method(run)
    build.strategies(run, method)  # what a strategy changed in the network is part of its state
    known = method.state_dict()  # banks sized by the data are training state, made in on_start alone
    method.load_state_dict({k: v for k, v in saved["method"].items() if k in known})
    return run, method, about | {"checkpoint": file.name}


def open_whole(
    path: Path, step: int | None = None, root: str | Path | None = None
) -> tuple[Run, Method, list[Hard], Images]:
    """As ``open_run``, with all that training had: the images, the method's banks of them, the strategies' own parts.

    root: where the data sets lie. Returns configuration, method, strategies, training images.
    """
    about = _told(path)
    run, (saved, _) = config.make(about["config"]), _saved(path, about, step)
    images = build.images(run, root=root)
    method = build.method(run)
    hard = build.strategies(run, method)
    method.on_start(images, run.batch_size)
    try:
        method.load_state_dict(saved["method"])
        for h, state in zip(hard, saved["hard"], strict=True):
            h.on_start(images, run.batch_size, None)
            h.load_state_dict(state)
    except (RuntimeError, ValueError) as e:  # other tensors, or another number of strategies
        raise HardlabError(f"The checkpoint of {path} was written by another version of hardlab: {e}") from e
    return run, method, hard, images


def _told(path: Path) -> dict[str, Any]:
    about = manifest(path)
    if about is None:
        raise HardlabError(f"{path} is no run: it has no manifest.json.")
    return about


def _saved(path: Path, about: Mapping[str, Any], step: int | None) -> tuple[dict[str, Any], Path]:
    """What a checkpoint holds, and its file; step: None = the newest whole one."""
    if step is None:
        state = checkpoint.newest(path / "checkpoints")
        if state is None:
            raise HardlabError(f"{path} has no checkpoint yet; its state is '{about['state']}'.")
        if about["state"] == "done" and state[2]:
            raise HardlabError(f"{state[2][0]} An older checkpoint is no substitute: train the run again.")
        return state[0], state[1]
    kept = {checkpoint.named(p)[0]: p for p in checkpoint.found(path / "checkpoints")}
    if step not in kept:
        there = ", ".join(map(str, sorted(kept))) or "none"
        raise HardlabError(f"{path} has no checkpoint of step {step}; those that it kept: {there}.")
    return checkpoint.load(kept[step]), kept[step]
