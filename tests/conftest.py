"""What every test runs under: few threads, fixed seeds, no network, data and caches in a folder of their own."""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Before torch is loaded, and inherited by every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MPLBACKEND"] = "Agg"
os.environ["HARDLAB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, with the reason in pytest's summary."""
    skips = {}
    if not torch.cuda.is_available():
        skips["gpu"] = pytest.mark.skip(reason="no CUDA device")
    if "HARDLAB_TEST_DATA" not in os.environ:
        skips["data"] = pytest.mark.skip(reason="HARDLAB_TEST_DATA names no data root with the real data sets")
    for mark, needs in (("browser", "the Chromium that is installed"), ("cluster", "the Slurm that is installed")):
        if mark not in config.getoption("markexpr"):
            skips[mark] = pytest.mark.skip(reason=f"`make test-{mark}` runs it, with {needs}")
    for item in items:
        for name in skips.keys() & {mark.name for mark in item.iter_markers()}:  # keywords have the folders' names too
            item.add_marker(skips[name])


def pytest_collection_finish() -> None:
    """Look rarely for garbage, and never among the modules and tests that are there: an eighth of the time of all."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def pytest_unconfigure() -> None:
    """Let libraries of bindings find nothing left at exit, which they would print behind the summary."""
    gc.unfreeze()
    gc.collect()


@pytest.fixture(scope="session", autouse=True)
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data root of the whole session: empty at first, shared by all tests, so that each set is made once.

    The workers of one session share it: files are written whole.
    """
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "data"
    root.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARDLAB_DATA", str(root))
        yield root


@pytest.fixture(autouse=True)
def seeds() -> None:
    """The same random numbers for a test, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  libraries that tests compare against draw from the global state
    torch.manual_seed(0)


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Say that so many cases of a row were run, e.g. ``count("13 collapse", 5)``."""
    return lambda row, n=1: record_property(f"faults:{row}", n)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers goes with it, and so do the modules of its files ``*_code.py``."""
    from hardlab import registry

    tables = (registry.METHODS, registry.HARD)
    before = [dict(table) for table in tables]
    monkeypatch.setattr(registry, "_registered", {})
    yield
    for name in [n for n in sys.modules if n.endswith("_code")]:
        del sys.modules[name]
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)
