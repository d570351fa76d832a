"""The tables that figures, claims and the report read: columns, types, and the functions that read and write them.

In the files, ``runs.csv`` says once what each run is, and the rows of the other tables name their runs; ``read`` joins
them. A line of ``SERIES`` holds many rows. ``configs`` has no file: it is read from the runs' manifests.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hardlab import config, files
from hardlab.errors import HardlabError

# types of columns: `text` is read as written ("0e12345678" is no number); a blank of another type is NaN
TEXT, NUMBER, WHOLE, FLAG = "text", "number", "whole", "flag"
Columns = dict[str, str]


WHO = ("rung", "data", "method", "setting", "arm", "recipe", "seed", "run")  # every table of runs starts with these
SAME = ("setting", "arm", "seed")  # runs that share these are one training under different names
_BY: Columns = dict.fromkeys(WHO, TEXT) | {"seed": WHOLE}
# the parameters of a view, repeated from `views.PARAMS` so that reading a table needs no torch
PARAMS = (
    "image_h", "image_w", "top", "left", "height", "width", "flip", "brightness", "contrast", "saturation", "hue",
    "order", "gray", "sigma", "solarize",
)  # fmt: skip
_MEASURED = dict.fromkeys(("protocol", "features", "evaluated_on", "split", "metric", "options"), TEXT)
_TILE = _BY | {"row": WHOLE, "tile": WHOLE, "epoch": NUMBER, "label": TEXT}
_SHARE = _BY | {"epoch": WHOLE, "images": WHOLE} | dict.fromkeys(("share", "chance", "control", "tied"), NUMBER)
TREES = 16  # of each forest behind the table of importances
# of a snapshot of negatives; the last three need the images and a checkpoint
FROM_LABELS = ("false_hardest", "false_all", "nearest_real")
SCORES = (
    "step", "share", "chance", "hardness", "distance", "query_distance", "query_hardest", "norm", "age", "negatives",
    "queries", *FROM_LABELS,
)  # fmt: skip

TABLES: dict[str, Columns] = {
    "hvs_f2": _BY
    | dict.fromkeys(("row", "epoch", "step", "index", "candidate", "a", "b"), WHOLE)
    | {"loss": NUMBER, "chosen": FLAG}
    | {f"{slot}_{name}": NUMBER for slot in "ab" for name in PARAMS}
    | {"iou": NUMBER},
    "hvs_f3_left": _SHARE,
    "hvs_f3_right": _BY | {"series": TEXT, "lo": NUMBER, "hi": NUMBER, "density": NUMBER}
    | {"images": WHOLE, "outside": NUMBER},
    "hvs_f4_left": _BY | {"series": TEXT, "epoch": WHOLE, "images": WHOLE, "iou": NUMBER},
    "hvs_f4_right": _SHARE,
    "hvs_distance": _BY | {"series": TEXT, "epoch": WHOLE, "images": WHOLE, "centre_distance": NUMBER},
    # a row combines several seeds and runs, listed as text; name: that of a number in the view log, else blank
    "hvs_summary": _BY | {"seed": TEXT, "quantity": TEXT, "mean": NUMBER, "lo": NUMBER, "hi": NUMBER}
    | {"n": WHOLE, "name": TEXT},
    "evaluation": _BY | _MEASURED | {"value": NUMBER},
    "curves": _BY | _MEASURED | {"epoch": NUMBER, "classifier_epoch": NUMBER, "value": NUMBER},
    "epochs": _BY | {"epoch": WHOLE, "name": TEXT, "value": NUMBER},
    "costs": _BY | {"quantity": TEXT, "value": NUMBER},
    "importance": _BY | {"name": TEXT, "leaf": WHOLE, "share": NUMBER, "lo": NUMBER, "hi": NUMBER, "n": WHOLE},
    "predictability": _BY
    | {"accuracy": NUMBER, "lowest_iou": NUMBER, "chance": NUMBER, "n_train": WHOLE, "n_test": WHOLE}
    | {"settings": TEXT, "uses": TEXT},
    "configs": _BY | {"key": TEXT, "value": TEXT},  # text: the papers print 0.10, not 0.1
    "hexa_f1": _TILE,
    "hvs_f11": _TILE,
    "ppcl_f6": _TILE,
    "adco_f2": _BY | {"epoch": NUMBER, "kind": TEXT, "x": NUMBER, "y": NUMBER, "distance": NUMBER},
    "negatives": _BY | {"epoch": NUMBER} | dict.fromkeys(SCORES, NUMBER) | {"step": WHOLE},
    "hardness": _BY | {"tile": WHOLE, "index": WHOLE, "label": TEXT, "percentile": NUMBER, "sd": NUMBER}
    | {"draws": WHOLE, "images": WHOLE},
    "transfer": _BY | {"other": TEXT, "other_run": TEXT, "rho": NUMBER, "lo": NUMBER, "hi": NUMBER}
    | {"ceiling": NUMBER, "images": WHOLE},
}  # fmt: skip
RUNS, CONFIGS = "runs", "configs"
FILES = (RUNS, *(name for name in TABLES if name != CONFIGS))  # the tables that have a file
# rows that differ in these columns alone are one line, with the numbers of each column separated by spaces
SERIES: dict[str, tuple[str, ...]] = {
    "hvs_f3_right": ("lo", "hi", "density"),
    "curves": ("epoch", "classifier_epoch", "value"),
    "epochs": ("epoch", "value"),
    "adco_f2": ("x", "y", "distance"),
}
AGAIN = "`hardlab figures --all --from RUNS` collects it again"
# the papers' printed numbers, transcribed by hand as text: 68.80, not 68.8
PUBLISHED: Columns = dict.fromkeys(("paper", "item", "row", "column", "value", "unit", "place"), TEXT)
PAPER = "paper"


def columns(name: str) -> list[str]:
    """The columns of a table, in the order of its file."""
    return list(PUBLISHED if name == PAPER else TABLES[name])


def empty(name: str) -> pd.DataFrame:
    """The table ``name`` without rows."""
    return pd.DataFrame(columns=columns(name))


def stored(name: str) -> list[str]:
    """The columns of the file of a table, in order: without those that ``runs.csv`` has."""
    return list(WHO) if name == RUNS else [c for c in columns(name) if c not in WHO or c == "run"]


def read(folder: Path | str, name: str, *, whole: bool = True) -> pd.DataFrame:
    """Read the table ``name`` of a folder; a missing file gives a table without rows.

    The rows have all columns of ``columns(name)``: what a run is comes from ``runs.csv``, or, in a file of an earlier
    version, from its own columns. whole: refuse a file that lacks a column; otherwise, as for tables of an earlier
    version, read the columns that exist. Raises HardlabError, which names the file, if the file holds no such table or
    names a run that ``runs.csv`` lacks.
    """
    path = Path(folder) / f"{name}.csv"
    if not path.exists():
        return _configurations(Path(folder)) if name == CONFIGS else empty(name)
    if name == PAPER:
        return _checked(path, _parsed(path, PUBLISHED), PUBLISHED, PUBLISHED if whole else ())
    kinds, head = TABLES[name], _parsed(path, {}, nrows=0).columns
    if set(WHO[:-1]) & set(head):  # of a version in which each row said what its run is
        return _checked(path, _parsed(path, kinds), kinds, kinds if whole else ())
    series = [c for c in SERIES.get(name, ()) if c in head]
    own = {c: TEXT if c in series else kinds[c] for c in stored(name)}
    frame = _checked(path, _parsed(path, own), own, own if whole else ("run",))
    if not len(frame):
        kept = {c: str if kind == TEXT else object for c, kind in kinds.items() if c in WHO or c in head}
        return pd.DataFrame({c: pd.Series([], dtype=kind) for c, kind in kept.items()})
    if series:
        frame = _checked(path, _spread(path, frame, series), {c: kinds[c] for c in series}, series)
    joined = _joined(Path(folder), path, frame)
    joined = joined[[c for c in kinds if c in joined]]
    return joined.sort_values(list(joined), kind="stable", ignore_index=True) if series else joined


def _parsed(path: Path, kinds: Columns, nrows: int | None = None) -> pd.DataFrame:
    """The content of a CSV file, text as it is written."""
    texts = {column: str for column, kind in kinds.items() if kind == TEXT}
    blank = {column: [""] for column, kind in kinds.items() if kind != TEXT}
    try:
        if not path.is_file():  # a pipe would be waited for
            raise OSError("it is not a file")
        frame = pd.read_csv(
            path, encoding="utf-8", dtype=texts, keep_default_na=False, na_values=blank, low_memory=False, nrows=nrows
        )
    except (OSError, ValueError) as e:  # as are pandas' own errors, also for bytes that are no text
        raise HardlabError(f"The table '{path}' cannot be read: {type(e).__name__}: {' '.join(str(e).split())}.") from e
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes the first fields of longer lines as names of rows
        raise HardlabError(f"The table '{path}' cannot be read: its lines have more fields than its head.")
    return frame


def _checked(path: Path, frame: pd.DataFrame, kinds: Columns, need: Iterable[str]) -> pd.DataFrame:
    """The frame; HardlabError for a word among numbers, and for a missing one of the columns ``need``."""
    for column, kind in kinds.items():
        if (
            kind in (NUMBER, WHOLE)
            and column in frame
            and not pd.api.types.is_numeric_dtype(frame[column])
            and len(frame)
        ):
            wrong = frame[column][pd.to_numeric(frame[column], errors="coerce").isna() & frame[column].notna()]
            shown = repr(str(wrong.iloc[0]))[:60] if len(wrong) else "too large a number"
            raise HardlabError(f"The table '{path}' has {shown} in its column '{column}', which holds numbers.")
    need = list(need)
    if missing := [c for c in ("run", *need) if c in need and c not in frame.columns]:
        raise HardlabError(f"The table '{path}' has no column '{missing[0]}'. It needs: {', '.join(need)}; {AGAIN}.")
    return frame


def _spread(path: Path, lines: pd.DataFrame, series: Sequence[str]) -> pd.DataFrame:
    """A row for each number of the lines; a blank cell is blank in all rows of its line."""
    words = {column: lines[column].str.split(" ") for column in series}
    counts = pd.DataFrame({column: words[column].str.len() for column in series})
    most = counts.max(axis=1)
    for column in series:
        if (wrong := counts[column].ne(most) & lines[column].ne("")).any():
            raise HardlabError(
                f"The table '{path}' has {counts[column][wrong].iloc[0]} numbers in its column '{column}' where "
                f"another has {most[wrong].iloc[0]}; {AGAIN}."
            )
    rows = lines.drop(columns=list(series)).loc[lines.index.repeat(most)].reset_index(drop=True)
    for column in series:
        pairs = zip(words[column], most, strict=True)
        texts = pd.Series([w for each, n in pairs for w in (each if len(each) == n else each * n)], dtype=object)
        numbers = pd.to_numeric(texts.replace(["", "nan"], np.nan), errors="coerce")
        rows[column] = texts if (numbers.isna() & ~texts.isin(["", "nan"])).any() else numbers
    return rows


def _joined(folder: Path, path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the columns ``WHO`` of their runs; a row of several runs lists their recipes and seeds."""
    known = {about["run"]: about for about in _read_runs(folder).to_dict("records")}
    each: dict[str, dict[str, Any]] = {}
    for cell in rows["run"].unique():
        names = [cell] if cell in known else cell.split()
        if lacking := [n for n in names if n not in known] or [""] * (not names):
            raise HardlabError(
                f"The table '{path}' names the run '{lacking[0]}', which '{folder / RUNS}.csv' lacks; {AGAIN}."
            )
        each[cell] = known[names[0]] | {"run": cell}
        if len(names) > 1:
            each[cell] |= {c: " ".join(dict.fromkeys(str(known[n][c]) for n in names)) for c in ("recipe", "seed")}
    about = pd.DataFrame(list(each.values()), columns=list(WHO))
    if TABLES[path.stem]["seed"] == TEXT:
        about["seed"] = about["seed"].astype(str)
    return rows.merge(about, on="run", how="left", sort=False)


def empty_runs() -> pd.DataFrame:
    """``runs.csv`` without rows."""
    return pd.DataFrame(columns=list(WHO))


def read_runs(folder: Path | str) -> pd.DataFrame:
    """What each run of a folder of tables is: a row per run, with the columns ``WHO``; none without a table.

    From ``runs.csv``, then from the tables of an earlier version, in which each row said it.
    """
    folder = Path(folder)
    parts = [_read_runs(folder)]
    for name, kinds in TABLES.items():
        path = folder / f"{name}.csv"
        if kinds["seed"] != TEXT and path.exists() and set(WHO[:-1]) & set(_parsed(path, {}, nrows=0).columns):
            rows = read(folder, name, whole=False)
            parts += [rows[list(WHO)]] if set(WHO) <= set(rows) else []
    filled = [part for part in parts if len(part)]
    return pd.concat(filled).drop_duplicates("run", ignore_index=True) if filled else parts[0]


def _read_runs(folder: Path) -> pd.DataFrame:
    path = folder / f"{RUNS}.csv"
    return _checked(path, _parsed(path, _BY), _BY, _BY) if path.exists() else empty_runs()


def _configurations(folder: Path) -> pd.DataFrame:
    """The whole configuration of every collected run, and the device that it ran on.

    Dotted keys, with values as JSON. Of a run in ``manifests.jsonl`` that no table names there is none.
    """
    runs, manifests = _read_runs(folder), read_manifests(folder)
    parts: dict[str, list[Any]] = {column: [] for column in columns(CONFIGS)}
    for about in runs[runs["run"].isin(list(manifests))].to_dict("records"):
        manifest = manifests[about["run"]]
        tree = config.as_ran(manifest) | {"device": manifest.get("device")}
        settings = [(k, v) for k, v in config.flat(tree) if not k.startswith(("parent.", "logs."))]
        for column in WHO:
            parts[column] += [about[column]] * len(settings)
        parts["key"] += [k for k, _ in settings]
        parts["value"] += [v if isinstance(v, str) else json.dumps(v) for _, v in settings]
    frame = pd.DataFrame(parts) if parts["run"] else empty(CONFIGS)
    return frame.sort_values(columns(CONFIGS), kind="stable", ignore_index=True)


def write(folder: Path | str, tables: Mapping[str, pd.DataFrame], runs: pd.DataFrame) -> list[Path]:
    """Write tables as CSV files, and ``runs.csv``; returns the paths.

    runs: the rows of ``runs.csv``, of all runs that a table of the folder names then. Rows are sorted, with six
    significant digits and Unix line ends, so that the same rows give the same bytes. Each file is replaced in one step,
    and ``runs.csv`` has the earlier runs, too, until all are.
    """
    folder = Path(folder)
    earlier = _read_runs(folder)
    earlier = earlier[~earlier["run"].isin(runs["run"])]
    _write(folder, RUNS, pd.concat([runs, earlier]) if len(earlier) else runs)
    written = [_write(folder, name, rows) for name, rows in tables.items()]
    (folder / f"{CONFIGS}.csv").unlink(missing_ok=True)  # of an earlier version
    return [_write(folder, RUNS, runs), *written]


def _write(folder: Path, name: str, rows: pd.DataFrame) -> Path:
    """Write the sorted rows of a table into its file."""
    path, kept = folder / f"{name}.csv", list(WHO) if name == RUNS else columns(name)
    rows = rows.reindex(columns=kept)
    rows = rows.sort_values(kept, kind="stable")
    if series := SERIES.get(name):
        rows = _lines(rows, list(series))
    text = rows.reindex(columns=stored(name)).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    files.write_atomic(path, text.encode())
    return path


def _lines(rows: pd.DataFrame, series: list[str]) -> pd.DataFrame:
    """A line for all rows that are equal in the columns other than ``series``."""
    shared = [c for c in rows if c not in series]
    lines = []
    for key, group in rows.groupby(shared, sort=True, dropna=False):
        cells = {c: ["nan" if pd.isna(v) else f"{v:.6g}" for v in group[c]] for c in series}
        joined = {c: "" if set(words) == {"nan"} else " ".join(words) for c, words in cells.items()}
        lines.append(dict(zip(shared, key, strict=True)) | joined)
    return pd.DataFrame(lines, columns=list(rows))


def read_manifests(folder: Path | str) -> dict[str, dict[str, Any]]:
    """Run -> manifest, from the ``manifests.jsonl`` of a folder of tables; empty if there is none.

    Raises HardlabError, which names the file and a line that is not JSON.
    """
    path = Path(folder) / "manifests.jsonl"
    lines = files.read_lines(path, appended=False)
    try:
        return {m["id"]: files.checked_manifest(m, path, need=("id", "config")) for m in lines}
    except (files.DamagedFile, LookupError, TypeError) as e:
        raise HardlabError(f"'{path}' has a line that is not a manifest: {e}") from e


def who(about: Mapping[str, Any]) -> dict[str, Any]:
    """The first columns of every table, ``WHO``, for a run."""
    return {k: about[k] for k in WHO}
