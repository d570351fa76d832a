"""Hard View Selection (arXiv 2310.03940) on its base methods, and its ablations."""

from __future__ import annotations

from typing import Any

from hardlab.config import Run
from hardlab.recipes.bases import simclr, simsiam
from hardlab.recipes.common import Recipe, with_hard
from hardlab.recipes.dino import dino, dino_multicrop, dino_resnet50
from hardlab.recipes.ibot import ibot


def _hvs(base: Recipe, name: str, **options: Any) -> Recipe:
    n = options.get("draws", 4)
    settings = "".join(f", {key}={value}" for key, value in options.items() if key != "draws")
    pairs = f"{n * (n - 1) // 2} pairs" if n > 2 else "1 pair: the base method, with the cost of a selection"
    doc = f"Hard View Selection on {base.__name__}, N = {n} views, {pairs}{settings} (HVS, Sec. 3.2, Eq. 2)."
    return with_hard(base, name, doc, {"name": "hvs", "options": options})


def _dino_hvs(base: Recipe, name: str, accuracy: str) -> Recipe:
    def recipe(rung: str) -> Run:
        run = base(rung)
        options = {"local_draws": 2 * run.local.count} if run.local else {}
        return run.with_({"recipe": name, "hard": [{"name": "hvs", "options": options}]})

    recipe.__doc__ = f"""{name}: crop sets of 4 large views and twice the small crops, at most 128. paper: {accuracy}.

    HVS, Sec. 4 and Table 1; the numbers of views are those of the code's example, the paper gives none.
    """
    return recipe


RECIPES: dict[str, Recipe] = {
    "simsiam-hvs": _hvs(simsiam, "simsiam-hvs"),
    "simsiam-hvs-static": _hvs(simsiam, "simsiam-hvs-static", colour="static"),
    "simsiam-hvs-easy": _hvs(simsiam, "simsiam-hvs-easy", pick="easiest"),
    "simsiam-hvs-2": _hvs(simsiam, "simsiam-hvs-2", draws=2),
    "simsiam-hvs-8": _hvs(simsiam, "simsiam-hvs-8", draws=8),
    "simclr-hvs": _hvs(simclr, "simclr-hvs"),
    "dino-hvs": _dino_hvs(dino, "dino-hvs", "74.67 linear top-1"),
    "dino-resnet50-hvs": _dino_hvs(dino_resnet50, "dino-resnet50-hvs", "72.87 linear top-1"),
    "ibot-hvs": _dino_hvs(ibot, "ibot-hvs", "HVP, about 1 point more than iBOT (abstract)"),
    "dino-multicrop-hvs": _dino_hvs(dino_multicrop, "dino-multicrop-hvs", "as dino-hvs"),
}
