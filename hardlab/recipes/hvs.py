"""Hard View Selection (arXiv 2310.03940) on its base methods, and its ablations."""

from __future__ import annotations

from typing import Any

from hardlab.recipes.bases import simclr, simsiam
from hardlab.recipes.common import Recipe, with_hard


def _hvs(base: Recipe, name: str, **options: Any) -> Recipe:
    doc = f"Hard View Selection on {base.__name__}, N = 4 views, 6 pairs (HVS, Sec. 3.2, Eq. 2)."
    return with_hard(base, name, doc, {"name": "hvs", "options": options})


RECIPES: dict[str, Recipe] = {
    "simsiam-hvs": _hvs(simsiam, "simsiam-hvs"),
    "simsiam-hvs-static": _hvs(simsiam, "simsiam-hvs-static", colour="static"),
    "simsiam-hvs-easy": _hvs(simsiam, "simsiam-hvs-easy", pick="easiest"),
    "simclr-hvs": _hvs(simclr, "simclr-hvs"),
}
