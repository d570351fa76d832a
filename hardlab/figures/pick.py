"""Which rows of the evaluation a figure shows: of the highest rung, one data set, one setting an arm."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, NamedTuple

import pandas as pd

from hardlab.analysis.intervals import Interval, interval
from hardlab.analysis.tables import flat
from hardlab.recipes import RECIPES, RUNGS, recipe
from hardlab.registry import BACKBONES, DATASETS, TABLES, options

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

BUILT_IN = ("digits", "shapes")
SCENES = ("detection", "segmentation")  # how the names of protocols on scenes begin


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

    recipe: its name. changes: what is set beside it, as on the command line, e.g. (("method.tau", 0.999),); a run with
    another method or strategies, or other values of these, is another arm. wider: factor of the channels of the rung's
    network. trained: data set and share, e.g. ("CIFAR-10", "20 %"). budget: 0 a training as long as those of most
    recipes, -1 the longest that is longer. minus: a second recipe; the value is then the difference, paired by seed.
    """

    recipe: str
    changes: tuple[tuple[str, Any], ...] = ()
    trained: tuple[str, str] | None = None
    budget: int | None = None
    minus: str = ""
    wider: int = 1

    def overrides(self, rung: str) -> dict[str, Any]:
        """All that makes it another run than its recipe's, but its data and length."""
        told = dict(self.changes)
        if self.wider > 1:
            network = recipe(self.recipe, rung).backbone.name
            if f"{network}x{self.wider}" in BACKBONES:
                return told | {"backbone.name": f"{network}x{self.wider}"}
            told["backbone.width"] = self.wider * options("backbone", network)["width"].default
        return told

    def command(self, rung: str) -> str:
        """What trains it at a rung."""
        told, run = self.overrides(rung), recipe(self.recipe, rung)
        if self.trained is not None:
            name, share = self.trained
            if run.data.name not in DATA.get(name, (name,)):
                told["data.name"] = DATA.get(name, (name,))[0]
            told["data.fraction"] = float(share.rstrip(" %")) / 100
        if self.budget == -1:
            told["epochs"] = 4 * run.epochs  # the papers' long trainings are 3 to 4 times the short ones
        return " ".join(
            ["hardlab pretrain", self.recipe, "--rung", rung, *(f"{k}={_text(v)}" for k, v in told.items())]
        )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class Book:
    """The collected configurations, by run: which runs are an arm, and how far they are from its recipe."""

    def __init__(self, configs: pd.DataFrame | None) -> None:
        self.runs: dict[str, dict[str, str]] = {}
        if configs is not None:
            for run, rows in configs.groupby("run", sort=False):
                told = dict(zip(rows["key"], rows["value"], strict=True))
                self.runs[str(run)] = _whole(told) if "method.name" in told else told

    def fits(self, run: str, rung: str, arm: Arm) -> bool:
        """Whether a run is the arm, as far as its configuration is known."""
        have, told = self.runs.get(run, {}), arm.overrides(rung)
        wanted = _flat(arm.recipe, rung, json.dumps(told))
        keys = {_key(k) for k in told if not k.startswith("hard.")}
        if "method.name" in have:
            keys |= {k for k in have.keys() | wanted.keys() if k.startswith(("method.", "hard."))}
        return all(_same(have.get(k)) == _same(wanted.get(k)) for k in keys)

    def changes(self, run: str, rung: str, name: str) -> int:
        """In how many keys that decide the outcome, but data and length, a run differs from its recipe."""
        have = self.runs.get(run, {})
        if "method.name" not in have or name not in RECIPES:
            return 0
        wanted = _flat(name, rung, "{}")
        keys = [
            k for k in have if k.partition(".")[0] in ("augment", "backbone", "method", "hard", "optim", "batch_size")
        ]
        return sum(_same(have[k]) != _same(wanted.get(k)) for k in keys)

    def schedule(self, run: str, rung: str, own: str, name: str) -> dict[str, Any]:
        """How long a run of the recipe ``own`` was trained, and a warm-up that it sets: what ``name`` lacks of that."""
        have, told = self.runs.get(run, {}), {}
        for key, usual in (("epochs", name), ("optim.warmup_epochs", own)):
            if key in have and usual in RECIPES and _same(have[key]) != _same(_flat(usual, rung, "{}").get(key)):
                told[key] = json.loads(have[key])
        return told

    def only(self, rows: pd.DataFrame, arm: Arm) -> pd.DataFrame:
        """The rows of an arm's runs."""
        rows = rows[rows["recipe"] == arm.recipe]
        if arm.recipe not in RECIPES:
            return rows
        known = rows.drop_duplicates("run")[["run", "rung"]].itertuples(index=False)
        return rows[rows["run"].isin([r.run for r in known if self.fits(r.run, r.rung, arm)])]

    def epochs(self, run: str) -> float:
        """How long a run was trained; 0 where its configuration is not known."""
        return float(self.runs.get(run, {}).get("epochs", "0"))

    def lengths(self, rows: pd.DataFrame) -> dict[float, int]:
        """How many recipes were trained for so many epochs."""
        each = rows.drop_duplicates(["run", "recipe"])
        return each.groupby(each["run"].map(self.epochs))["recipe"].nunique().to_dict()

    def one_setting(self, rows: pd.DataFrame, peers: pd.DataFrame) -> pd.DataFrame:
        """Of one setting: as long as most recipes of ``peers`` were trained, then shared with the most of them.

        Then of the most seeds, the nearest to its recipe, the longest.
        """
        if not len(rows):
            return rows
        lengths, shared = self.lengths(peers), peers.groupby("setting")["recipe"].nunique().to_dict()
        told = {}
        for name, of in rows.groupby("setting", sort=True):
            first = of.iloc[0]
            epochs = self.epochs(first["run"])
            near = -self.changes(first["run"], first["rung"], first["recipe"])
            told[name] = (lengths.get(epochs, 0), shared.get(name, 0), of["seed"].nunique(), near, epochs, name)
        return rows[rows["setting"] == max(told, key=lambda name: told[name])]


@cache
def _flat(name: str, rung: str, overrides: str) -> dict[str, str]:
    """The configuration of a recipe with overrides (JSON), as the table of configurations tells it."""
    tree = recipe(name, rung, json.loads(overrides)).model_dump(mode="json", exclude={"parent", "logs"})
    return _whole({k: _text(v) for k, v in flat(tree)})


def _whole(told: Mapping[str, str]) -> dict[str, str]:
    """With the options that are at their defaults, so that one that is set to its default is no difference."""
    out = {k: v for k, v in told.items() if v not in ("{}", "[]")}
    for kind, at in (("method", "method"), *(("strategy", f"hard.{i}") for i in range(9))):
        if f"{at}.name" in told:
            out = {f"{at}.options.{k}": v for k, v in _defaults(kind, told[f"{at}.name"]).items()} | out
    return out


@cache
def _defaults(kind: str, name: str) -> dict[str, str]:
    known = name in TABLES[kind]  # not of a run of another version, with a strategy that has gone
    return {k: _text(p.default) for k, p in options(kind, name).items()} if known else {}


def _key(override: str) -> str:
    """``backbone.width`` of the command line is ``backbone.options.width`` of a configuration."""
    head, _, last = override.partition(".")
    options_of = ("augment", "backbone", "method")
    return f"{head}.options.{last}" if head in options_of and last not in ("", "name") else override


_GAPS: ContextVar[dict[str, dict[str, None]] | None] = ContextVar("gaps", default=None)


@contextmanager
def noting() -> Iterator[dict[str, dict[str, None]]]:
    """What fills the gaps of the figures made inside: a training, "" where the runs are there -> its evaluations."""
    found: dict[str, dict[str, None]] = {}
    token = _GAPS.set(found)
    try:
        yield found
    finally:
        _GAPS.reset(token)


def gap(train: str, evaluate: str = "") -> None:
    """Note the commands that fill a gap of the figure that is being made."""
    found = _GAPS.get()
    if found is not None:
        found.setdefault(train, {}).update({evaluate: None} if evaluate else {})


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
        # detection is scored on the built-in scenes whatever a network was trained on
        scenes = rows["protocol"].astype(str).str.startswith(SCENES)
        self.scenes = together(rows[scenes], any_data)
        self.rows = together(rows[~scenes], any_data) if not scenes.all() else self.scenes
        # of several data sets that of an arm which does not say what it was trained on
        self.home = set(together(self.rows, any_data=False)["data"]) if any_data else set()
        self.configs = _empty(("run", "key", "value")) if configs is None else configs
        self.book = Book(configs)
        self.costs = costs[costs["recipe"].isin(recipes)] if costs is not None else _empty(("recipe", "run"))
        if not len(self.rows):  # a figure of costs needs no accuracy
            self.costs = together(self.costs, any_data)
        elif len(self.costs):
            self.costs = self.costs[self.costs["run"].isin(self.rows["run"])]
        epochs = self.configs[self.configs["key"] == "epochs"].set_index("run")["value"]
        epochs = pd.to_numeric(epochs[~epochs.index.duplicated()])
        self.rows, self.scenes = (of.assign(epochs=of["run"].map(epochs)) for of in (self.rows, self.scenes))
        self.used: list[pd.DataFrame] = []
        self.protocols: dict[str, str] = {}

    def runs(self, arm: Arm, rows: pd.DataFrame | None = None) -> pd.DataFrame:
        """The rows of an arm, of one setting."""
        rows = self.book.only(self.rows if rows is None else rows, arm)
        if arm.trained is not None:
            rows = rows[rows["data"].isin(trained_on(*arm.trained))]
        elif self.home:
            rows = rows[rows["data"].isin(self.home)]
        if arm.budget is not None and len(rows):
            lengths = self.book.lengths(self.rows)
            usual = min(lengths, key=lambda epochs: (-lengths[epochs], epochs))
            known = rows["epochs"].fillna(0)
            longest = known.max() if known.max() > usual else -1  # no longer one: all stand with the usual ones
            nearest = min(known.unique(), key=lambda epochs: (abs(epochs - usual), epochs))
            rows = rows[known == (nearest if arm.budget == 0 else longest)]
        return self.book.one_setting(rows, self.rows[self.rows["data"].isin(rows["data"])])

    def values(self, arm: Arm, measure: Measure) -> pd.Series:
        """Seed -> value, accuracies in percent; empty where there is no such run."""
        mine = self._values(arm, measure)
        if not len(mine):
            self._note_gap(arm, measure)
        if arm.minus and len(mine):
            other = self.values(arm._replace(recipe=arm.minus, minus=""), measure)
            return (mine - other).dropna()
        return mine

    def _note_gap(self, arm: Arm, measure: Measure) -> None:
        """What makes an arm's missing value: training it, evaluating it; nothing for data that have no loader."""
        wanted = [measure.on] if measure.on else []
        wanted += [arm.trained[0]] if arm.trained else []
        if any(not set(DATA.get(name, (name,))) & set(DATASETS) for name in wanted):
            return
        mine, to = self.runs(arm), DATA.get(measure.on, (measure.on,))
        if _own(mine).isin(to).any():  # trained on the very set: no evaluation makes it a transfer
            return
        runs = " ".join(f"runs/{name}" for name in sorted(mine["run"].unique()))
        on = f" --data {to[0]}" if measure.on else ""
        evaluate = f"hardlab evaluate {runs or 'RUN'} --protocol {self.protocol(measure)}{on}" if measure.rows else ""
        if not runs or evaluate:
            gap("" if runs else self.command(arm), evaluate)

    def command(self, arm: Arm) -> str:
        """What trains an arm at the rung that is shown, as the runs that it is to stand beside were trained."""
        rung = str(self.rows["rung"].iloc[0]) if len(self.rows) else "cpu"
        beside = self.rows
        if arm.trained is not None:  # of the same images, else of as large a share of others
            share = arm.trained[1]
            same = beside[beside["data"].isin(trained_on(*arm.trained))]
            alike = beside[beside["data"].str.endswith(f" {share}" if share != "100 %" else tuple(DATASETS))]
            beside = same if len(same) else alike
        elif self.home:
            beside = beside[beside["data"].isin(self.home)]
        runs = beside.drop_duplicates("run")[["run", "recipe"]].itertuples(index=False)
        schedules = [self.book.schedule(r.run, rung, r.recipe, arm.recipe) for r in runs]
        usual = pd.Series([told.get("epochs", 0) for told in schedules]).mode()
        if arm.budget != -1 and len(usual) and (len(usual) == 1 or arm.trained is not None):
            told = next(told for told in schedules if told.get("epochs", 0) == usual.max())
            arm = arm._replace(changes=tuple((told | dict(arm.changes)).items()))
        return arm.command(rung)

    def _values(self, arm: Arm, measure: Measure) -> pd.Series:
        if measure.cost:
            rows = self.costs[self.costs["quantity"] == measure.cost] if len(self.costs) else self.costs
            rows = self.book.only(rows, arm)
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
        """The rows of that of the measure's protocols that the most arms and runs have, of equals the first."""
        rows = self.rows
        if measure.on:  # what was trained on the very set is no transfer to it
            names = DATA.get(measure.on, (measure.on,))
            rows = rows[rows["evaluated_on"].isin(names) & ~_own(rows).isin(names)]
        else:
            rows = at_home(rows)
        best = rows.iloc[:0]
        for protocol, metric in measure.rows:
            of = self.scenes if protocol.startswith(SCENES) else rows
            found = of[(of["protocol"] == protocol) & (of["metric"] == metric)]
            if (found["recipe"].nunique(), found["run"].nunique()) > (best["recipe"].nunique(), best["run"].nunique()):
                best = found
        if len(best):
            self.protocols[str(best["protocol"].iloc[0])] = str(best["metric"].iloc[0])
        return best

    def protocol(self, measure: Measure) -> str:
        """The one that the other arms were measured by, or the paper's."""
        found = self._measured(measure)
        return str(found["protocol"].iloc[0]) if len(found) else measure.rows[0][0]

    def _note(self, rows: pd.DataFrame, values: pd.Series) -> pd.Series:
        if len(values):
            self.used.append(rows)
        return values

    @property
    def by(self) -> list[str]:
        """The protocols whose rows were shown."""
        shown = set(self.frame["protocol"]) if "protocol" in self.frame else set()  # a cost has no protocol
        return sorted(shown & self.protocols.keys())

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


def _own(rows: pd.DataFrame) -> pd.Series:
    """The data set that each row's network was trained on, whatever share of it."""
    return rows["data"].astype(str).str.split().str[0]


def at_home(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that were measured on the set that their network was trained on: no transfer."""
    return rows[rows["evaluated_on"] == _own(rows)]


def together(rows: pd.DataFrame, any_data: bool) -> pd.DataFrame:
    """Of the highest rung, the data set of the most recipes and seeds, a real one first; all where ``any_data``."""
    if not len(rows):
        return rows
    rows = rows[rows["rung"] == max(rows["rung"].unique(), key=RUNGS.index)]
    if any_data:
        return rows
    sets = rows.groupby("data")[["recipe", "run"]].nunique()
    best = max(sets.index, key=lambda d: (*sets.loc[d], not d.startswith(BUILT_IN), d))
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
