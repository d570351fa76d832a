"""The rules for which runs may be compared, explained in docs/arms.md.

One rule says which runs are an arm: all of a recipe with the same overrides (``Book.matching``). Two say which arms
compare: side by side, each with a mean over runs of one rung, data set and setting (``Book.together``), or paired by
seed (``Book.paired``). Only this module chooses runs, by their configurations and never by their results.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from hardlab import config
from hardlab.analysis import schema
from hardlab.analysis.gap_notes import evaluate_command, gap
from hardlab.analysis.intervals import Interval, interval
from hardlab.analysis.schema import SAME
from hardlab.config import Run
from hardlab.errors import HardlabError
from hardlab.recipes import RECIPES, RUNGS, recipe
from hardlab.registry import BACKBONES, DATASETS, TABLES, options

STANDARD, HVS, STATIC, UNTRAINED = "standard", "hvs", "hvs colour=static", "untrained"  # of the column `arm`
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
# The primary probe of accuracies below rung `paper`, in claims, figures and the README: it has no schedule to choose.
LINEAR = ("linear-lbfgs", "top1")
# the system of each paper on the base method that it analyses or names first, then methods without any strategy
SYSTEMS = {"simsiam-hvs": "HVS", "hexa-moco": "HEXA", "hnssl": "HNSSL", "adco": "AdCo", "ppcl": "PPCL"}
ROSTER = (*SYSTEMS, "simsiam", "simclr", "moco", "dino")
SCENES = ("detection", "segmentation")  # how the names of protocols on scenes begin
# what an evaluation or a cost is, beside its run
MEASUREMENT = ("protocol", "features", "evaluated_on", "split", "options", "quantity")
ONE_MEAN = ("recipe", "setting", "arm", "rung")  # runs that share these differ in their seeds alone
_PLACE = ("rung", "data", "method", "setting")  # columns that paired arms share
_NAMES = ("recipe", "rung", "seed", "device")  # keys that make a run no other arm
_OUTSIDE = ("parent", "logs")  # groups of a configuration that decide nothing, or follow from the recipe
_SHARED = "parent.seed"  # kept of a parent where it is not the run's own seed: several runs share that parent
_DECIDES = ("augment", "backbone", "method", "hard", "optim", "batch_size")  # decide the outcome, with data and length


Over = Literal["mean", "first", "last", "rise", "later", "late", "early", "spread", "jitter", "tail"]


class Measure(BaseModel):
    """A quantity of a run, read from a table.

    table: its name.
    where: column -> value of the rows to read.
    rows: for evaluations, (protocol, metric) pairs, of which the first that was measured counts.
    value: the column to read.
    over: how the epochs of a run become one number, a key of ``claims.OVER``.
    on: the data set of a transfer, "" for the training set.
    per: the unit of a cost.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    table: str = "evaluation"
    where: dict[str, str] = Field(default_factory=dict)
    rows: tuple[tuple[str, str], ...] = ()
    value: str = "value"
    over: Over = "mean"
    on: str = ""
    per: float = 1.0

    @property
    def of_network(self) -> bool:
        """Whether the training length plays no part: a setting, or a number of parameters."""
        return self.table == "configs" or self.where.get("quantity") == "parameters"

    def transferred(self, on: str) -> Measure:
        """The same measure on another data set, given by its name in the papers."""
        return self.model_copy(update={"on": on})


class Arm(NamedTuple):
    """Our runs of one recipe with the same overrides, of any seeds.

    recipe: its name.
    changes: overrides as on the command line, e.g. (("method.tau", 0.999),); a run with other values of these, another
        method or other strategies belongs to another arm.
    wider: factor of the channels of the rung's network.
    trained: data set and share, e.g. ("CIFAR-10", "20 %").
    budget: 0 for the recipe's own training length, -1 for the longest run of at least ``LONG`` times that.
    minus: a second recipe; the value is then the difference, paired by seed.
    sets: the loaders' names of the data sets that count; empty = any.
    longer: training length as a multiple of the recipe's.
    """

    recipe: str
    changes: tuple[tuple[str, Any], ...] = ()
    trained: tuple[str, str] | None = None
    budget: int | None = None
    minus: str = ""
    wider: int = 1
    sets: tuple[str, ...] = ()
    longer: float = 1.0

    def overrides(self, rung: str) -> dict[str, Any]:
        """All overrides of the recipe at a rung, except data and a published length."""
        changed = dict(self.changes)
        if self.longer != 1:
            changed["epochs"] = round(self.longer * _usual(self.recipe, rung).epochs)
        if self.wider > 1:
            network = _usual(self.recipe, rung).backbone.name
            if f"{network}x{self.wider}" in BACKBONES:
                return changed | {"backbone.name": f"{network}x{self.wider}"}
            changed["backbone.width"] = self.wider * options("backbone", network)["width"].default
        return changed

    def pairs(self, rung: str, more: Mapping[str, Any] | None = None) -> tuple[str, ...]:
        """All overrides at a rung, data and length included, as on the command line. more: others, such as a seed."""
        changed, run = self.overrides(rung), _usual(self.recipe, rung)
        if self.sets and run.data.name not in self.sets:
            changed["data.name"] = self.sets[0]
        if self.trained is not None:
            name, share = self.trained
            if run.data.name not in DATA.get(name, (name,)):
                changed["data.name"] = DATA.get(name, (name,))[0]
            changed["data.fraction"] = float(share.rstrip(" %")) / 100
        if self.budget == -1:
            changed["epochs"] = 4 * run.epochs  # the papers' long trainings are 3 to 4 times the short ones
        return tuple(f"{k}={config.written(v)}" for k, v in {**changed, **(more or {})}.items())

    def command(self, rung: str, more: Mapping[str, Any] | None = None) -> str:
        """The command that trains this arm at a rung."""
        return shlex.join(["hardlab", "pretrain", self.recipe, "--rung", rung, *self.pairs(rung, more)])


class Paired(NamedTuple):
    """Runs of several arms that differ only in their arm, paired by seed.

    values, runs: of each arm, in the order of ``seeds``. changes: settings but precision in which all of these runs
    differ from their recipes.
    """

    rung: str
    seeds: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]
    runs: tuple[tuple[str, ...], ...]
    changes: dict[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all runs, arm by arm."""
        return tuple(dict.fromkeys(run for arm_runs in self.runs for run in arm_runs))


class Book:
    """The whole configuration of each collected run: dotted key -> value as text."""

    def __init__(self, facts: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self.runs = {
            name: _whole(fact) if "method.name" in fact else dict(fact) for name, fact in (facts or {}).items()
        }
        self.started: dict[str, str] = {}  # when each began, where its manifest says so
        self.devices: dict[str, str] = {}  # what each ran on, where its manifest says so
        self.uncommitted: set[str] = set()  # those of a checkout with uncommitted changes

    @classmethod
    def of_configs(cls, configs: pd.DataFrame | None) -> Book:
        """Make a book from the table of configurations."""
        if configs is None:
            return cls()
        groups = configs.groupby("run", sort=False)
        return cls({str(run): dict(zip(group["key"], group["value"], strict=True)) for run, group in groups})

    @classmethod
    def of_folder(cls, folder: Path | str) -> Book:
        """Make a book from the manifests in a folder of tables, read by the current version.

        A run whose configuration the current version cannot read belongs to no arm.
        """
        facts, manifests, read = {}, schema.read_manifests(folder), {}
        for name, manifest in manifests.items():
            tree = config.as_ran(manifest)  # arms of two precisions are no pair
            seed = {"seed": _text(tree.pop("seed"))}
            text = json.dumps(tree, sort_keys=True)
            try:
                if text not in read:  # the seeds of an arm differ in nothing else
                    read[text] = _as_text(config.make(tree))
            except HardlabError:
                continue
            facts[name] = read[text] | seed
        book = cls(facts)
        book.started = {name: str(m["started"]) for name, m in manifests.items() if m.get("started")}
        book.devices = {name: str(m["device"]) for name, m in manifests.items() if m.get("device")}
        book.uncommitted = {name for name, m in manifests.items() if m.get("dirty")}
        return book

    # ------------------------------------------------------------------------------------- which runs are an arm

    def matching(
        self, arm: Arm, among: Mapping[str, str] | None = None, other_keys: Iterable[str] = ()
    ) -> dict[str, dict[str, Any]]:
        """The runs of an arm, each with its differences from the recipe beyond what the arm sets.

        A run with another method, other strategies, or other values of the arm's overrides belongs to another arm, and
        so does a run that differs in a key of ``other_keys``, the overrides of other arms in the comparison. Seed, logs
        and parent do not matter. among: run -> rung of the runs to match; by default all of the recipe. A run of
        unknown configuration is matched by the arm's overrides alone.
        """
        if among is None:
            among = {name: facts["rung"] for name, facts in self.runs.items() if facts["recipe"] == arm.recipe}
        matches = {}
        for name, rung in among.items():
            facts, overrides = self.runs.get(name, {}), arm.overrides(rung)
            if arm.sets and facts.get("data.name") not in arm.sets:
                continue
            changes = self._changes(name, arm.recipe, rung, json.dumps(overrides, sort_keys=True))
            changes = {k: v for k, v in changes.items() if not (arm.sets and k == "data.name")}
            keys = {"method", "hard", *map(option_key, (*overrides, *other_keys))}
            if not any(k == o or k.startswith(f"{o}.") for k in changes for o in keys):
                matches[name] = {k: _typed(v) for k, v in changes.items()}
        return matches

    def _changes(self, name: str, recipe: str, rung: str, overrides: str) -> dict[str, str | None]:
        """The keys in which a run differs from a recipe with overrides (JSON), with the run's values.

        If the configuration of the run lacks "method.name", it is incomplete, and only the overrides are compared.
        """
        facts, expected = self.runs.get(name, {}), _flat(recipe, rung, overrides)
        keys = {k for k, _ in facts.items() ^ expected.items()}  # which differ as text
        if "method.name" not in facts:
            keys = {option_key(k) for k in json.loads(overrides) if not k.startswith("hard.")}
        keys = {k for k in keys if k not in _NAMES and (k == _SHARED or k.partition(".")[0] not in _OUTSIDE)}
        return {k: facts.get(k) for k in keys if not _same(facts.get(k), expected.get(k))}

    def only(self, rows: pd.DataFrame, arm: Arm) -> pd.DataFrame:
        """The rows of runs that belong to an arm."""
        rows = rows[rows["recipe"] == arm.recipe]
        if arm.recipe not in RECIPES:
            return rows
        distinct = rows.drop_duplicates("run")
        matching = self.matching(arm, dict(zip(distinct["run"], distinct["rung"], strict=True)))
        return rows[rows["run"].isin(list(matching))]

    # ------------------------------------------------------------------------------------- which arms are compared

    def together(self, arms: Sequence[Arm], rows: pd.DataFrame) -> list[pd.DataFrame]:
        """The rows of each arm that share a mean, so that the arms can stand side by side.

        They are of the highest rung that the arms have, of the data set of most recipes there, and, for each arm, of
        one setting.
        """
        shared = one_data(highest_rung(rows[rows["recipe"].isin([a.recipe for a in arms])]))
        return [self.one_setting(self.only(shared, arm), shared) for arm in arms]

    def alike(self, arms: Sequence[Arm]) -> list[dict[str, tuple[str, str]]]:
        """The runs of each arm with their rung and changes (JSON): runs of two arms compare if these are equal."""
        other_keys = {key for arm in arms for key, _ in arm.changes}
        return [
            {
                name: (self.runs[name]["rung"], json.dumps(changes, sort_keys=True))
                for name, changes in self.matching(arm, other_keys=other_keys).items()
            }
            for arm in arms
        ]

    def with_partners(
        self, alike: Sequence[Mapping[str, tuple[str, str]]]
    ) -> dict[tuple[str, str], dict[int, tuple[list[str], ...]]]:
        """The seeds that every arm has at each rung with the same changes.

        Runs of one seed are partners in one precision only: of two precisions that all arms have, in the one that they
        have with more seeds, of equals in fp32. Pairs of both count together: what a precision adds, it adds to both
        arms.
        Returns (rung, changes but precision) -> seed -> the names of each arm's runs. alike: as ``alike`` returns, or a
        part of it.
        """
        sides: list[dict[tuple[str, str], dict[int, list[str]]]] = []
        for runs in alike:
            side: dict[tuple[str, str], dict[int, list[str]]] = {}
            for name in sorted(runs):
                side.setdefault(runs[name], {}).setdefault(int(self.runs[name]["seed"]), []).append(name)
            sides.append(side)
        common = {
            key: {
                seed: tuple(side[key][seed] for side in sides)
                for seed in set.intersection(*(set(s[key]) for s in sides))
            }
            for key in sorted(set.intersection(*map(set, sides)))
        }
        pooled: dict[tuple[str, str], dict[int, tuple[list[str], ...]]] = {}
        for (rung, changes), partners in sorted(common.items(), key=lambda item: len(item[1])):  # the last one counts
            rest = {k: v for k, v in json.loads(changes).items() if k != "precision"}
            pooled.setdefault((rung, json.dumps(rest, sort_keys=True)), {}).update(partners)
        return {key: dict(sorted(pooled[key].items())) for key in sorted(pooled)}

    def paired(
        self, alike: Sequence[Mapping[str, tuple[str, str]]], values: Sequence[Mapping[str, float]], least: str
    ) -> list[Paired]:
        """The comparable runs of several arms, paired by seed, the best group first; empty if there are none.

        alike: as the method ``alike`` returns. values: run -> value for each arm. A seed counts only if every arm has
        it; of two runs of a seed the last by name counts. Groups rank by these criteria in turn: a rung of at least
        ``least`` with two seeds, the highest rung, the most seeds, the fewest changes, the longest training.
        """
        measured = [{name: keys[name] for name in own} for keys, own in zip(alike, values, strict=True)]
        groups = []
        for (rung, changes), seeds in self.with_partners(measured).items():
            runs = tuple(tuple(each[at][-1] for each in seeds.values()) for at in range(len(alike)))
            numbers = tuple(tuple(own[name] for name in names) for own, names in zip(values, runs, strict=True))
            groups.append(Paired(rung, tuple(seeds), numbers, runs, json.loads(changes)))
        return sorted(groups, key=lambda group: self.rank(group, least), reverse=True)

    def rank(self, group: Paired, least: str) -> tuple[Any, ...]:
        """The sort key of ``paired``: a single seed of a rung does not hide several of a lower one."""
        rung, seeds = RUNGS.index(group.rung), len(group.seeds)
        longest = max((self.epochs(name) for name in group.names), default=0)
        return (reaches(group.rung, least) and seeds > 1, rung, seeds, -len(group.changes), longest, group.names)

    def one_setting(self, rows: pd.DataFrame, peers: pd.DataFrame) -> pd.DataFrame:
        """The rows of one setting of an arm.

        Settings rank by these criteria in turn: the recipe's own training length at this rung, the length of most
        recipes in ``peers``, the most peers of the same setting, the most seeds, the fewest changes from the recipe,
        the longest training.
        """
        if not len(rows):
            return rows
        lengths, shared = self.lengths(peers), peers.groupby("setting")["recipe"].nunique().to_dict()

        def rank(name: str, group: pd.DataFrame) -> tuple[Any, ...]:
            first = group.iloc[0]
            epochs, closeness = self.epochs(first["run"]), -self.changes(first["run"], first["rung"], first["recipe"])
            as_in_recipe = epochs == own_length(first["recipe"], first["rung"])
            return as_in_recipe, lengths.get(epochs, 0), shared.get(name, 0), group["seed"].nunique(), closeness, epochs

        return _best(rows, "setting", rank)

    def untrained(self, runs: Iterable[str]) -> list[str]:
        """The untrained networks that these runs started from: same rung, data and backbone."""
        starts = {self._began(name) for name in runs}
        untrained = [name for name, facts in self.runs.items() if facts.get("recipe") == UNTRAINED]
        return [name for name in untrained if self._began(name) in starts]

    def _began(self, run: str) -> frozenset[tuple[str, str]]:
        facts = self.runs.get(run, {})
        return frozenset((k, v) for k, v in facts.items() if k == "rung" or k.partition(".")[0] in ("data", "backbone"))

    # ------------------------------------------------------------------------------------- the configuration of a run

    def changes(self, run: str, rung: str, name: str) -> int:
        """The number of outcome-relevant keys, except data and length, in which a run differs from its recipe."""
        facts = self.runs.get(run, {})
        if "method.name" not in facts or name not in RECIPES:
            return 0
        expected = _flat(name, rung, "{}")
        return sum(not _same(facts[k], expected.get(k)) for k in facts if k.partition(".")[0] in _DECIDES)

    def schedule(self, run: str, rung: str, own: str, name: str) -> dict[str, Any]:
        """The length and warm-up of a run of the recipe ``own`` that differ from the defaults: overrides for ``name``.

        name: the recipe of a run to train as long.
        """
        facts, lacks = self.runs.get(run, {}), {}
        for key, usual in (("epochs", name), ("optim.warmup_epochs", own)):
            if key in facts and usual in RECIPES and not _same(facts[key], _flat(usual, rung, "{}").get(key)):
                lacks[key] = json.loads(facts[key])
        return lacks

    def epochs(self, run: str) -> float:
        """The number of epochs of a run; 0 if its configuration is unknown."""
        return float(self.runs.get(run, {}).get("epochs", "0"))

    def lengths(self, rows: pd.DataFrame) -> dict[float, int]:
        """Number of epochs -> number of recipes trained for as many."""
        distinct = rows.drop_duplicates(["run", "recipe"])
        return distinct.groupby(distinct["run"].map(self.epochs))["recipe"].nunique().to_dict()


# ---------------------------------------------------------------------------------------------- rows of any table


def highest_shared(shared: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """Of rungs and changes (JSON) that arms share, those of the highest rung, then with the fewest changes."""
    return max(shared, key=lambda key: (RUNGS.index(key[0]), -len(json.loads(key[1])), key[1]))


def reaches(rung: str, least: str) -> bool:
    """Whether a rung is at least as large as ``least``."""
    return RUNGS.index(rung) >= RUNGS.index(least)


def rungs_from(least: str) -> tuple[str, ...]:
    """The rungs that are at least as large as ``least``."""
    return RUNGS[RUNGS.index(least) :]


def next_rung(rungs: Iterable[str]) -> str:
    """The rung above the highest of these; "" if there is none."""
    above = RUNGS[max((RUNGS.index(rung) for rung in rungs), default=len(RUNGS)) + 1 :]
    return above[0] if above else ""


def _best(rows: pd.DataFrame, by: str, rank: Callable[[str, pd.DataFrame], tuple[Any, ...]]) -> pd.DataFrame:
    """The rows of the group that ranks highest; of equals, the last by name."""
    ranks = {name: (*rank(name, group), name) for name, group in rows.groupby(by, sort=True)}
    return rows[rows[by] == max(ranks, key=lambda name: ranks[name])] if ranks else rows


def highest_rung(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the highest rung present."""
    return rows[rows["rung"] == max(rows["rung"].unique(), key=RUNGS.index)] if len(rows) else rows


def one_data(rows: pd.DataFrame, by: str = "data") -> pd.DataFrame:
    """The rows of the data set of the most recipes, then of the most runs; a real set comes before a built-in one."""
    return _best(
        rows, by, lambda name, group: (group["recipe"].nunique(), group["run"].nunique(), not name.startswith(BUILT_IN))
    )


def once(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows without repeated runs: of runs that differ only in their name, the one that started last is kept."""
    runs = runs.sort_values(["started", "run"], kind="stable")
    return runs.drop_duplicates([*SAME, "recipe"], keep="last").sort_values("run", ignore_index=True)


def not_replaced(earlier: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of an earlier table that no run of its new ``rows`` replaces.

    A run replaces its own earlier rows, and those of an earlier run that differs from it in its name alone, only
    in the tables and measurements in which it has rows now: a folder from another machine may lack weights, logs or a
    view log, or not be evaluated, or otherwise.
    """
    if not len(rows) or not len(earlier):
        return earlier
    replaced = pd.Series(False, earlier.index)
    measured = [c for c in MEASUREMENT if c in earlier and c in rows]
    for names in (["run"], [*SAME, "recipe"]):
        made = pd.MultiIndex.from_frame(rows[[*names, *measured]])
        replaced |= pd.MultiIndex.from_frame(earlier[[*names, *measured]]).isin(made)
    return earlier[~replaced]


def stays(
    earlier: pd.DataFrame | None,
    runs: pd.DataFrame,
    about: pd.Series,
    preference: Callable[[pd.Series], float],
) -> bool:
    """Whether the run of an earlier table stays: it is not among ``runs``, and the new one is no better.

    A run is better if its rung is higher, or, at the same rung, if it is preferred.
    """
    if earlier is None or not len(not_replaced(earlier, runs)):
        return False
    new, old = (
        (RUNGS.index(run["rung"]) if run["rung"] in RUNGS else -1, preference(run)) for run in (about, earlier.iloc[0])
    )
    return new <= old


def first_seeds(rows: pd.DataFrame) -> pd.Series:
    """The runs of the first seed of each arm, of which a figure shows the layout; of one seed, the first by name."""
    each = rows.drop_duplicates("run").sort_values(["seed", "run"], kind="stable")
    return each.drop_duplicates(["rung", "data", "setting", "arm", "recipe"])["run"]


def named_once(values: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The rows without repeated trainings: of two recipes that are one training, one stands for both.

    It is the one named after its method, else the first by name: stn-baseline and dino are one training at most rungs,
    and so are ppcl-simclr and simclr. by: the columns that identify a number of a run.
    """
    order = values.assign(other=values["recipe"] != values["method"]).sort_values(["other", "recipe"], kind="stable")
    return order.drop(columns="other").drop_duplicates([*SAME, *by])


def gain(arm: pd.Series, other: pd.Series) -> pd.Series:
    """Seed -> ``arm`` minus ``other``, for the seeds that both have."""
    return (arm - other).dropna()


def gains(arm: pd.DataFrame, other: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The rows of ``arm``, ``value`` minus that of the row of ``other`` with the same setting, seed and ``by``.

    Rows without a partner are left out.
    """
    keys = [*_PLACE, "seed", *by]
    joined = arm.merge(other[[*keys, "value"]], on=keys, suffixes=("", "_other"))
    return joined.assign(value=joined["value"] - joined["value_other"]).drop(columns="value_other")


def each_arm(rows: pd.DataFrame, *also: str) -> Iterator[pd.DataFrame]:
    """The rows of each arm, which share a mean over seeds: equal in ``ONE_MEAN``, and in the columns ``also``."""
    return (group for _, group in rows.groupby([*also, *ONE_MEAN], sort=True))


def same_arm(rows: pd.DataFrame, own: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of runs that share a mean over seeds with a run. own: its row, with the columns ``ONE_MEAN``."""
    return rows[(rows[list(ONE_MEAN)] == [own[column] for column in ONE_MEAN]).all(axis=1)]


def longest(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of the runs that were trained longest."""
    return runs[runs["epochs"] == runs["epochs"].max()]


def first(rows: pd.DataFrame) -> pd.Series:
    """The row that represents all if only one run is shown: of the first recipe, the lowest seed, then name."""
    return rows[rows["recipe"] == rows["recipe"].iloc[0]].sort_values(["seed", "run"], kind="stable").iloc[0]


def first_of_each(rows: pd.DataFrame) -> pd.DataFrame:
    """``first`` of every recipe, with the recipes, in their order, as the index."""
    return pd.DataFrame({name: first(group) for name, group in rows.groupby("recipe", sort=False)}).T


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one setting: at the highest rung SimSiam's (as in HVS), then the one with most arms and seeds."""
    if not len(rows):
        return rows
    strongest = highest_rung(rows)
    distinct = strongest.drop_duplicates(["data", "method", "setting", "arm", "seed"])
    sizes = distinct.groupby(["data", "method", "setting"], observed=True)["seed"].size().reset_index()
    best = max(sizes.itertuples(index=False), key=lambda s: (s.method == "simsiam", s.seed, s.setting))
    return strongest[strongest["setting"] == best.setting]


def headline_of_each_method(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one setting per method, with the rung and data set of ``headline``."""
    peers = same_data(rows, headline(rows))
    methods = sorted(peers["method"].unique(), reverse=True)
    return pd.concat([headline(peers[peers["method"] == m]) for m in methods]) if methods else rows


def same_data(rows: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """The rows with the rung and data set of ``chosen``."""
    if not len(chosen):
        return rows
    return rows[(rows["rung"] == chosen["rung"].iloc[0]) & (rows["data"] == chosen["data"].iloc[0])]


def comparable(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that may share a mean: one setting and arm per recipe, one run per seed.

    Settings rank by these criteria in turn: the data set of most recipes, the most seeds, the longest training, the
    latest start. Of several runs of a seed, the last to start is kept.
    """
    parts, recipes = [], runs.groupby("data")["recipe"].nunique()
    for _, group in runs.groupby("recipe", sort=False):
        group = group.sort_values(["started", "run"], kind="stable").drop_duplicates(list(SAME), keep="last")
        seeds = group.groupby(["setting", "arm"])["seed"].transform("nunique")
        ranked = group.assign(peers=group["data"].map(recipes), seeds=seeds)
        best = ranked.sort_values(["peers", "seeds", "epochs"], kind="stable").iloc[-1]
        parts.append(group[(group["setting"] == best["setting"]) & (group["arm"] == best["arm"])].sort_values("seed"))
    return pd.concat(parts, ignore_index=True) if parts else runs


def explain_choice(runs: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    """All ``runs`` as a table for a reader, with what tells them apart, and whether ``comparable`` kept each."""
    used = runs["run"].isin(kept["run"]).map({True: "yes", False: "no"})
    return runs.assign(used=used).set_index("recipe")[["seed", "data", "epochs", "precision", "arm", "used"]]


def preferred(recipes: Sequence[str], rows: pd.DataFrame) -> str:
    """The first of these recipes, in order of preference, with rows at the highest rung that any of them has.

    Without any rows, the first of all.
    """
    present = set(highest_rung(rows[rows["recipe"].isin(recipes)])["recipe"])
    return next((name for name in recipes if name in present), recipes[0])


def one_with_most(runs: pd.DataFrame, counts: Mapping[str, int], recipes: Sequence[str]) -> pd.Series | None:
    """A run of the ``preferred`` recipe with the most counted items, e.g. snapshots; None if no run has any."""
    counted = runs[runs["run"].map(counts) > 0]
    strongest = highest_rung(counted[counted["recipe"] == preferred(recipes, counted)])
    if not len(strongest):
        return None
    snapshots = strongest["run"].map(counts)
    return comparable(strongest[snapshots == snapshots.max()]).iloc[0]


def same_images(runs: pd.DataFrame, recipes: Sequence[str]) -> pd.DataFrame:
    """The runs of these recipes that were trained on the same images, compared by digest.

    They are of the highest rung and of the images that most recipes and runs share; of each recipe, the setting with
    the training length of most others, then the most seeds.
    """
    shared = one_data(highest_rung(runs[runs["recipe"].isin(recipes)]), by="digest")
    lengths = shared.groupby("epochs")["recipe"].nunique()
    groups = [
        _best(
            shared[shared["recipe"] == name],
            "setting",
            lambda _, group: (lengths[group["epochs"].iloc[0]], group["seed"].nunique()),
        ).sort_values("seed")
        for name in recipes
    ]
    return pd.concat(groups, ignore_index=True)


def usual(options: Sequence[str]) -> str:
    """The options of most rows of an evaluation; of equals, the first by name."""
    counts = Counter(options)
    return min(counts, key=lambda o: (-counts[o], o), default="")


# ---------------------------------------------------------------------------------------------- configurations


def _text(value: Any) -> str:
    if type(value) in (int, float) and value - value == 0:  # as JSON has it, in a tenth of the time
        return repr(value)
    return value if isinstance(value, str) else json.dumps(value)


def _typed(text: str | None) -> Any:
    """The value that ``_text`` wrote."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text


def _as_text(run: Run) -> dict[str, str]:
    """Dotted key -> value of a run's configuration, without keys that do not affect the outcome."""
    parent = {} if run.parent is None else {_SHARED: _text(run.parent.seed)}
    return {k: _text(v) for k, v in config.flat(run.model_dump(mode="json", exclude=set(_OUTSIDE)))} | parent


@cache
def _usual(name: str, rung: str) -> Run:
    """A recipe's run without overrides."""
    return recipe(name, rung)


def own_length(name: str, rung: str) -> int:
    """The training length of a recipe at a rung, in epochs; 0 for a recipe that is not known here."""
    return _usual(name, rung).epochs if name in RECIPES else 0


@cache
def _flat(name: str, rung: str, overrides: str) -> dict[str, str]:
    """The configuration of a recipe with overrides (JSON)."""
    return _whole(_as_text(recipe(name, rung, json.loads(overrides))))


def _whole(facts: Mapping[str, str]) -> dict[str, str]:
    """The configuration with all default options filled in, so that setting a default makes no difference.

    Of a parent it has the seed, where that is not the run's.
    """
    out = {k: v for k, v in facts.items() if v not in ("{}", "[]")}
    if out.get(_SHARED) == out.get("seed"):
        out.pop(_SHARED, None)
    for kind, at in (("method", "method"), *(("strategy", f"hard.{i}") for i in range(9))):
        if f"{at}.name" in facts:
            out = {f"{at}.options.{k}": v for k, v in _defaults(kind, facts[f"{at}.name"]).items()} | out
    return out


@cache
def _defaults(kind: str, name: str) -> dict[str, str]:
    known = name in TABLES[kind]  # not of a run of another version, with a strategy that has gone
    return {k: _text(p.default) for k, p in options(kind, name).items()} if known else {}


def option_key(override: str) -> str:
    """The key in a configuration for a key on the command line: ``backbone.width`` -> ``backbone.options.width``."""
    head, _, last = override.partition(".")
    options_of = ("augment", "backbone", "method")
    return f"{head}.options.{last}" if head in options_of and last not in ("", "name") else override


def _same(a: str | None, b: str | None) -> bool:
    """Whether two values are equal; numbers compare as numbers, so 1 equals 1.0."""
    return a == b or _number(a) == _number(b)


def _number(value: str | None) -> object:
    try:
        return float(str(value))
    except ValueError:
        return value


# ---------------------------------------------------------------------------------------------- of one figure


def measured(*rows: tuple[str, str], on: str = "") -> Measure:
    """A measure of accuracy: the first of these (protocol, metric) pairs that was measured."""
    return Measure(rows=rows, on=on)


def linear(*protocols: str, on: str = "", metric: str = "top1") -> Measure:
    """A measure of linear accuracy: the paper's protocol, the public default for CIFAR, or the converged optimum.

    The last is the primary one below rung ``paper`` (``Selection``).
    """
    probes = [(p, f"{metric}-last") for p in (*protocols, "linear")]
    return measured(*probes, (LINEAR[0], metric), on=on)


KNN = measured(("knn", "top1@k=20"))
MARKS = ("†", "‡", "§", "¶")  # beside numbers of runs that were not trained for their recipe's length
LONG = 2  # times the usual length: a long training of a published table, which are 3 to 4 times the short ones there


class Selection:
    """The rows that one figure may show, and a record of those that it shows.

    evaluation, configs, costs: whole tables. recipes: those that the figure may show. The rung and data set of most of
    them are chosen once for the whole figure, so that all its numbers belong together.
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
        self.scenes = _of_one(rows[scenes], any_data)
        self.rows = _of_one(rows[~scenes], any_data) if not scenes.all() else self.scenes
        # of several data sets that of an arm which does not say what it was trained on
        self.home = set(_of_one(self.rows, any_data=False)["data"]) if any_data else set()
        self.configs = schema.empty("configs") if configs is None else configs
        self.book = Book.of_configs(configs)
        self.costs = costs[costs["recipe"].isin(recipes)] if costs is not None else schema.empty("costs")
        if not len(self.rows):  # a figure of costs needs no accuracy
            self.costs = _of_one(self.costs, any_data)
        elif len(self.costs):
            self.costs = self.costs[self.costs["run"].isin(self.rows["run"])]
        self.costs = self._of_one_device(self.costs)
        epochs = self.configs[self.configs["key"] == "epochs"].set_index("run")["value"]
        epochs = pd.to_numeric(epochs[~epochs.index.duplicated()])
        tables = (self.rows, self.scenes, self.costs)
        self.rows, self.scenes, self.costs = (frame.assign(epochs=frame["run"].map(epochs)) for frame in tables)
        self.used: list[pd.DataFrame] = []
        self.marks: dict[float, str] = {}
        self.protocols: dict[str, str] = {}
        self._by_measure: dict[tuple[Any, ...], pd.DataFrame] = {}
        self._by_arm: dict[tuple[Arm, int], tuple[pd.DataFrame, pd.DataFrame]] = {}

    def _of_one_device(self, costs: pd.DataFrame) -> pd.DataFrame:
        """The rows of the device on which most recipes ran, then most runs: seconds of two devices have no mean."""
        devices = self.configs[self.configs["key"] == "device"].drop_duplicates("run").set_index("run")["value"]
        costs = costs.assign(device=costs["run"].map(devices).fillna(""))
        return _best(costs, "device", lambda name, group: (group["recipe"].nunique(), group["run"].nunique()))

    def runs(self, arm: Arm, rows: pd.DataFrame | None = None) -> pd.DataFrame:
        """The rows of an arm in one setting."""
        among = self.rows if rows is None else rows
        key = arm, id(among)
        if key not in self._by_arm:  # a table asks for an arm once a column; the rows stay beside it, and so their id
            self._by_arm[key] = among, self._of_arm(arm, among)
        return self._by_arm[key][1]

    def _of_arm(self, arm: Arm, rows: pd.DataFrame) -> pd.DataFrame:
        rows = self.book.only(rows, arm)
        if arm.trained is not None:
            rows = rows[rows["data"].isin(trained_on(*arm.trained))]
        elif self.home:
            rows = rows[rows["data"].isin(self.home)]
        if arm.budget is not None and len(rows):
            lengths, usual = rows["epochs"].fillna(0), own_length(arm.recipe, str(rows["rung"].iloc[0]))
            longest = lengths.max() if lengths.max() >= LONG * usual else -1  # no such run
            nearest = min(lengths.unique(), key=lambda epochs: (abs(epochs - usual), epochs))
            rows = rows[lengths == (nearest if arm.budget == 0 else longest)]
        return self.book.one_setting(rows, self.rows[self.rows["data"].isin(rows["data"])])

    def values(self, arm: Arm, measure: Measure) -> pd.Series:
        """Seed -> value, accuracies in percent; empty if there is no run."""
        rows = self._values(arm, measure)
        if not len(rows):
            self._note_gap(arm, measure)
        if arm.minus and len(rows):
            length = {} if measure.table == "costs" else {"epochs": int(self.length(arm, measure))}
            changes = dict(arm.changes) | length  # two lengths are no pair
            other = self.values(arm._replace(recipe=arm.minus, minus="", changes=tuple(changes.items())), measure)
            return gain(rows, other)
        return rows

    def measured(self, arm: Arm, measure: Measure) -> pd.DataFrame:
        """The rows of an accuracy that stand for an arm."""
        return self.runs(arm, self._measured(measure))

    def length(self, arm: Arm, measure: Measure) -> float:
        """The training length of the rows that stand for an arm, in epochs; 0 without rows."""
        tables = {"evaluation": self._measured, "costs": self._costs_of}
        rows = self.runs(arm, tables[measure.table](measure) if measure.table in tables else None)
        return float(rows["epochs"].fillna(0).max()) if len(rows) else 0.0

    def other_length(self, arm: Arm, measure: Measure) -> float:
        """The training length of an arm's rows if it is not its recipe's and the arm sets none, else 0."""
        if arm.budget == -1 or "epochs" in dict(arm.changes) or measure.of_network or not len(self.rows):
            return 0.0
        length = self.length(arm, measure)
        return 0.0 if length == own_length(arm.recipe, str(self.rows["rung"].iloc[0])) else length

    def mark(self, arm: Arm, measure: Measure) -> str:
        """The sign of an arm that was trained for another length than its recipe's, "" for others; see ``legend``."""
        length = self.other_length(arm, measure)
        rounds, at = divmod(len(self.marks), len(MARKS))
        return self.marks.setdefault(length, MARKS[at] * (1 + rounds)) if length else ""

    @property
    def legend(self) -> str:
        """The meaning of all signs that ``mark`` gave."""
        return ", ".join(f"{sign} {epochs:g} epoch{'s' * (epochs != 1)}" for epochs, sign in self.marks.items())

    def _note_gap(self, arm: Arm, measure: Measure) -> None:
        """Note the command that trains or evaluates for a missing value, unless the data set has no loader."""
        data_sets = [measure.on] if measure.on else []
        data_sets += [arm.trained[0]] if arm.trained else []
        if any(not set(DATA.get(name, (name,))) & set(DATASETS) for name in data_sets):
            return
        arm_runs, to = self.runs(arm), DATA.get(measure.on, (measure.on,))
        if _own(arm_runs).isin(to).any():  # trained on the very set: no evaluation makes it a transfer
            return
        runs = sorted(arm_runs["run"].unique())
        evaluate = ""
        if measure.rows:
            options = {"protocol": self.protocol(measure), "data": to[0] if measure.on else ""}
            evaluate = evaluate_command(runs, options)
        if not runs or evaluate:
            gap("" if runs else self.command(arm), evaluate)

    def command(self, arm: Arm) -> str:
        """The command that trains an arm at the rung shown, on the data and for the length of the other arms."""
        rung = str(self.rows["rung"].iloc[0]) if len(self.rows) else "cpu"
        others = self.rows
        if arm.trained is not None:  # of the same images, else of as large a share of others
            share = arm.trained[1]
            same_data = others[others["data"].isin(trained_on(*arm.trained))]
            alike = others[others["data"].str.endswith(f" {share}" if share != "100 %" else tuple(DATASETS))]
            others = same_data if len(same_data) else alike
        elif self.home:
            others = others[others["data"].isin(self.home)]
        runs = others.drop_duplicates("run")[["run", "recipe"]].itertuples(index=False)
        schedules = [self.book.schedule(r.run, rung, r.recipe, arm.recipe) for r in runs]
        usual = pd.Series([schedule.get("epochs", 0) for schedule in schedules]).mode()
        if arm.budget != -1 and len(usual) and (len(usual) == 1 or arm.trained is not None):
            schedule = next(schedule for schedule in schedules if schedule.get("epochs", 0) == usual.max())
            arm = arm._replace(changes=tuple((schedule | dict(arm.changes)).items()))
        return arm.command(rung)

    def _values(self, arm: Arm, measure: Measure) -> pd.Series:
        if measure.table == "evaluation":
            rows = self.runs(arm, self._measured(measure))
            return self._note(rows, 100 * rows.groupby("seed")["value"].mean())
        if measure.table == "costs":
            rows = self.runs(arm, self._costs_of(measure))
            per_seed = rows.groupby("seed")["value"].mean() / measure.per if len(rows) else pd.Series(dtype=float)
            return self._note(rows, per_seed)
        # beside costs, a setting is that of the runs that cost so much
        runs, keys = self.runs(arm, self.costs if len(self.costs) else None), _where(self.configs, measure)
        keys = keys[keys["run"].isin(runs["run"])]
        return self._note(runs, pd.to_numeric(keys.set_index("seed")["value"]) if len(keys) else pd.Series(dtype=float))

    def _costs_of(self, measure: Measure) -> pd.DataFrame:
        key = "costs", *sorted(measure.where.items())
        if key not in self._by_measure:
            self._by_measure[key] = _where(self.costs, measure)
        return self._by_measure[key]

    def _measured(self, measure: Measure) -> pd.DataFrame:
        """The rows of one of the measure's protocols; on training data, of one protocol per data set and share."""
        key = measure.rows, measure.on
        if key not in self._by_measure:
            self._by_measure[key] = self._choose(measure)
        return self._by_measure[key]

    def _choose(self, measure: Measure) -> pd.DataFrame:
        if measure.on:  # what was trained on the very set is no transfer to it
            names = DATA.get(measure.on, (measure.on,))
            rows = self.rows[self.rows["evaluated_on"].isin(names) & ~_own(self.rows).isin(names)]
            return self._one_probe(rows, measure)
        if all(protocol.startswith(SCENES) for protocol, _ in measure.rows):
            return self._one_probe(self.rows, measure)
        parts = [self._one_probe(rows, measure) for _, rows in at_home(self.rows).groupby("data", sort=True)]
        return pd.concat(parts) if parts else self._one_probe(self.rows.iloc[:0], measure)

    def _one_probe(self, rows: pd.DataFrame, measure: Measure) -> pd.DataFrame:
        """The rows of the protocol that most arms and runs have; of equals, the first.

        Below rung ``paper`` the primary probe wins against protocols that have no more arms.
        """
        best = primary = rows.iloc[:0]
        for protocol, metric in measure.rows:
            candidates = self.scenes if protocol.startswith(SCENES) else rows
            measured = candidates[(candidates["protocol"] == protocol) & (candidates["metric"] == metric)]
            if (measured["recipe"].nunique(), measured["run"].nunique()) > (
                best["recipe"].nunique(),
                best["run"].nunique(),
            ):
                best = measured
            if protocol == LINEAR[0] and not measured["rung"].eq("paper").any():
                primary = measured
        if primary["recipe"].nunique() >= best["recipe"].nunique():
            best = primary
        if len(best):
            self.protocols[str(best["protocol"].iloc[0])] = str(best["metric"].iloc[0])
        return best

    def protocol(self, measure: Measure) -> str:
        """The protocol that measured the other arms, or the paper's."""
        measured = self._measured(measure)
        return str(measured["protocol"].iloc[0]) if len(measured) else measure.rows[0][0]

    def stand_in(self, share: str, taken: set[str]) -> str:
        """The data set that replaces one without a run: not taken, of the same share, and with the most arms.

        A set of which no share is taken comes first; "" if there is none.
        """
        arms = self.rows[~self.rows["data"].isin(taken)].groupby("data")[["recipe", "run"]].nunique()
        names = {split_share(d)[0] for d in taken}

        def rank(d: str) -> tuple[Any, ...]:
            return split_share(d)[0] not in names, split_share(d)[1] == share, *arms.loc[d], d

        return str(max(arms.index, key=rank, default=""))

    def _note(self, rows: pd.DataFrame, values: pd.Series) -> pd.Series:
        if len(values):
            self.used.append(rows)
        return values

    @property
    def by(self) -> list[str]:
        """The protocols of the rows shown."""
        protocols = set(self.frame["protocol"]) if "protocol" in self.frame else set()  # a cost has no protocol
        return sorted(protocols & self.protocols.keys())

    def interval(self, arm: Arm, measure: Measure) -> Interval:
        """The mean over the seeds with its 95 % interval."""
        return interval(self.values(arm, measure))

    @property
    def frame(self) -> pd.DataFrame:
        """All rows shown, for a caption."""
        return pd.concat(self.used) if self.used else self.rows.iloc[:0]


def fullest(selections: Mapping[str, Selection]) -> str:
    """The name of the selection that shows the most recipes; of equals, the first."""
    return max(selections, key=lambda name: selections[name].rows["recipe"].nunique())


def one_protocol(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one evaluation protocol, so that a figure does not mix two.

    It is that of the most recipes; of equals the primary probe below rung ``paper``, then the first by name.
    """
    if not len(rows):
        return rows
    arms = rows.groupby("protocol")["recipe"].nunique()
    primary = "" if rows["rung"].eq("paper").any() else LINEAR[0]
    return rows[rows["protocol"] == min(arms.index, key=lambda name: (-arms[name], name != primary, name))]


def _of_one(rows: pd.DataFrame, any_data: bool) -> pd.DataFrame:
    """The rows of the highest rung and of one data set; of any data set if the figure names it for each arm."""
    rows = highest_rung(rows)
    return rows if any_data else one_data(rows)


def _where(rows: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    for column, value in measure.where.items():
        rows = rows[rows[column] == value]
    return rows


def trained_on(data: str, share: str = "100 %") -> list[str]:
    """The names in the column ``data`` of a data set, given by its name in the papers, and a share."""
    return [name if share == "100 %" else f"{name} {share}" for name in DATA.get(data, (data,))]


def split_share(where: str) -> tuple[str, str]:
    """Split a name in the column ``data``, or in a paper, into data set and share; a missing share means 100 %."""
    name, _, share = where.partition(" ")
    return name, share or "100 %"


def _own(rows: pd.DataFrame) -> pd.Series:
    """The data set that each row's network was trained on, without the share."""
    return rows["data"].astype(str).str.split().str[0]


def at_home(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows measured on the data set that their network was trained on, as opposed to a transfer."""
    return rows[rows["evaluated_on"] == _own(rows)]
