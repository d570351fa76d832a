"""Processes of tests: which live, and where."""

from __future__ import annotations

import time
from pathlib import Path

import psutil


def wait_for(path: Path) -> None:
    until = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.05)


def living() -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["status"]) if p.info["status"] != psutil.STATUS_ZOMBIE]  # none vanishes


def cwd(p: psutil.Process) -> str | None:
    try:
        return p.cwd()
    except psutil.Error:
        return None
