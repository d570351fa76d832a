"""The view log: all candidate pairs of sampled steps, with their parameters and losses, and which pair was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from hardlab import rich
from hardlab.analysis.schema import PARAMS
from hardlab.analysis.shown import Shown
from hardlab.errors import HardlabError
from hardlab.files import check_seal

SCHEMA = pa.schema(
    [
        ("epoch", pa.int32()),
        ("step", pa.int32()),
        ("index", pa.int64()),
        ("candidate", pa.int16()),
        ("a", pa.int8()),
        ("b", pa.int8()),
        ("loss", pa.float32()),
        ("chosen", pa.bool_()),
        *((f"{slot}_{name}", pa.float32()) for slot in "ab" for name in PARAMS),
    ]
)
BOX = tuple(f"{slot}_{name}" for slot in "ab" for name in ("top", "left", "height", "width"))
IMAGE = ("a_image_h", "a_image_w")
COLOUR = ("brightness", "contrast", "saturation", "hue")
KEY = ("run", "epoch", "step", "index")  # columns that identify a sampled image


class Wide(NamedTuple):
    """A view log with one row per sampled image.

    keys: frame (G,) of run, epoch, step, index. values: column -> (G,C), candidates in the order of their number.
    """

    keys: pd.DataFrame
    values: dict[str, np.ndarray]


class ViewLog(Shown):
    """A view log, a row per candidate pair, which shows itself by epoch in a notebook."""

    def summary(self) -> str:
        keys = [key for key in KEY if key in self.columns]
        images = len(self[keys].drop_duplicates()) if {"step", "index"} <= set(keys) else 0
        of_images = f" of {images} images at logged steps" if images else ""
        runs = self["run"].nunique()
        return f"{len(self)} candidate pairs{of_images}, from {runs} run{'s' if runs > 1 else ''}."

    def drawn(self) -> str:
        if not {"epoch", "loss", "chosen", *BOX} <= set(self.columns):
            return ""
        log = metrics(pd.DataFrame(self))
        rows = []
        for epoch, part in log.groupby("epoch"):
            chosen = part[part["chosen"]]
            rows.append((epoch, len(part), *(f"{x.mean():.3f}" for x in (part["loss"], chosen["loss"], part["iou"])),
                         f"{chosen['iou'].mean():.3f}", rich.bar(chosen["iou"].mean(), 4)))  # fmt: skip
        head = ("epoch", "pairs", "mean loss", "of the chosen", "mean IoU", "of the chosen", "")
        return rich.table(rows if len(rows) < 12 else [*rows[:5], *rows[-5:]], head)


def segments(run_dir: Path | str) -> list[Path]:
    """The view-log files of a run, oldest first; empty if the run wrote none."""
    return sorted((Path(run_dir) / "views").glob("step-*.parquet"))


def read(source: Path | str | Sequence[Path | str], columns: Sequence[str] | None = None) -> ViewLog:
    """The view log of one or several runs, a row per candidate pair, with the folder's name in the column ``run``.

    columns: those to read (default: all of ``SCHEMA``). Raises ``HardlabError`` for a run without a log, an unknown
    column, and segments that are damaged, lack a column, or have another type; it names the segments.
    """
    names = list(SCHEMA.names if columns is None else columns)
    if wrong := [name for name in names if name not in SCHEMA.names]:
        raise HardlabError(f"The view log has no column '{wrong[0]}'. It has: {', '.join(SCHEMA.names)}.")
    runs = [Path(s) for s in ([source] if isinstance(source, str | Path) else source)]
    frames = []
    for run in runs:
        files = segments(run)
        if not files:
            raise HardlabError(f"'{run}' has no view log: no file views/step-*.parquet was found in it.")
        if faults := [fault for f in files if (fault := _fault(f))]:
            raise HardlabError(
                f"{len(faults)} of the {len(files)} view-log segments of '{run}' cannot be used: {'; '.join(faults)}."
            )
        try:
            table = _table(files, names)
        except (pa.ArrowException, OSError, ValueError) as e:  # damage behind an intact footer shows on reading
            faults = [fault for f in files if (fault := _fault(f, names))] or [_first_line(e)]
            raise HardlabError(
                f"{len(faults)} of the {len(files)} view-log segments of '{run}' cannot be used: {'; '.join(faults)}."
            ) from e
        frames.append((run.name, table.to_pandas(split_blocks=True)))
    if not frames:
        raise HardlabError("No run was given, so there is no view log to read.")
    frame = pd.concat([f for _, f in frames], ignore_index=True) if len(frames) > 1 else frames[0][1]
    # all rows of a run have its name: a category costs a byte per row instead of a pointer
    codes = np.repeat(np.arange(len(frames)), [len(f) for _, f in frames])
    labels = [name for name, _ in frames]
    if len(set(labels)) < len(labels):
        raise HardlabError(
            f"The same run is given twice: {', '.join(sorted({n for n in labels if labels.count(n) > 1}))}."
        )
    frame.insert(0, "run", pd.Categorical.from_codes(codes, labels))
    return ViewLog(frame)


def metrics(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the pair metrics of the HVS paper (Sec. 5.1, App. D) to a view log, as float64 columns.

    iou: of the two crop boxes in image coordinates. centre_distance: between their centres / the image's diagonal (the
    paper's text; its code takes the top left corners). colour_distance: Euclidean, over brightness, contrast,
    saturation and hue; a view without jitter counts as 1, 1, 1, 0. A metric whose columns are missing is left out.
    """
    new = {}
    if set(BOX) <= set(frame.columns):
        sides = frame[[f"{slot}_{side}" for slot in "ab" for side in ("height", "width")]].to_numpy(np.float64)
        if empty := int((~(np.isfinite(sides) & (sides > 0))).any(axis=1).sum()):
            raise HardlabError(
                f"{empty} of {len(frame)} pairs of the view log have a crop without area: it has no overlap."
            )
        new["iou"] = _iou(frame)
        if set(IMAGE) <= set(frame.columns):
            new["centre_distance"] = _centre_distance(frame)
    if {f"{slot}_{name}" for slot in "ab" for name in COLOUR} <= set(frame.columns):
        new["colour_distance"] = np.sqrt(sum((_f64(frame, f"a_{c}") - _f64(frame, f"b_{c}")) ** 2 for c in COLOUR))
    return frame.assign(**new)


def wide(frame: pd.DataFrame, *columns: str) -> Wide:
    """The named columns as (images, candidates) arrays; the order of the rows does not matter.

    Raises ``HardlabError`` if images of one run differ in the number of candidates, or not exactly one is chosen.
    """
    if not len(frame):
        raise HardlabError("The view log is empty: there is no pair to look at.")
    keys = [k for k in KEY if k in frame.columns]
    count = int(frame["candidate"].max()) + 1
    ordered = frame if _in_order(frame, keys, count) else frame.sort_values([*keys, "candidate"], kind="stable")
    if not _in_order(ordered, keys, count):
        raise HardlabError(
            f"The view log is not complete: not every image has the candidates 0 to {count - 1} exactly once. "
            "Read runs with different numbers of views one by one."
        )
    if "chosen" in frame.columns:
        per_image = ordered["chosen"].to_numpy().reshape(-1, count).sum(1)
        if (per_image != 1).any():
            raise HardlabError(
                f"{int((per_image != 1).sum())} of {len(per_image)} images of the view log have no or several chosen "
                "pairs; exactly one is expected."
            )
    first = ordered[keys].iloc[::count].reset_index(drop=True)
    return Wide(first, {c: ordered[c].to_numpy().reshape(-1, count) for c in columns})


def slots(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per view instead of per pair: run, epoch, step, index, slot, chosen, and ``PARAMS`` without prefix."""
    keys = [k for k in frame.columns if k in (*KEY, "row")]
    parts = []
    for slot in "ab":
        names = {f"{slot}_{p}": p for p in PARAMS}
        parts.append(frame[[*keys, slot, "chosen", *names]].rename(columns={slot: "slot", **names}))
    both = pd.concat(parts, ignore_index=True)
    chosen = both.groupby([*keys, "slot"], observed=True, sort=False)["chosen"].transform("any")
    return (
        both.assign(chosen=chosen)
        .drop_duplicates([*keys, "slot"])
        .sort_values([*keys, "slot"], kind="stable", ignore_index=True)
    )


def _table(files: Sequence[Path], names: list[str]) -> pa.Table:
    """Columns of segments, with the checksums of their pages verified."""
    checked = pa.dataset.ParquetFragmentScanOptions(page_checksum_verification=True)
    form = pa.dataset.ParquetFileFormat(default_fragment_scan_options=checked)
    return pa.dataset.dataset([str(f) for f in files], schema=SCHEMA, format=form).to_table(names)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")


def _fault(path: Path, names: list[str] | None = None) -> str:
    """Why a segment cannot be used, from its footer or, if ``names`` are given, these columns; "" if it can."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        return f"{path.name} (it is not a file)"
    try:
        schema = pa.parquet.read_schema(path)
        if names is not None:
            _table([path], names)
    except (pa.ArrowException, OSError, ValueError) as e:
        return f"{path.name} (broken or cut off: {_first_line(e)})"
    missing = [n for n in SCHEMA.names if n not in schema.names]
    if missing:
        return f"{path.name} (column '{missing[0]}' is missing)"
    try:
        check_seal(path)
    except HardlabError:
        return f"{path.name} (the run wrote another one, of another digest)"
    return ""


def _in_order(frame: pd.DataFrame, keys: list[str], count: int) -> bool:
    """Whether the rows are complete images, one after the other, with candidates 0 to count - 1 in order."""
    if len(frame) % count:
        return False
    if (frame["candidate"].to_numpy().reshape(-1, count) != np.arange(count)).any():
        return False
    columns = (frame[k].cat.codes if isinstance(frame[k].dtype, pd.CategoricalDtype) else frame[k] for k in keys)
    grids = (c.to_numpy().reshape(-1, count) for c in columns)
    return not any((grid != grid[:, :1]).any() for grid in grids)


def _f64(frame: pd.DataFrame, name: str) -> np.ndarray:
    return frame[name].to_numpy(np.float64)


def _iou(frame: pd.DataFrame) -> np.ndarray:
    top, left, height, width = ([_f64(frame, f"{s}_{n}") for s in "ab"] for n in ("top", "left", "height", "width"))
    down = np.minimum(top[0] + height[0], top[1] + height[1]) - np.maximum(*top)
    across = np.minimum(left[0] + width[0], left[1] + width[1]) - np.maximum(*left)
    shared = np.maximum(down, 0) * np.maximum(across, 0)
    return shared / (height[0] * width[0] + height[1] * width[1] - shared)


def _centre_distance(frame: pd.DataFrame) -> np.ndarray:
    y, x = (
        [_f64(frame, f"{s}_{corner}") + _f64(frame, f"{s}_{side}") / 2 for s in "ab"]
        for corner, side in (("top", "height"), ("left", "width"))
    )
    return np.hypot(y[0] - y[1], x[0] - x[1]) / np.hypot(_f64(frame, "a_image_h"), _f64(frame, "a_image_w"))
