"""Records what the package fanova finds on two problems, so that a machine without it tests the same agreement.

Run ``python -m benchmarks.record_fanova`` where the extra `fanova` is installed; its licence allows academic and other
non-commercial use only.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hardlab.analysis import importance

FILE = Path(__file__).resolve().parents[1] / "tests" / "analysis" / "fanova_recorded.json"
SETTINGS: dict[str, Any] = {"max_features": 1.0, "trees": 8, "pairs": True}
PROBLEMS = {"two numbers": (2, 2), "three numbers, grown to the end": (3, 1)}  # numbers, fewest rows in a leaf


def problem(numbers: int, rows: int = 300) -> tuple[pd.DataFrame, np.ndarray]:
    """Uniform numbers and a function of them with an interaction of the first two; (N,numbers), (N,)."""
    x = np.random.default_rng(numbers).random((rows, numbers))
    c = x - 0.5
    y = 2 * c[:, 0] + c[:, 1] + 6 * c[:, 0] * c[:, 1] + (numbers > 2) * np.sin(5 * c[:, -1])
    return pd.DataFrame(x, columns=list("abc")[:numbers]), y


def shares(name: str, backend: importance.Backend) -> pd.DataFrame:
    """A row per effect of a problem, with the interval over the trees of a backend."""
    numbers, leaf = PROBLEMS[name]
    return importance.importance(*problem(numbers), backend=backend, leaf=leaf, **SETTINGS)


def main() -> None:
    columns = ["effect", "order", "share", "lo", "hi", "n"]
    recorded = {name: shares(name, "fanova")[columns].to_dict("records") for name in PROBLEMS}
    versions = {package: version(package) for package in ("fanova", "pyrfr")}
    FILE.write_text(json.dumps({"versions": versions, "shares": recorded}, indent=1) + "\n", encoding="utf-8")
    print(FILE)


if __name__ == "__main__":
    main()
