"""Figures as functions of tables: the same bytes for the same rows, whatever the order, folder, time zone or locale."""

FIGURES = {
    "hvs_f2": "hardlab.figures.hvs:f2",
    "hvs_f3": "hardlab.figures.hvs:f3",
    "hvs_f4": "hardlab.figures.hvs:f4",
    "hvs_f6": "hardlab.figures.hvs:f6",
    "hvs_results": "hardlab.figures.hvs:results",
}

from hardlab.figures.draw import draw, find, make  # noqa: E402  they look names up in the table above

__all__ = ["FIGURES", "draw", "find", "make"]
