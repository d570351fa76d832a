"""The tables that figures, claims and the report read: columns, types, and the functions that read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from hardlab import files
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
# of a snapshot of negatives
SCORES = (
    "step", "share", "chance", "hardness", "distance", "query_distance", "norm", "age", "negatives", "queries",
    "false_hardest", "false_all", "nearest_real",
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
# the papers' printed numbers, transcribed by hand as text: 68.80, not 68.8
PUBLISHED: Columns = dict.fromkeys(("paper", "item", "row", "column", "value", "unit", "place"), TEXT)
PAPER = "paper"


def columns(name: str) -> list[str]:
    """The columns of a table, in the order of its file."""
    return list(PUBLISHED if name == PAPER else TABLES[name])


def empty(name: str) -> pd.DataFrame:
    """The table ``name`` without rows."""
    return pd.DataFrame(columns=columns(name))


def read(folder: Path | str, name: str, *, whole: bool = True) -> pd.DataFrame:
    """Read the table ``name`` of a folder; a missing file gives a table without rows.

    whole: refuse a file that lacks a column; otherwise, as for tables of an earlier version, read the columns that
    exist. Raises HardlabError, which names the file, if the file holds no such table.
    """
    path = Path(folder) / f"{name}.csv"
    if not path.exists():
        return empty(name)
    kinds = PUBLISHED if name == PAPER else TABLES[name]
    texts = {column: str for column, kind in kinds.items() if kind == TEXT}
    blank = {column: [""] for column, kind in kinds.items() if kind != TEXT}
    try:
        if not path.is_file():  # a pipe would be waited for
            raise OSError("it is not a file")
        frame = pd.read_csv(
            path, encoding="utf-8", dtype=texts, keep_default_na=False, na_values=blank, low_memory=False
        )
    except (OSError, ValueError) as e:  # as are pandas' own errors, also for bytes that are no text
        raise HardlabError(f"The table '{path}' cannot be read: {type(e).__name__}: {' '.join(str(e).split())}.") from e
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes the first fields of longer lines as names of rows
        raise HardlabError(f"The table '{path}' cannot be read: its lines have more fields than its head.")
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
    if whole and (missing := [c for c in ("run", *kinds) if c in kinds and c not in frame.columns]):
        raise HardlabError(f"The table '{path}' has no column '{missing[0]}'. It needs: {', '.join(kinds)}.")
    return frame


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
