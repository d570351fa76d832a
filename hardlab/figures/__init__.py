"""Figures as functions of tables: the same bytes for the same rows, whatever the order, folder, time zone or locale."""

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

from hardlab.figures.drawing import draw, find, gaps, make  # noqa: E402  they look names up in the table above

__all__ = ["FIGURES", "ITEMS", "draw", "find", "gaps", "make"]
