"""What a command that lists or refuses takes, from the shell's call to its answer."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LIMIT = 1.5  # seconds, on two cores of an EPYC with AVX2
COMMANDS = (
    "--help",
    "pretrain --list",
    "pretrain simsiam optim.lr=-1",
    "pretrain simsiam-hvs hard.hvs.viwes=3",
    "evaluate --list",
    "nb list",
    "nb run 01_pretrain recipe=simsaim",
    "figures --list",
    "claims",
    "reproduce bad=1",
)


def run() -> list[dict[str, Any]]:
    """A row a command: the best of three, in seconds of the clock."""
    return [_row(command, min(_seconds(command) for _ in range(3))) for command in COMMANDS]


def _row(command: str, seconds: float) -> dict[str, Any]:
    name = f"hardlab {command}, s"
    return {"name": name, "value": seconds, "target": LIMIT, "ok": seconds <= LIMIT, "peer": None}


def _seconds(command: str) -> float:
    program = Path(sys.executable).with_name("hardlab")
    started = time.perf_counter()
    subprocess.run([program, *command.split()], capture_output=True, check=False)
    return time.perf_counter() - started
