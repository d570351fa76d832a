"""Each quantity of a setting's arms over its seeds, and what an arm gains over standard training, paired by seed."""

from __future__ import annotations

import pandas as pd

from hardlab.analysis.arms import STANDARD, gains, named_once
from hardlab.analysis.intervals import Interval, interval
from hardlab.analysis.schema import WHO

VALUE, GAIN = "", "gain"  # of a quantity: itself, or its difference to standard training
MEASURED = ("protocol", "metric", "features", "evaluated_on", "options")  # of an accuracy
_PLACE = ("rung", "data", "method", "setting")
# what a row of the summary is of: a number of the view log (``name``) or of the evaluation (``MEASURED``)
COLUMNS = (*WHO, "name", *MEASURED, "of", *Interval._fields)


def summary(share: pd.DataFrame, overlap: pd.DataFrame, evaluation: pd.DataFrame) -> pd.DataFrame:
    """The tables hvs_f4_right, hvs_f4_left and evaluation -> ``COLUMNS``: a row per setting, arm and quantity.

    A run's share and IoU are means over its logged epochs, each epoch with the same weight. ``options`` is blank where
    all runs were measured alike. recipe, seed and run name all that count.
    """
    values = named_once(_values(share, overlap, evaluation), ["name", *MEASURED])
    everything = pd.concat([values.assign(of=VALUE), *_gains(values)])
    out = []
    keys = [*_PLACE, "arm", "name", *MEASURED, "of"]
    for key, rows in everything.groupby(keys, sort=True):
        rows = rows.sort_values(["seed", "run"])
        named = {c: " ".join(dict.fromkeys(str(v) for v in rows[c])) for c in ("recipe", "seed", "run")}
        out.append({**dict(zip(keys, key, strict=True)), **named, **interval(rows["value"])._asdict()})
    return pd.DataFrame(out, columns=list(COLUMNS))


def in_words(protocol: str, metric: str, features: str, evaluated_on: str, options: str = "", of: str = VALUE) -> str:
    """A measured quantity as hvs_summary.csv has it."""
    words = f"{protocol} {metric} of {features} on {evaluated_on}"
    return words + (f" {options}" if options else "") + (": gain" if of == GAIN else "")


def quantities(rows: pd.DataFrame) -> list[str]:
    """Rows of the summary in words."""
    measured = rows[[*MEASURED, "of"]].itertuples(index=False)
    return [name or in_words(*m) for name, m in zip(rows["name"], measured, strict=True)]


def _values(share: pd.DataFrame, overlap: pd.DataFrame, evaluation: pd.DataFrame) -> pd.DataFrame:
    """A row per run and quantity."""
    per_run = [_means(share, {c: f"lowest_iou_{c}" for c in ("share", "chance", "control", "tied")})]
    if len(overlap):
        per_run += [_means(rows, {"iou": f"iou_{name}"}) for name, rows in overlap.groupby("series", sort=True)]
    if len(evaluation):
        several = evaluation.groupby(list(MEASURED[:-1]))["options"].transform("nunique") > 1
        options = evaluation["options"].where(several, "")  # only then they tell measurements apart
        per_run.append(evaluation.assign(name="", options=options)[[*WHO, "name", *MEASURED, "value"]])
    parts = [p for p in per_run if len(p)]
    return pd.concat(parts) if parts else pd.DataFrame(columns=[*WHO, "name", *MEASURED, "value"])


def _means(frame: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """A row per run and number of the view log: its mean over the epochs."""
    if not len(frame):
        return pd.DataFrame()
    means = frame.groupby(list(WHO), sort=True)[list(names)].mean().rename(columns=names)
    return means.reset_index().melt(id_vars=list(WHO), var_name="name").assign(**dict.fromkeys(MEASURED, ""))


def _gains(values: pd.DataFrame) -> list[pd.DataFrame]:
    """Every arm's quantities less those of standard training of the same setting, seed by seed."""
    mine, standard = values[values["arm"] != STANDARD], values[values["arm"] == STANDARD]
    selected = mine[mine["name"] == "iou_selected"]
    rest = mine[(mine["name"] != "iou_selected") & (mine["features"] != "pixels")]  # the same images for every arm
    plain = _differences(rest, standard, ["name"])
    plain = plain.assign(name=plain["name"].where(plain["name"] == "", plain["name"] + ": gain"))
    first = mine[mine["name"] == "iou_first"]
    return [
        plain,
        _differences(selected, first, ["arm"]).assign(name="iou_selected - iou_first"),
        _differences(selected, standard[standard["name"] == "iou_standard"], []).assign(
            name="iou_selected - iou_standard"
        ),
    ]


def _differences(arm: pd.DataFrame, other: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Per seed of one setting, mine - other."""
    return gains(arm, other, [*MEASURED, *by]).assign(of=GAIN)[[*WHO, "name", *MEASURED, "of", "value"]]
