"""Tiny notebooks."""

from __future__ import annotations

import textwrap
from pathlib import Path

import nbformat

PARAMETERS = """\
flag = True  # type: bool  whether
rate = 0.1  # type: float  how fast
steps = 3  # type: int
names = ["a"]  # type: list[str]
counts = [1]  # type: list[int]
limit = None  # type: float|None
word = "x"  # type: str
folder = "."  # type: path
"""


def notebook(path: Path, *cells: str, cell: str | None = None) -> Path:
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    if cell is not None:
        nb.cells.append(nbformat.v4.new_code_cell(cell, metadata={"tags": ["parameters"]}))
    nb.cells += [nbformat.v4.new_code_cell(textwrap.dedent(c)) for c in cells]
    nbformat.write(nb, path)
    return path
