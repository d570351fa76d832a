"""Checkpoints: written atomically, named after the digest of their bytes, and free of pickled code."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hardlab.errors import HardlabError
from hardlab.files import content as read
from hardlab.files import make_folder
from hardlab.files import write_atomic as write_atomic  # as run_folder, benchmarks and tests know it

_NAME = re.compile(r"step-(\d{8})-([0-9a-f]{16})\.pt")


class Refused(HardlabError):
    """An intact checkpoint that must not be used; earlier checkpoints must not be used either."""


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write the state of ``step`` and delete all but the newest ``keep`` checkpoints; returns the new path."""
    import torch  # here alone: a command that lists checkpoints answers at once

    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    make_folder(folder)
    path = folder / f"step-{step:08d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    write_atomic(path, content)
    for old in listed(folder)[keep:]:
        old.unlink()
    return path


def listed(folder: Path) -> list[Path]:
    """Checkpoints by step, newest first."""
    return sorted((p for p in folder.glob("step-*.pt") if _NAME.fullmatch(p.name)), reverse=True)


def named(path: Path) -> tuple[int, str]:
    """The step and the digest (16 hex digits) in the name of a checkpoint."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), match[2]


def check_step(run: Path, step: int) -> None:
    """Refuse a step of which a run's folder has no checkpoint. Raises HardlabError."""
    steps = sorted(named(p)[0] for p in listed(run / "checkpoints"))
    if step not in steps:
        raise HardlabError(f"{run} has no checkpoint of step {step}; it has: {', '.join(map(str, steps)) or 'none'}.")


def load(path: Path) -> dict[str, Any]:
    """Load a checkpoint of tensors and plain values. Raises HardlabError if its bytes do not match its name."""
    import torch

    match = _NAME.fullmatch(path.name)
    try:
        content = read(path)
    except OSError as e:
        raise HardlabError(f"{path} cannot be read ({e.strerror}).") from e
    if match is None or hashlib.sha256(content).hexdigest()[:16] != match[2]:
        raise HardlabError(f"{path} is damaged: its bytes do not match the digest in its name.")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as e:  # bytes that torch did not write make it raise nearly anything, with advice to trust them
        raise HardlabError(f"{path} is damaged: it is not a checkpoint ({type(e).__name__}).") from e
    if not isinstance(state, dict):
        raise HardlabError(f"{path} is damaged: it holds {type(state).__name__}, not the state of a run.")
    return state


def newest(
    folder: Path, accept: Callable[[dict[str, Any]], None] = lambda state: None
) -> tuple[dict[str, Any], Path, list[str]] | None:
    """The newest intact checkpoint, its path, and a complaint for each newer, damaged one; None if there is none.

    accept: restores a state. A checkpoint for which it raises counts as damaged, except that ``Refused`` is passed on.
    Raises HardlabError if all checkpoints are damaged.
    """
    complaints: list[str] = []
    for path in listed(folder):
        try:
            return take(path, accept), path, complaints
        except Refused:
            raise
        except HardlabError as e:
            complaints.append(str(e))
    if complaints:
        raise HardlabError(" ".join(complaints) + " No intact checkpoint is left.")
    return None


def take(path: Path, accept: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Load the checkpoint at ``path`` and restore it by ``accept``; HardlabError, which names it, if either fails."""
    state = load(path)
    try:
        if "step" in state and state["step"] != named(path)[0]:
            raise ValueError(f"its step is {str(state['step'])[:20]}")
        accept(state)
    except Refused:
        raise
    except HardlabError as e:
        raise HardlabError(f"{path}: {e}") from e
    except Exception as e:  # a state of another version, or made up, lacks or mistakes nearly anything
        lines = str(e).strip().splitlines()
        why = type(e).__name__ + (f": {lines[0].rstrip('.:')}" if lines else "")
        raise HardlabError(
            f"{path} does not fit this run: it is damaged, or was written by another version of hardlab ({why})."
        ) from e
    return state
