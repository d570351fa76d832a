"""Recipes: a function per published experiment, which makes its ``Run`` at each of four rungs.

smoke: built-in shapes, a tiny network, seconds. cpu: a 10 % subset of CIFAR-10, the tiny network, minutes on 2 cores.
gpu: CIFAR-10, ResNet-18, the public CIFAR schedule. paper: ImageNet, ResNet-50, the published schedule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from hardlab import registry
from hardlab.config import Run
from hardlab.recipes import (
    adco,
    bases,
    deepcluster,
    dino,
    hexa,
    hnssl,
    hvs,
    ibot,
    iou,
    negatives,
    ppcl,
    sas,
    stn,
)
from hardlab.recipes.common import RUNGS, Recipe, plain, with_more

__all__ = ["RECIPES", "RUNGS", "recipe"]

RECIPES: dict[str, Recipe] = {
    **adco.RECIPES,
    **bases.RECIPES,
    **deepcluster.RECIPES,
    **dino.RECIPES,
    **hexa.RECIPES,
    **hnssl.RECIPES,
    **hvs.RECIPES,
    **ibot.RECIPES,
    **iou.RECIPES,
    **negatives.RECIPES,
    **ppcl.RECIPES,
    **sas.RECIPES,
    **stn.RECIPES,
}


def recipe(name: str, rung: str = "smoke", overrides: Mapping[str, Any] | None = None) -> Run:
    """The run of a recipe at a rung, with dotted overrides, e.g. ``recipe("simsiam-hvs", "cpu", {"seed": 1})``.

    A method without a recipe gets a default one, and ``<recipe>-<strategy>`` adds a strategy, as in ``vicreg-hvs``.
    ``hvp``, as the later edition of HVS calls it, is an alias of ``hvs``: ``simsiam-hvp`` is ``simsiam-hvs``. Raises
    HardlabError for unknown names.
    """
    made = _lookup(name) or _lookup(re.sub(r"-hvp(?=-|$)", "-hvs", name))
    if made is None:
        raise registry.unknown("recipe", name, RECIPES)
    if rung not in RUNGS:
        raise registry.unknown("rung", rung, RUNGS)
    run = _made(made, rung) if name in RECIPES else made(rung)
    return run.with_(overrides) if overrides else run


@cache
def _made(made: Recipe, rung: str) -> Run:
    """A recipe of the package at a rung; that of an outside method is made at each call."""
    return made(rung)


def _lookup(name: str) -> Recipe | None:
    if name in RECIPES:
        return RECIPES[name]
    if name in registry.METHODS:
        return plain(name)
    for strategy in registry.HARD:
        base = name.removesuffix(f"-{strategy}")
        first = _lookup(base) if base != name else None
        if first is not None:
            return with_more(first, name, strategy)
    return None
