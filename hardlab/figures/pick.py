"""Which rows of the evaluation a figure shows: of the highest rung, one data set, one setting an arm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pandas as pd

from hardlab.analysis.intervals import Interval, interval
from hardlab.recipes import RUNGS

# as the papers call data sets, and as the loaders do
DATA: dict[str, tuple[str, ...]] = {
    "CIFAR-10": ("cifar10", "cifar10-jpeg"),
    "CIFAR-100": ("cifar100",),
    "FMNIST": ("fashionmnist",),
    "Food101": ("food101",),
    "SUN397": ("sun397",),
    "Cars": ("cars",),
    "Pets": ("pets",),
    "Flowers102": ("flowers102",),
    "ImageNet": ("imagenet",),
    "ImageNet-100": ("imagenet100",),
    "ImageNet-10": ("imagenet10", "imagenette"),
    "VOC07": ("voc2007",),
}


class Measure(NamedTuple):
    """What of ours stands beside a published column.

    rows: (protocol, metric) pairs, the first that was measured counts. head: how the figure calls it. on: the data set
    that it was transferred to; "" is the one trained on. config, cost: a key of those tables instead of an accuracy.
    """

    rows: tuple[tuple[str, str], ...] = ()
    head: str = ""
    on: str = ""
    config: str = ""
    cost: str = ""
    per: float = 1.0  # a config's or cost's unit


class Arm(NamedTuple):
    """One of our runs, whatever its seed.

    recipe: its name. where: keys of its configuration with their values as JSON, None for a key at its default.
    trained: data set and share, e.g. ("CIFAR-10", "20 %"). budget: 0 the shortest training, -1 the longest of several.
    """

    recipe: str
    where: tuple[tuple[str, str | None], ...] = ()
    trained: tuple[str, str] | None = None
    budget: int | None = None
    minus: str = ""  # a second recipe; the value is then the difference, paired by seed


def measured(*rows: tuple[str, str], head: str, on: str = "") -> Measure:
    return Measure(rows, head, on)


def linear(*protocols: str, head: str = "linear", on: str = "", metric: str = "top1") -> Measure:
    """Linear accuracy by the paper's protocol, or else by the public default for CIFAR, or at the optimum."""
    probes = [(p, f"{metric}-last") for p in (*protocols, "linear")]
    return Measure((*probes, ("linear-lbfgs", metric)), head, on)


KNN = Measure((("knn", "top1@k=20"),), "kNN")


class Ours:
    """The rows of one figure, and what was taken from them.

    evaluation, configs, costs: whole tables. recipes: those that the figure may show; the rung and the data set that
    most of them were trained at are chosen once for the whole figure, so that all its numbers belong together.
    """

    def __init__(
        self,
        recipes: Iterable[str],
        evaluation: pd.DataFrame,
        configs: pd.DataFrame | None = None,
        costs: pd.DataFrame | None = None,
        any_data: bool = False,
    ) -> None:
        recipes = list(recipes)
        rows = evaluation[evaluation["recipe"].isin(recipes) & evaluation["split"].eq("test")]
        rows = rows[~rows["features"].isin(["pixels", "student"])]
        self.rows = together(rows, any_data)
        self.configs = _empty(("run", "key", "value")) if configs is None else configs
        self.costs = costs[costs["recipe"].isin(recipes)] if costs is not None else _empty(("recipe", "run"))
        if not len(self.rows):  # a figure of costs needs no accuracy
            self.costs = together(self.costs, any_data)
        elif len(self.costs):
            self.costs = self.costs[self.costs["run"].isin(self.rows["run"])]
        epochs = self.configs[self.configs["key"] == "epochs"].set_index("run")["value"]
        self.rows = self.rows.assign(epochs=pd.to_numeric(self.rows["run"].map(epochs[~epochs.index.duplicated()])))
        self.used: list[pd.DataFrame] = []
        self.protocols: dict[str, str] = {}

    def runs(self, arm: Arm, rows: pd.DataFrame | None = None) -> pd.DataFrame:
        """The rows of an arm, of one setting."""
        rows = self.rows if rows is None else rows
        rows = rows[rows["recipe"] == arm.recipe]
        if arm.trained is not None:
            rows = rows[rows["data"].isin(trained_on(*arm.trained))]
        for key, value in arm.where:
            told = self.configs[self.configs["key"] == key].set_index("run")["value"]
            told = told[~told.index.duplicated()]
            found = rows["run"].map(told)
            rows = rows[found.isna() if value is None else found.map(_same) == _same(value)]
        if arm.budget is not None and rows["epochs"].nunique() > 1:
            rows = rows[rows["epochs"] == (rows["epochs"].min() if arm.budget == 0 else rows["epochs"].max())]
        elif arm.budget == -1:  # one budget only: it stands with the short ones
            rows = rows.iloc[:0]
        if not len(rows):
            return rows
        peers = self.rows.groupby("setting")["recipe"].nunique() if len(self.rows) else pd.Series(dtype=int)
        settings = rows.groupby("setting")["seed"].nunique()
        length = rows.groupby("setting")["epochs"].max() if "epochs" in rows else settings
        best = max(settings.index, key=lambda s: (peers.get(s, 0), settings[s], length.fillna(0)[s], s))
        return rows[rows["setting"] == best]

    def values(self, arm: Arm, measure: Measure) -> pd.Series:
        """Seed -> value, accuracies in percent; empty where there is no such run."""
        mine = self._values(arm, measure)
        if arm.minus and len(mine):
            other = self._values(arm._replace(recipe=arm.minus, minus=""), measure)
            return (mine - other).dropna()
        return mine

    def _values(self, arm: Arm, measure: Measure) -> pd.Series:
        if measure.cost:
            rows = self.costs[self.costs["quantity"] == measure.cost] if len(self.costs) else self.costs
            rows = rows[rows["recipe"] == arm.recipe]
            if len(self.rows):
                rows = rows[rows["run"].isin(self.runs(arm)["run"])]
            return self._note(
                rows, rows.groupby("seed")["value"].mean() / measure.per if len(rows) else pd.Series(dtype=float)
            )
        if measure.config:
            runs = self.runs(arm)
            told = self.configs[(self.configs["key"] == measure.config) & self.configs["run"].isin(runs["run"])]
            return self._note(
                runs, pd.to_numeric(told.set_index("seed")["value"]) if len(told) else pd.Series(dtype=float)
            )
        rows = self.runs(arm, self._measured(measure))
        return self._note(rows, 100 * rows.groupby("seed")["value"].mean())

    def _measured(self, measure: Measure) -> pd.DataFrame:
        """The rows of the first of the measure's protocols that any run of the figure has."""
        rows = self.rows
        own = rows["data"].astype(str).str.split().str[0]
        if measure.on:  # what was trained on the very set is no transfer to it
            names = DATA.get(measure.on, (measure.on,))
            rows = rows[rows["evaluated_on"].isin(names) & ~own.isin(names)]
        else:
            scenes = rows["protocol"].astype(str).str.startswith(("detection", "segmentation"))
            rows = rows[scenes | (rows["evaluated_on"] == own)]
        for protocol, metric in measure.rows:
            found = rows[(rows["protocol"] == protocol) & (rows["metric"] == metric)]
            if len(found):
                self.protocols[protocol] = metric
                return found
        return rows.iloc[:0]

    def _note(self, rows: pd.DataFrame, values: pd.Series) -> pd.Series:
        if len(values):
            self.used.append(rows)
        return values

    def interval(self, arm: Arm, measure: Measure) -> Interval:
        """Mean and 95 % interval over the seeds."""
        return interval(self.values(arm, measure))

    @property
    def frame(self) -> pd.DataFrame:
        """All rows that were shown, for a caption."""
        return pd.concat(self.used) if self.used else self.rows.iloc[:0]


def trained_on(data: str, share: str = "100 %") -> list[str]:
    """Names of a data set and share in the column ``data``."""
    return [name if share == "100 %" else f"{name} {share}" for name in DATA.get(data, (data,))]


def together(rows: pd.DataFrame, any_data: bool) -> pd.DataFrame:
    """Of the highest rung, the data set of the most recipes and seeds; every data set where ``any_data``."""
    if not len(rows):
        return rows
    rows = rows[rows["rung"] == max(rows["rung"].unique(), key=RUNGS.index)]
    if any_data:
        return rows
    sets = rows.groupby("data")[["recipe", "run"]].nunique()
    best = max(sets.index, key=lambda d: (*sets.loc[d], d))
    return rows[rows["data"] == best]


def _same(value: object) -> object:
    """Numbers as numbers, so that 1 is 1.0."""
    try:
        return float(str(value))
    except ValueError:
        return value


def _empty(columns: Iterable[str]) -> pd.DataFrame:
    return pd.DataFrame(columns=list(columns))


def published(paper: pd.DataFrame, who: str, item: str) -> Mapping[tuple[str, str], str]:
    """(row, column) -> value as it is printed."""
    rows = paper[(paper["paper"] == who) & (paper["item"] == item)]
    return dict(zip(zip(rows["row"], rows["column"], strict=True), rows["value"].astype(str), strict=True))
