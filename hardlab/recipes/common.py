"""The common settings of a rung's recipes, and the functions that make recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hardlab import config
from hardlab.config import Run

RUNGS = ("smoke", "cpu", "gpu", "paper")
Recipe = Callable[[str], Run]


def make(name: str, rung: str, settings: Mapping[str, Any]) -> Run:
    """The run of a recipe at a rung: the common settings, replaced by the recipe's own."""
    return config.make({"recipe": name, "rung": rung} | common(rung) | dict(settings))


def with_hard(base: Recipe, name: str, doc: str, *strategies: Any, **changes: Any) -> Recipe:
    """``base`` with strategies (a name, or {name, options}) and dotted changes (``__`` for a dot) at every rung."""

    def recipe(rung: str) -> Run:
        overrides = {"recipe": name, "hard": list(strategies)} | {k.replace("__", "."): v for k, v in changes.items()}
        return base(rung).with_(overrides)

    recipe.__doc__ = f"{name}: {doc}"
    return recipe


def with_more(base: Recipe, name: str, strategy: str) -> Recipe:
    """``base`` with one more strategy, with default options, after its own."""

    def recipe(rung: str) -> Run:
        run = base(rung)
        return run.with_({"hard": [*run.model_dump(mode="json")["hard"], strategy]})

    recipe.__doc__ = f"{name}: with {strategy} behind its own strategies."
    return recipe


def plain(method: str) -> Recipe:
    """The recipe of a method without one: its default options, SimCLR's views and SGD."""

    def recipe(rung: str) -> Run:
        sgd = {"lr": 0.1, "weight_decay": 5e-4, "warmup_epochs": 1}
        views = {"augment": "simclr", "batch_size": 256} if rung == "paper" else {"augment": "simclr_cifar"}
        return make(method, rung, {"method": method, "optim": sgd} | views)

    recipe.__doc__ = f"{method}: its defaults under SimCLR's views."
    return recipe


def common(rung: str) -> dict[str, Any]:
    """Data, network and logging of a rung; the same for every method, so that arms can be compared."""
    return {
        "smoke": {
            "data": {"name": "shapes", "fraction": 0.4},
            "backbone": {"name": "tiny", "options": {"width": 16}},
            "epochs": 8,
            "batch_size": 128,
            "logs": {"views_every": 2, "views_rows": 64, "checkpoint_every": 4},
        },
        "cpu": {
            "data": {"name": "cifar10-jpeg", "fraction": 0.1},
            "backbone": "tiny",
            "epochs": 30,
            "batch_size": 128,
            "logs": {"views_every": 5, "views_rows": 128, "checkpoint_every": 10, "monitor_every": 10},
        },
        "gpu": {
            "data": {"name": "cifar10"},
            "backbone": "resnet18",
            "epochs": 200,
            "batch_size": 512,
            "logs": {"monitor_every": 10},
        },
        "paper": {
            "data": {"name": "imagenet"},
            "backbone": {"name": "resnet50", "options": {"zero_init_residual": True}},
            "epochs": 100,
            "logs": {"step_every": 50},
        },
    }[rung]
