"""Each quantity of an arm over its seeds, and the arm's gain over standard training, paired by seed."""

from __future__ import annotations

import pandas as pd

from hardlab.analysis.arms import STANDARD, gains, named_once
from hardlab.analysis.intervals import Interval, interval
from hardlab.analysis.schema import WHO

VALUE, GAIN = "", "gain"  # kinds of quantity: a value, or its difference to standard training
MEASURED = ("protocol", "metric", "features", "evaluated_on", "options")  # the columns that identify an accuracy
_PLACE = ("rung", "data", "method", "setting")
# a row summarises a number of the view log (``name``) or of the evaluation (``MEASURED``)
COLUMNS = (*WHO, "name", *MEASURED, "kind", *Interval._fields)


def summary(share: pd.DataFrame, overlap: pd.DataFrame, evaluation: pd.DataFrame) -> pd.DataFrame:
    """The tables hvs_f4_right, hvs_f4_left and evaluation -> ``COLUMNS``: a row per setting, arm and quantity.

    A run's share and IoU are means over its logged epochs, each epoch with the same weight. ``options`` is blank if all
    runs were evaluated with the same options. recipe, seed and run list every run behind the row.
    """
    values = named_once(_values(share, overlap, evaluation), ["name", *MEASURED])
    everything = pd.concat([values.assign(kind=VALUE), *_gains(values)])
    out = []
    keys = [*_PLACE, "arm", "name", *MEASURED, "kind"]
    for key, rows in everything.groupby(keys, sort=True):
        rows = rows.sort_values(["seed", "run"])
        named = {c: " ".join(dict.fromkeys(str(v) for v in rows[c])) for c in ("recipe", "seed", "run")}
        out.append({**dict(zip(keys, key, strict=True)), **named, **interval(rows["value"])._asdict()})
    return pd.DataFrame(out, columns=list(COLUMNS))


def in_words(protocol: str, metric: str, features: str, evaluated_on: str, options: str = "", kind: str = VALUE) -> str:
    """The name of a measured quantity in hvs_summary.csv."""
    words = f"{protocol} {metric} of {features} on {evaluated_on}"
    return words + (f" {options}" if options else "") + (": gain" if kind == GAIN else "")


def quantities(rows: pd.DataFrame) -> list[str]:
    """The name of the quantity in each row of the summary."""
    measured = rows[[*MEASURED, "kind"]].itertuples(index=False)
    return [name or in_words(*m) for name, m in zip(rows["name"], measured, strict=True)]


def _values(share: pd.DataFrame, overlap: pd.DataFrame, evaluation: pd.DataFrame) -> pd.DataFrame:
    """A row per run and quantity."""
    per_run = [_means(share, {c: f"lowest_iou_{c}" for c in ("share", "chance", "control", "tied")})]
    if len(overlap):
        per_run += [_means(rows, {"iou": f"iou_{name}"}) for name, rows in overlap.groupby("series", sort=True)]
    if len(evaluation):
        several = evaluation.groupby(list(MEASURED[:-1]))["options"].transform("nunique") > 1
        options = evaluation["options"].where(several, "")  # only if several options were used
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
    """The difference of every arm's quantities to standard training in the same setting, seed by seed."""
    arms, standard = values[values["arm"] != STANDARD], values[values["arm"] == STANDARD]
    selected = arms[arms["name"] == "iou_selected"]
    rest = arms[(arms["name"] != "iou_selected") & (arms["features"] != "pixels")]  # the same images for every arm
    plain = _differences(rest, standard, ["name"])
    plain = plain.assign(name=plain["name"].where(plain["name"] == "", plain["name"] + ": gain"))
    first = arms[arms["name"] == "iou_first"]
    return [
        plain,
        _differences(selected, first, ["arm"]).assign(name="iou_selected - iou_first"),
        _differences(selected, standard[standard["name"] == "iou_standard"], []).assign(
            name="iou_selected - iou_standard"
        ),
    ]


def _differences(arm: pd.DataFrame, other: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """arm - other for each seed of a setting."""
    return gains(arm, other, [*MEASURED, *by]).assign(kind=GAIN)[[*WHO, "name", *MEASURED, "kind", "value"]]
