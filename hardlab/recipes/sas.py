"""SAS (arXiv 2302.09195): training on the images that are most alike, its opposite, and a random share."""

from __future__ import annotations

from typing import Any

from hardlab.config import Run
from hardlab.recipes.bases import simclr
from hardlab.recipes.common import Recipe


def _arm(name: str, doc: str, **options: Any) -> Recipe:
    """SimCLR on half of the images, chosen by a SimCLR of the same rung that saw all of them."""

    def recipe(rung: str) -> Run:
        classes = {"paper": 1000, "smoke": 8}.get(rung, 10)
        strategy = {"name": "sas", "options": {"classes": classes} | options}
        base = simclr(rung)
        return base.with_({"recipe": name, "hard": [strategy], "parent": base.model_dump(mode="json")})

    recipe.__doc__ = f"{name}: {doc}"
    return recipe


RECIPES: dict[str, Recipe] = {
    "simclr-sas": _arm("simclr-sas", "the half of the images that is most like the rest of its class."),
    "simclr-sas-unlike": _arm("simclr-sas-unlike", "the half that is least like the rest.", pick="unlike"),
    "simclr-sas-random": _arm("simclr-sas-random", "any half of each class, the control of SAS.", pick="random"),
}
