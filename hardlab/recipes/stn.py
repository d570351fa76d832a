"""The spatial-transformer adversaries of HVS (arXiv 2310.03940), App. E, Table 5: DINO on CIFAR-10."""

from __future__ import annotations

from typing import Any

from hardlab.config import Run
from hardlab.recipes.common import Recipe, with_hard
from hardlab.recipes.dino import ADAMW, dino

# mode -> linear and finetuning top-1
TABLE_5 = {
    "translation-scale-sym": "83.7 and 90.3",
    "translation-scale": "82.8 and 89.7",
    "rotation-translation": "56.7 linear",
    "rotation-translation-scale": "31.7 linear",
    "rotation-translation-scale-sym": "77.6 linear",
    "affine": "78.3 and 83.5",
}


def baseline(rung: str) -> Run:
    """DINO with random crops. gpu and paper: ViT-Ti, CIFAR-10; HVS, Table 5: 86.1 linear, 92.7 finetuned."""
    return dino(rung).with_({"recipe": "stn-baseline"} | (_VIT if rung in ("gpu", "paper") else {}))


# App. E; the patch and the crops' sizes are those of the authors' scripts
_VIT: dict[str, Any] = {
    "data": {"name": "cifar10"},
    "backbone": {"name": "vit_tiny", "options": {"patch": 4, "size": 32, "drop_path": 0.1}},
    "augment": {"name": "dino_global", "options": {"size": 32}},
    "local": {"name": "dino_local", "count": 8, "options": {"size": 16}},
    "method": "dino",
    "optim": ADAMW,
    "epochs": 300,
    "batch_size": 256,
}
# the whole of Localiser costs as much as the tiny network of these rungs
_TINY = {"width": 8, "hidden": 32, "input_size": 16}


def _adversary(mode: str, published: str) -> Recipe:
    name, doc = f"stn-{mode}", f"a spatial transformer against DINO, penalty TCP. paper: HVS, Table 5, {published}."

    def recipe(rung: str) -> Run:
        options = {"mode": mode} | (_TINY if rung in ("smoke", "cpu") else {})
        return with_hard(baseline, name, doc, {"name": "stn", "options": options})(rung)

    recipe.__doc__ = f"{name}: {doc}"
    return recipe


RECIPES: dict[str, Recipe] = {
    "stn-baseline": baseline,
    **{f"stn-{mode}": _adversary(mode, published) for mode, published in TABLE_5.items()},
}
