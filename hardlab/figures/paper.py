"""The numbers that the papers print, transcribed in paper.csv."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd


def published(paper: pd.DataFrame, paper_name: str, item: str) -> Mapping[tuple[str, str], str]:
    """The printed values of a table or figure: (row, column) -> value as text."""
    rows = paper[(paper["paper"] == paper_name) & (paper["item"] == item)]
    return dict(zip(zip(rows["row"], rows["column"], strict=True), rows["value"].astype(str), strict=True))
