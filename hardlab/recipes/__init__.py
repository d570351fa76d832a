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
from hardlab.config import Run, flat
from hardlab.errors import HardlabError
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

    A method without a recipe gets a default one, and ``<recipe>-<strategy>`` adds a strategy, as in ``vicreg-hvs``;
    if a recipe with these settings exists, it is that one (``name_of``).
    ``hvp``, as the later edition of HVS calls it, is an alias of ``hvs``: ``simsiam-hvp`` is ``simsiam-hvs``. Raises
    HardlabError for unknown names.
    """
    make = _lookup(name) or _lookup(re.sub(r"-hvp(?=-|$)", "-hvs", name))
    if make is None:
        raise HardlabError(
            f"{registry.unknown('recipe', name, RECIPES)} Load a method or strategy of your own first: --code FILE, or "
            "hardlab.load_code(FILE) in Python."
        )
    if rung not in RUNGS:
        raise registry.unknown("rung", rung, RUNGS)
    run = _made(make, rung) if name in RECIPES else make(rung)
    return run.with_(overrides) if overrides else run


@cache
def _made(make: Recipe, rung: str) -> Run:
    """A recipe of the package at a rung; that of an outside method is made at each call."""
    return make(rung)


def name_of(run: Run, before: Run) -> str:
    """The name of a run whose method or strategies are not those of ``before`` any more, from which it was made.

    One training has one name: that of the recipe which the overrides of ``before``, and options of strategies, turn
    into the run, and ``-<strategy>`` for each strategy that comes after the recipe's. Of several such recipes it is the
    one with the fewest differences, then the one that ``before`` is named after. If there is none, the method and the
    strategies make the name: ``byol-hvs``.
    """
    base = _lookup(before.recipe)
    runs = ({before.recipe: base(run.rung)} if base else {}) | {name: _made(r, run.rung) for name, r in RECIPES.items()}
    changed = _differences(run, runs[before.recipe]) if base else set()
    changed = {key for key in changed if not key.startswith("hard.")}
    for count in range(len(run.hard), -1, -1):
        part = run.model_copy(update={"hard": run.hard[:count]})
        set_keys = changed | {key for key in _facts(part) if key.startswith("hard.")}
        peers = [(name, peer) for name, peer in runs.items() if peer.composition == part.composition]
        fits = [
            (len(differences), not name.startswith(before.recipe), place, name)
            for place, (name, peer) in enumerate(peers)
            if (differences := _differences(part, peer)) <= set_keys
        ]
        if fits:
            return "-".join([min(fits)[-1], *run.composition[1 + count :]])
    return "-".join(run.composition)


def _facts(run: Run) -> dict[str, Any]:
    """The settings of a run by dotted key, without its name and without empty groups."""
    return {key: value for key, value in flat(run.model_dump(mode="json", exclude={"recipe"})) if value not in ({}, [])}


def _differences(run: Run, other: Run) -> set[str]:
    """The keys in which two runs differ."""
    facts, other_facts = _facts(run), _facts(other)
    return {key for key in facts.keys() | other_facts.keys() if facts.get(key) != other_facts.get(key)}


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
