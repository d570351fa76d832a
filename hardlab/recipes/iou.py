"""The manual IoU policies of HVS (arXiv 2310.03940), Table 4, on SimSiam and DINO; their baseline is the method."""

from __future__ import annotations

from hardlab.recipes.bases import simsiam
from hardlab.recipes.common import Recipe, with_hard
from hardlab.recipes.dino import dino

# start and end of the bound in percent, alternating or not -> change of linear top-1 to 68.20 and to 73.50
TABLE_4 = {
    (30, 35, False): ("-0.80", "-1.47"),
    (30, 35, True): ("+0.10", "-0.45"),
    (40, 60, False): ("+0.55", "-0.40"),
    (40, 60, True): ("+0.25", "-0.20"),
    (10, 80, False): ("-33.95", "-1.50"),
    (100, 10, False): ("+0.07", "not given"),
}


def _policy(base: Recipe, start: int, end: int, alternating: bool, change: str) -> tuple[str, Recipe]:
    name = f"{base.__name__}-iou-{start}-{end}" + "-alternating" * alternating
    options = {"start": start / 100, "end": end / 100} | ({"alternate": "every-other"} if alternating else {})
    doc = f"pairs of IoU at most {start} to {end} %. paper: HVS, Table 4, {change} against {base.__name__}."
    return name, with_hard(base, name, doc, {"name": "iou", "options": options})


RECIPES: dict[str, Recipe] = dict(
    _policy(base, *row, changes[column])
    for column, base in enumerate((simsiam, dino))
    for row, changes in TABLE_4.items()
)
