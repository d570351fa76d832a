"""Draws a figure, given by its name, into files."""

from __future__ import annotations

import importlib
import inspect
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from hardlab.analysis import claims, gap_notes, schema
from hardlab.config import precision_of
from hardlab.errors import HardlabError
from hardlab.figures import FIGURES, TABLE, find, markup, published_table, style
from hardlab.figures.typeset import Sheet
from hardlab.files import make_folder, write_atomic

Manifests = Mapping[str, Mapping[str, Any]]  # by run


def make(name: str, data_dir: Path | str) -> Figure:
    """Make the figure ``name`` from the tables in ``data_dir``.

    A parameter ``x`` of a figure function receives the table ``x.csv``, ``x_pixels`` the picture ``x_pixels.png`` as
    (H,W,3) uint8 or None, and ``verdicts`` those of all claims on these tables. A missing table is passed as an empty
    one, which the figure shows as a gap.
    """
    with style.applied():
        figure = _made(name, data_dir)
        if figure.get_layout_engine() is not None:
            for _ in range(2):  # a second pass: labels move with the ticks that the first pass of the layout chose
                FigureCanvasAgg(figure).draw()
            figure.set_layout_engine("none")
    return figure


def gaps(name: str, data_dir: Path | str) -> list[str]:
    """The commands that fill the gaps of a figure, one line per training, at the rung that it shows or at ``cpu``.

    RUN stands for the folder that the preceding command makes. Gaps that no run can fill have no command.
    """
    with gap_notes.noting() as notes, style.applied():
        _made(name, data_dir)
    runs = list(notes.pop("", {}))  # existing runs without this evaluation
    return [*runs, *(" && ".join([train, *evaluations]) for train, evaluations in notes.items())]


def _made(name: str, data_dir: Path | str) -> Figure:
    folder, where = Path(data_dir), FIGURES[find(name)]
    manifests = schema.read_manifests(folder)
    if where == TABLE:
        return published_table.make(name, lambda table: _rows(folder, table, manifests))
    module, _, attribute = where.partition(":")
    function = getattr(importlib.import_module(module), attribute)
    figure: Figure = function(*(_read(folder, p, manifests) for p in inspect.signature(function).parameters))
    return figure


def draw(name: str, data_dir: Path | str, out_dir: Path | str) -> list[Path]:
    """Write ``<name>.svg`` and ``<name>.png`` into ``out_dir`` atomically; the same tables give the same bytes."""
    figure = make(name, data_dir)
    out = Path(out_dir)
    make_folder(out)
    written = []
    with style.applied():
        for suffix, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, metadata=metadata)
            write_atomic(out / f"{name}.{suffix}", buffer.getvalue())
            written.append(out / f"{name}.{suffix}")
    return written


def write_markup(name: str, data_dir: Path | str, out_dir: Path | str) -> list[Path]:
    """Write a published table as ``<name>.tex`` and ``<name>.html`` into ``out_dir``; nothing for a figure."""
    if FIGURES[find(name)] != TABLE:
        return []
    text, out = sheet(name, data_dir), Path(out_dir)
    make_folder(out)
    written = [out / f"{name}.tex", out / f"{name}.html"]
    for path, content in zip(written, (markup.latex(text, name), markup.page(text)), strict=True):
        write_atomic(path, content.encode())
    return written


def caption(name: str) -> str:
    """What the figure ``name`` shows, in a sentence."""
    where = FIGURES[find(name)]
    if where == TABLE:
        return published_table.find(name).title
    module, _, attribute = where.partition(":")
    return (inspect.getdoc(getattr(importlib.import_module(module), attribute)) or name).partition("\n\n")[0]


def sources(name: str) -> list[str]:
    """The tables that the figure ``name`` is drawn from."""
    where = FIGURES[find(name)]
    if where == TABLE:
        return published_table.sources(name)
    module, _, attribute = where.partition(":")
    parameters = inspect.signature(getattr(importlib.import_module(module), attribute)).parameters
    return [p for p in parameters if p != "verdicts" and not p.endswith("_pixels")]


def sheet(name: str, data_dir: Path | str) -> Sheet:
    """The published table ``name`` as text, from the tables in ``data_dir``."""
    folder = Path(data_dir)
    manifests = schema.read_manifests(folder)
    return published_table.sheet(name, lambda table: _rows(folder, table, manifests))


def _read(data_dir: Path, parameter: str, manifests: Manifests) -> Any:
    if parameter == "verdicts":
        return claims.verdicts(data_dir)
    if not parameter.endswith("_pixels"):
        return _rows(data_dir, parameter, manifests)
    picture = data_dir / f"{parameter}.png"
    try:
        return np.asarray(Image.open(picture).convert("RGB")) if picture.exists() else None
    except OSError as e:
        raise HardlabError(f"The picture '{picture}' cannot be read: {type(e).__name__}: {e}.") from e


def _rows(data_dir: Path, name: str, manifests: Manifests) -> pd.DataFrame:
    """A table in a fixed order, so that a figure does not depend on the order of the file.

    Rows of runs gain the columns ``precision``, "" if it is unknown, and ``epoch_steps``, the steps of an epoch.
    """
    frame = schema.read(data_dir, name)
    if "run" in frame:  # a row may combine several runs
        precisions = {run: precision_of(manifest) for run, manifest in manifests.items()}
        steps = {
            run: m["steps_done"] / m["epochs_done"]
            for run, m in manifests.items()
            if m.get("epochs_done") and m.get("steps_done")
        }
        frame["epoch_steps"] = frame["run"].map(steps)
        precisions_by_name = {
            names: {precisions[n] for n in names.split() if n in precisions} for names in frame["run"].unique()
        }
        frame["precision"] = frame["run"].map(
            {names: " and ".join(sorted(each_precision)) for names, each_precision in precisions_by_name.items()}
        )
    return frame.sort_values(schema.columns(name), kind="stable", ignore_index=True)
