"""Harder negatives: HCL (arXiv 2010.04592), MoCHi (2010.01028) and SynCo (2410.02401)."""

from __future__ import annotations

from typing import Any

from hardlab.config import Run
from hardlab.recipes.bases import moco, simclr
from hardlab.recipes.common import Recipe


def simclr_hcl(rung: str) -> Run:
    """simclr-hcl: near negatives count more, and the share of false ones is taken off.

    The authors' beta 1.0 and tau 0.1, the best of their README, are of STL-10's ten classes; ImageNet has a thousand.
    """
    options = {"tau": 0.001} if rung == "paper" else {}
    return simclr(rung).with_({"recipe": "simclr-hcl", "hard": [{"name": "hcl", "options": options}]})


def _made(name: str, base: str, doc: str, small: dict[str, Any]) -> Recipe:
    """MoCo with synthetic negatives; up to rung cpu a share of the paper's numbers, as the queue is smaller too."""

    def recipe(rung: str) -> Run:
        options = small if rung in ("smoke", "cpu") else {}
        return moco(rung).with_({"recipe": base, "hard": [{"name": name, "options": options}]})

    recipe.__doc__ = f"{base}: {doc}"
    return recipe


RECIPES: dict[str, Recipe] = {
    "simclr-hcl": simclr_hcl,
    "moco-mochi": _made(
        "mochi",
        "moco-mochi",
        "negatives mixed from the nearest ones. paper: MoCHi (1024, 1024, 128) at 200 epochs.",
        {"hard": 64, "pairs": 64, "queries": 8, "warmup_epochs": 1},
    ),
    "moco-synco": _made(
        "synco",
        "moco-synco",
        "six kinds of synthetic negatives. paper: 67.9 linear top-1 at 200 epochs, 68.1 in v1 and the authors' README.",
        {"hard": 64, "interpolated": 16, "extrapolated": 16, "mixed": 16, "noised": 4, "perturbed": 4,
         "adversarial": 4, "warmup_epochs": 1},
    ),
}  # fmt: skip
