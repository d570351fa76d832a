"""Small runs for tests: a recipe on a few digits, as small as its method and its strategies say that they can be."""

from __future__ import annotations

from typing import Any

from hardlab import contracts, recipes
from hardlab.config import Run

FEW = {"data": {"name": "digits", "fraction": 0.1}}  # 144 images of 8 pixels


def small_run(name: str = "simsiam-hvs", rung: str = "smoke", **changes: Any) -> Run:
    """A recipe of two epochs of four steps in fp32 that logs every step and keeps every epoch; then ``changes``.

    What makes a method or a strategy small is its own ``SMALL``, of the run's parent too.
    """
    run = recipes.recipe(name, rung)
    sizes: dict[str, Any] = FEW | sizes_of(run) | {"logs.step_every": 1, "logs.checkpoint_every": 1}
    if run.parent is not None:
        sizes |= {f"parent.{key}": value for key, value in sizes_of(run.parent).items()}
    return run.with_(sizes).with_(changes)


def sizes_of(run: Run) -> dict[str, Any]:
    """Epochs, batch, width, and what the method and the strategies of a run say of themselves, as overrides."""
    sizes: dict[str, Any] = {"epochs": min(2, run.epochs), "batch_size": 32, "precision": "fp32"}
    network, options = contracts.network(run.method.name, 4)
    sizes |= {"backbone": network} | {f"backbone.{key}": value for key, value in options.items()}
    sizes |= {f"method.{key}": value for key, value in contracts.small("method", run.method.name).items()}
    for spec in run.hard:
        sizes |= {f"hard.{spec.name}.{key}": value for key, value in contracts.small("strategy", spec.name).items()}
    return sizes
