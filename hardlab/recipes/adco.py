"""AdCo (arXiv 2011.08435), its forms, and MoCo with a queue under the same settings."""

from __future__ import annotations

from typing import Any

from hardlab.config import Run
from hardlab.recipes.bases import moco
from hardlab.recipes.common import Recipe, with_hard


def queue(rung: str) -> Run:
    """MoCo v2 under AdCo's settings: temperature 0.12, and at the paper's rung its code's last rate.

    At rung cpu every fifth epoch keeps a snapshot of the negatives, so that they can be followed.
    """
    changes: dict[str, Any] = {"recipe": "adco-queue", "method.temperature": 0.12}
    changes |= {"logs.checkpoint_every": 5} if rung == "cpu" else {}
    return moco(rung).with_(changes | ({"optim.final_lr": 6e-4} if rung == "paper" else {}))


def queue_multicrop(rung: str) -> Run:
    """The same with five queries of decreasing size for one key, their losses summed."""
    name = "adco_crops" if rung == "paper" else "adco_crops_cifar"
    few = {"epochs": 3} if rung == "smoke" else {}  # five times the queries
    return queue(rung).with_({"recipe": "adco-multicrop-queue", "local": {"name": name, "count": 5}} | few)


queue_symmetric = with_hard(
    queue, "adco-symmetric-queue", "MoCo with both views as queries, under AdCo's settings.", method__symmetric=True
)


def _adco(base: Recipe, name: str, doc: str, **options: Any) -> Recipe:
    return with_hard(base, name, doc, {"name": "adco", "options": options})


RECIPES: dict[str, Recipe] = {
    "adco": _adco(queue, "adco", "learned negatives. paper: Table 1, 68.6 linear top-1 at 200 epochs."),
    "adco-symmetric": _adco(
        queue_symmetric, "adco-symmetric", "both views are queries. paper: Sec. 5.2.1, 70.6 at 200 epochs."
    ),
    "adco-multicrop": _adco(
        queue_multicrop, "adco-multicrop", "five queries of decreasing size. paper: Table 1, 73.2 at 200 epochs."
    ),
    "adco-alternative": _adco(
        queue, "adco-alternative", "the negatives climb J of Sec. 4.1 instead.", objective="alternative"
    ),
    "adco-renorm": _adco(
        queue, "adco-renorm", "negatives of unit length after every step, as the text says.", renorm=True
    ),
    "adco-queue": queue,
    "adco-symmetric-queue": queue_symmetric,
    "adco-multicrop-queue": queue_multicrop,
}
