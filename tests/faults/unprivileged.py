"""Commands as another user, who may read everything and write nothing that is not theirs, and without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

import pytest

_USER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
_READS = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # a root's installation, too


def _works(*words: str) -> bool:
    try:
        return subprocess.run(words, capture_output=True, cwd="/", check=False).returncode == 0
    except OSError:
        return False


@cache
def prefix() -> tuple[str, ...]:
    """Words in front of a command that make it another user's; none where this user has no rights already."""
    if os.geteuid() != 0:
        return ()
    look = (sys.executable, "-c", "import torch")
    for words in ([*_USER, *_READS], _USER):
        if _works(*words, *look):
            return tuple(words)
    pytest.skip("root cannot become another user here who can read the installation")


@cache
def offline() -> tuple[str, ...]:
    """Words that take the network from a command, where the kernel lets us."""
    return ("unshare", "--net") if _works("unshare", "--net", "true") else ()
