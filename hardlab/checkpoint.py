"""Checkpoints: written whole or not at all, with the digest of their bytes in the name, never pickled code."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import torch

from hardlab.errors import HardlabError
from hardlab.files import write_atomic as write_atomic  # as runs, benchmarks and tests know it

_NAME = re.compile(r"step-(\d{8})-([0-9a-f]{16})\.pt")


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write the state of ``step`` and drop all but the newest ``keep`` checkpoints; returns the new path."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    write_atomic(path, content)
    for old in found(folder)[keep:]:
        old.unlink()
    return path


def found(folder: Path) -> list[Path]:
    """Checkpoints by step, newest first."""
    return sorted((p for p in folder.glob("step-*.pt") if _NAME.fullmatch(p.name)), reverse=True)


def named(path: Path) -> tuple[int, str]:
    """The step and the digest (16 hex digits) that the name of a checkpoint tells."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), match[2]


def load(path: Path) -> dict[str, Any]:
    """A checkpoint whose bytes match its name, tensors and plain values only."""
    match = _NAME.fullmatch(path.name)
    content = path.read_bytes()
    if match is None or hashlib.sha256(content).hexdigest()[:16] != match[2]:
        raise HardlabError(f"{path} is damaged: its bytes do not match the digest in its name.")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def newest(folder: Path) -> tuple[dict[str, Any], Path, list[str]] | None:
    """The newest whole checkpoint, its path, and a complaint for each damaged one before it; None if there is none."""
    complaints: list[str] = []
    for path in found(folder):
        try:
            return load(path), path, complaints
        except HardlabError as e:
            complaints.append(str(e))
    if complaints:
        raise HardlabError(" ".join(complaints) + " No whole checkpoint is left.")
    return None
