"""Every test here counts the cases that it ran; the counts, and the tests of each row, are printed at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from rows import ROWS

LONG = os.environ.get("HARDLAB_FAULTS") == "long"


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may enter; those of pytest are its user's alone."""
    folder = Path(tempfile.mkdtemp(prefix="hardlab-"))
    folder.chmod(0o755)
    yield folder
    for at, _, _ in os.walk(folder):
        os.chmod(at, 0o755)
    shutil.rmtree(folder)


@pytest.fixture
def cases() -> Callable[[int, int], int]:
    """How many cases to run: the first number in `make test`, the second in `make test-faults`."""
    return lambda short, long: long if LONG else short


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    total: Counter[str] = Counter()
    reports: Sequence[pytest.TestReport] = terminalreporter.stats.get("passed", [])
    for report in reports:
        for key, n in getattr(report, "user_properties", []):
            if key.startswith("faults:"):
                total[f"row {key.removeprefix('faults:')}"] += n
            elif key == "cases":
                total[report.nodeid.rpartition("::")[2].partition("[")[0]] += n
    passed = Counter(report.nodeid.partition("[")[0].removeprefix("tests/") for report in reports)
    for row, (_, tests) in ROWS.items():
        if n := sum(passed[test] for test in tests):
            total[f"row {row}, its tests that passed"] = n
    if total:
        terminalreporter.section(f"cases of faults ({'long' if LONG else 'short'})")
        for what, n in sorted(total.items(), key=lambda item: (_number(item[0]), item[0])):
            terminalreporter.line(f"{what}: {n}")


def _number(what: str) -> int:
    return int(next((word for word in what.split() if word.isdigit()), 99))
