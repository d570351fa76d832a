"""Figures as functions of tables: the same rows give the same bytes in any row order, folder, time zone or locale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hardlab.registry import unknown

if TYPE_CHECKING:
    from hardlab.figures.drawing import draw, gaps, make, sheet, write_markup

__all__ = ["FIGURES", "ITEMS", "draw", "find", "gaps", "make", "sheet", "write_markup"]

# paper -> how many figures and tables it has
ITEMS = {"hexa": (5, 5), "hvs": (11, 12), "hnssl": (3, 7), "adco": (2, 4), "ppcl": (6, 4)}
TABLE = "published_tables.yaml"  # where a published table is described; a figure is a function, "module:name"
FIGURES = {
    f"{paper}_{kind}{n}": f"hardlab.figures.{paper}:f{n}" if kind == "f" else TABLE
    for paper, counts in ITEMS.items()
    for kind, count in zip("ft", counts, strict=True)
    for n in range(1, count + 1)
} | {
    "hvs_results": "hardlab.figures.hvs:results",
    "hardness": "hardlab.figures.shared_batch_plots:hardness",
    "transfer": "hardlab.figures.shared_batch_plots:transfer",
}


def find(name: str) -> str:
    """The name of an existing figure, unchanged; ``HardlabError`` with the nearest name for any other."""
    if name not in FIGURES:
        raise unknown("figure", name, FIGURES)
    return name


def __getattr__(name: str) -> Any:
    """Load what draws on first use: it needs matplotlib and pandas, the figures' names do not."""
    if name not in ("draw", "gaps", "make", "sheet", "write_markup"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hardlab.figures import drawing

    return getattr(drawing, name)
