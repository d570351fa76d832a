"""The ledger of claims: what the five papers state that a run can test, and the verdict that the rows give.

A claim is data (``claims.yaml``): what is measured, on which arms, and a test with a direction and a threshold. Its
verdict is computed, never typed: from one value per seed (differences and ratios are paired by seed) and the 95 %
Student t-interval of ``tables.interval``.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hardlab import config, registry
from hardlab.analysis import tables
from hardlab.analysis.intervals import Interval, interval
from hardlab.analysis.tables import WHO
from hardlab.config import Run
from hardlab.evaluate.protocols import PROTOCOLS
from hardlab.recipes import RUNGS, recipe
from hardlab.types import HardlabError

SOURCE = Path(__file__).with_name("claims.yaml")
PAPERS = {"hexa": (5, 5), "hvs": (11, 12), "hnssl": (3, 7), "adco": (2, 4), "ppcl": (6, 4)}  # figures, tables
REPRODUCED, CONTRADICTED, INCONCLUSIVE = "reproduced", "contradicted", "inconclusive"
NO_EVALUATION, NO_RUN = "needs an evaluation", "needs a run"
VERDICTS = (REPRODUCED, CONTRADICTED, INCONCLUSIVE, *(f"needs rung {r}" for r in RUNGS), NO_EVALUATION, NO_RUN)
COLUMNS = (
    "id", "paper", "place", "statement", "published", "mean", "lo", "hi", "n", "unit", "rung", "testable_from",
    "verdict", "why", "runs",
)  # fmt: skip
# the numbers of the epochs table: a run's own, or one of a strategy
_PLAIN = ("loss", "knn", "std", "rank", "alignment", "uniformity", "accuracy", "d_ii", "feature_std", "pseudo_top1")
_METRICS = {  # by how a protocol's name begins, the first that fits
    "knn": r"top1@k=\d+",
    "linear-lbfgs": r"top[15]|objective",
    "linear-hnssl-transfer": r"top[15]|objective",
    "linear": r"top[15]-(last|best)|train-loss",
    "svm-low-shot": r"(mAP|ap-per-image)(-sd)?@k=\d+",
    "svm": r"mAP|ap-per-image|ap:.+",
    "semi": r"top[15]-(last|best)|train-loss",
    "finetune": r"top[15]-(last|best)|train-loss",
    "detection": r"AP(50|75|_S)?",
    "segmentation": r"(mask-)?AP(50|75|_S)?",
}
_PLACE = (
    r"Abstract|Sec\. \d(\.\d)*|App\. [A-H](\.\d)*|Alg\. \d|Fig\. (?P<figure>\d+)( left| right)?|Table (?P<table>\d+)"
)
# how the epochs of a run become one number; `rise` compares the last fifth of the logged epochs with the first
OVER: dict[str, Callable[[np.ndarray], float]] = {
    "mean": lambda x: float(x.mean()),
    "first": lambda x: float(x[0]),
    "last": lambda x: float(x[-1]),
    "rise": lambda x: float(x[-_fifth(x) :].mean() - x[: _fifth(x)].mean()) if len(x) > 1 else np.nan,
    "spread": lambda x: float(x.std(ddof=1)) if len(x) > 1 else np.nan,
}
Over = Literal["mean", "first", "last", "rise", "spread"]


def _fifth(x: np.ndarray) -> int:
    return max(1, len(x) // 5)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Published(_Strict):
    """The number in the paper, None where it gives none; a unit of ``points`` or ``%`` scales ours by 100."""

    value: float | None
    unit: str
    of: str

    @property
    def scale(self) -> float:
        return 100.0 if self.unit in ("points", "%") else 1.0

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit} ({self.of})" if self.value is not None else self.of


class Measure(_Strict):
    """Rows of a table, the column that is read, and how epochs become one number per run."""

    table: str
    where: dict[str, str] = Field(default_factory=dict)
    value: str = "value"
    over: Over = "mean"


class Arm(_Strict):
    """Runs of a recipe, with overrides; ``where``, ``value`` and ``over`` replace those of the claim's measure."""

    recipe: str
    set: dict[str, Any] = Field(default_factory=dict)
    where: dict[str, str] = Field(default_factory=dict)
    value: str | None = None
    over: Over | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"recipe": value} if isinstance(value, str) else value

    @property
    def overrides(self) -> tuple[str, ...]:
        """What it sets, as the command line has it."""
        return tuple(f"{k}={json.dumps(v).strip(chr(34))}" for k, v in self.set.items())


class Test(_Strict):
    """A named test with its threshold, in the published unit.

    greater, less: first arm minus second, against ``margin``. above, below: the arm, or the ratio or difference of two,
    against ``value``. equal_within: the whole interval within ``margin`` of ``value``. ordering: every arm above the
    next. largest: the first arm above every other.
    """

    __test__ = False  # nothing for pytest

    name: Literal["greater", "less", "above", "below", "equal_within", "ordering", "largest"]
    value: float | None = None
    margin: float = 0.0
    of: Literal["value", "difference", "ratio"] = "value"

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class Claim(_Strict):
    """One statement: where it stands, what was published, how it is measured, and from which rung it is testable.

    data: the sets that count for it, the first for the command; none given = any. Raises HardlabError on load for
    names that do not exist.
    """

    id: str = Field(pattern=r"^[a-z0-9-]+$")
    paper: Literal["hexa", "hvs", "hnssl", "adco", "ppcl"]
    place: str
    statement: str = Field(min_length=20)
    published: Published
    measure: Measure
    arms: tuple[Arm, ...] = Field(min_length=1)
    test: Test
    testable_from: Literal["smoke", "cpu", "gpu", "paper"]
    data: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names(self) -> Claim:
        for place in self.place.split(", "):
            found = re.fullmatch(_PLACE, place)
            last = dict(zip(("figure", "table"), PAPERS[self.paper], strict=True))
            if not found or any(int(found[k] or 1) not in range(1, n + 1) for k, n in last.items()):
                raise HardlabError(f"Claim '{self.id}': {self.paper} has no '{place}'.")
        for name in self.data:
            if name not in registry.DATASETS:
                raise registry.unknown("data set", name, registry.DATASETS)
        arity = {"greater": 2, "less": 2}.get(self.test.name, 1 if self.test.of == "value" else 2)
        if len(self.arms) < 3 if self.test.name in ("ordering", "largest") else len(self.arms) != arity:
            raise HardlabError(f"Claim '{self.id}': {len(self.arms)} arms do not fit the test '{self.test.name}'.")
        if (self.test.name in ("above", "below", "equal_within")) != (self.test.value is not None):
            raise HardlabError(
                f"Claim '{self.id}': above, below and equal_within are held against a value, other tests against none."
            )
        if self.test.name == "equal_within" and not self.test.margin > 0:
            raise HardlabError(f"Claim '{self.id}': equal_within needs a margin above 0, not {self.test.margin:g}.")
        for arm in self.arms:
            recipe(arm.recipe, self.testable_from, arm.set)
            _check_rows(self.id, self.seen(arm))
        return self

    def seen(self, arm: Arm) -> Measure:
        """The measure as this arm has it."""
        m = self.measure
        changed = {"where": m.where | arm.where, "value": arm.value or m.value, "over": arm.over or m.over}
        return m.model_copy(update=changed)

    def overrides(self, arm: Arm, rung: str) -> tuple[str, ...]:
        """What makes the recipe's run one of this claim, as the command line has it."""
        data = self.data[:1] if recipe(arm.recipe, rung).data.name not in self.data else ()
        return (*arm.overrides, *(f"data.name={name}" for name in data))

    def commands(self, arms: Iterable[Arm], rung: str, more: Mapping[str, Any] | None = None) -> list[str]:
        """One ``hardlab pretrain ...`` an arm, in backticks; more: overrides of all of them, such as a seed."""
        added = tuple(f"{k}={json.dumps(v).strip(chr(34))}" for k, v in (more or {}).items())
        told = (
            " ".join(["hardlab pretrain", a.recipe, "--rung", rung, *self.overrides(a, rung), *added]) for a in arms
        )
        return list(dict.fromkeys(f"`{command}`" for command in told))


def _check_rows(claim: str, m: Measure) -> None:
    """Refuse tables, columns, protocols, metrics and logged numbers that do not exist."""
    known = {name: columns[len(WHO) :] for name, columns in tables.COLUMNS.items()}
    if m.table not in known:
        raise registry.unknown("table", m.table, known)
    for column in (*m.where, m.value):
        if column not in known[m.table]:
            raise registry.unknown(f"column of table '{m.table}'", column, known[m.table])
    if m.table == "evaluation":
        protocol, metric = m.where.get("protocol", ""), m.where.get("metric", "")
        if protocol not in PROTOCOLS:
            raise registry.unknown("evaluation protocol", protocol, PROTOCOLS)
        pattern = next(p for begin, p in _METRICS.items() if protocol.startswith(begin))
        if not re.fullmatch(pattern, metric):
            raise HardlabError(f"Claim '{claim}': protocol '{protocol}' has no metric '{metric}' (but {pattern}).")
    if m.table == "epochs":
        head, dot, _ = m.where.get("name", "").partition(".")
        if head not in (("terms", "seconds", *registry.HARD) if dot else _PLAIN):
            raise HardlabError(f"Claim '{claim}': no run logs a number '{m.where.get('name', '')}'.")


@cache
def load(path: Path = SOURCE) -> tuple[Claim, ...]:
    """All claims, checked. ``measures`` at the head of the file are those that claims name instead of writing them.

    Raises HardlabError for a claim that does not fit the schema or names what does not exist.
    """
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    named = tree["measures"]
    found = []
    for row in tree["claims"]:
        measure = row.get("measure")
        if isinstance(measure, str):
            if measure not in named:
                raise registry.unknown("measure", measure, named)
            row = row | {"measure": named[measure]}
        try:
            found.append(Claim.model_validate(row))
        except ValidationError as e:
            what = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in e.errors())
            raise HardlabError(f"Claim '{row.get('id')}' in '{path.name}' does not fit: {what}.") from e
    ids = [claim.id for claim in found]
    if twice := sorted({i for i in ids if ids.count(i) > 1}):
        raise HardlabError(f"Two claims have the id '{twice[0]}'.")
    return tuple(found)


def needed(rung: str) -> dict[tuple[str, tuple[str, ...]], set[tuple[str, str]]]:
    """(recipe, overrides) of the arms of all claims testable at this rung -> the evaluations that measure them.

    An evaluation is a protocol and the data set it asks for, "" for the one that the protocol takes by itself.
    """
    found: dict[tuple[str, tuple[str, ...]], set[tuple[str, str]]] = {}
    for claim in load():
        if RUNGS.index(claim.testable_from) > RUNGS.index(rung):
            continue
        for arm in claim.arms:
            where = claim.seen(arm).where
            wanted = {(where["protocol"], where.get("evaluated_on", ""))} if "protocol" in where else set()
            found.setdefault((arm.recipe, claim.overrides(arm, rung)), set()).update(wanted)
    return found


class Finding(NamedTuple):
    """A verdict with the quantity it was found for, and the reason in one sentence."""

    verdict: str
    ours: Interval
    why: str


def judge(test: Test, values: pd.DataFrame) -> Finding:
    """The verdict of a test on one row per seed, one column per arm, in the arms' order and the published unit.

    A seed without a finite number (a ratio to nothing) does not count. The seeds are taken for independent, their
    differences for normal; with two of them the interval has one degree of freedom, and is as wide as that is.
    The interval must lie strictly on the stated side of the threshold (reproduced) or on the other side (contradicted);
    else, and with fewer than 2 seeds, the verdict is inconclusive. Of several comparisons all must hold to reproduce,
    and one refutes at a level shared among them (Bonferroni); the weakest is reported.
    """
    arms = [values[c].to_numpy(np.float64) for c in values.columns]
    if test.name in ("ordering", "largest"):
        first = arms[:-1] if test.name == "ordering" else [arms[0]] * (len(arms) - 1)
        return _several([a - b for a, b in zip(first, arms[1:], strict=True)])
    if test.name in ("greater", "less") or test.of == "difference":
        quantity = arms[0] - arms[1]
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            quantity = arms[0] / arms[1] if test.of == "ratio" else arms[0]
    ours = interval(np.where(np.isfinite(quantity), quantity, np.nan))
    if ours.n < 2:
        return Finding(INCONCLUSIVE, ours, _too_few(ours))
    if test.name == "equal_within":
        assert test.value is not None
        lo, hi = test.value - test.margin, test.value + test.margin
        where = f"{lo:g} to {hi:g}"
        if lo < ours.lo and ours.hi < hi:
            return Finding(REPRODUCED, ours, f"{_span(ours)} lies within {where}")
        if ours.hi < lo or ours.lo > hi:
            return Finding(CONTRADICTED, ours, f"{_span(ours)} lies outside {where}")
        return Finding(INCONCLUSIVE, ours, f"{_span(ours)} crosses an edge of {where}")
    upwards = test.name in ("greater", "above")
    threshold = test.margin if test.value is None else test.value
    side = 1 if ours.lo > threshold else -1 if ours.hi < threshold else 0
    if side == 0:
        return Finding(INCONCLUSIVE, ours, f"{_span(ours)} holds {threshold:g}")
    verdict = REPRODUCED if (side > 0) == upwards else CONTRADICTED
    return Finding(verdict, ours, f"{_span(ours)} is {'above' if side > 0 else 'below'} {threshold:g}")


def _several(differences: Sequence[np.ndarray]) -> Finding:
    """All of the differences should be above 0; the one with the smallest mean is told."""
    each = [interval(d) for d in differences]
    weakest = min(each, key=lambda i: i.mean)
    if weakest.n < 2:
        return Finding(INCONCLUSIVE, weakest, _too_few(weakest))
    strict = [interval(d, 1 - 0.05 / len(each)) for d in differences]
    held = sum(i.lo > 0 for i in each)
    told = f"{held} of {len(each)} comparisons hold, the weakest: {_span(weakest)}"
    if held == len(each):
        return Finding(REPRODUCED, weakest, told)
    return Finding(CONTRADICTED if any(i.hi < 0 for i in strict) else INCONCLUSIVE, weakest, told)


def _span(i: Interval) -> str:
    return f"the 95 % interval {i.lo:.4g} to {i.hi:.4g} of {i.n} seeds"


def _too_few(i: Interval) -> str:
    return f"{i.n} seed{'s' * (i.n != 1)} with all arms: an interval takes at least 2"


class _Known(NamedTuple):
    """A collected run: its configuration as today's version reads it."""

    run: Run
    flat: dict[str, Any]


class _Group(NamedTuple):
    """Comparable runs of all arms: values (seeds, arms) and the runs' names, in the arms' order."""

    rung: str
    values: pd.DataFrame
    runs: tuple[str, ...]
    changes: dict[str, Any]


class Book:
    """The collected tables of a folder, and the verdict of a claim on them."""

    def __init__(self, data_dir: Path | str) -> None:
        self.folder = Path(data_dir)
        self._tables: dict[str, pd.DataFrame] = {}
        self.runs: dict[str, _Known] = {}
        for name, manifest in tables.manifests(self.folder).items():
            try:
                run = config.make(tables.as_run(manifest))  # arms of different precision are no pair
            except HardlabError:  # of a version whose configuration is read no more: it is nobody's arm
                continue
            self.runs[name] = _Known(run, _flat(run))

    def verdict(self, claim: Claim) -> dict[str, Any]:
        """A row of ``COLUMNS``."""
        per_arm = [self._values(claim, arm) for arm in claim.arms]
        groups = self._groups(claim, per_arm)
        ours, rung, runs = Interval(np.nan, np.nan, np.nan, 0), "", ""
        if groups:
            # chosen by what was run, never by what came out; one seed of a rung does not hide several of a lower one
            enough = RUNGS.index(claim.testable_from)
            best = max(
                groups,
                key=lambda g: (
                    RUNGS.index(g.rung) >= enough and len(g.values) > 1,
                    RUNGS.index(g.rung), len(g.values), -len(g.changes),
                    max((self.runs[name].run.epochs for name in g.runs), default=0), g.runs,
                ),
            )  # fmt: skip
            verdict, ours, why = judge(claim.test, best.values * claim.published.scale)
            rung, runs = best.rung, " ".join(best.runs)
            if RUNGS.index(rung) < enough:
                verdict = f"needs rung {claim.testable_from}"
                commands = " and ".join(claim.commands(claim.arms, claim.testable_from))
                why = f"rung {rung} is too small for this claim ({why}): {commands}, with 2 seeds or more"
            elif ours.n < 2:
                seed = {"seed": max([-1, *best.values.index]) + 1}
                why += f": {' and '.join(claim.commands(claim.arms, rung, best.changes | seed))}"
            elif best.changes:
                why += f"; runs with {', '.join(f'{k}={v}' for k, v in best.changes.items())}"
        else:
            verdict, why = self._wanted(claim, per_arm)
        told = dict(claim) | ours._asdict() | {"rung": rung, "verdict": verdict, "runs": runs}
        told |= {"published": str(claim.published), "unit": claim.published.unit}
        told["why"] = why[:1].upper() + why[1:] + "."
        return {k: told[k] for k in COLUMNS}

    def _table(self, name: str) -> pd.DataFrame:
        if name not in self._tables:
            path = self.folder / f"{name}.csv"
            texts = dict.fromkeys(("setting", "run", "recipe", "options"), str)
            self._tables[name] = (
                tables.read_csv(path, dtype=texts, keep_default_na=False, low_memory=False)
                if path.exists()
                else pd.DataFrame(columns=[*WHO])
            )
            if "run" not in self._tables[name].columns:
                raise HardlabError(f"The table '{path}' has no column 'run'.")
        return self._tables[name]

    def _matching(self, claim: Claim, arm: Arm) -> dict[str, str]:
        """The runs of an arm, and how each differs from the recipe beside what the arm sets.

        Differences of method, strategies, and whatever the claim's arms set, make it another arm; those of its parent,
        its logs and its seed do not matter.
        """
        fixed = {"data.name"} if claim.data else set()
        own = {"method", "hard", *(k for other in claim.arms for k in other.set)}
        found = {}
        for name, known in self.runs.items():
            if known.run.recipe != arm.recipe or (claim.data and known.run.data.name not in claim.data):
                continue
            expected = _expected(arm.recipe, known.run.rung, json.dumps(arm.set, sort_keys=True))
            keys = (known.flat.keys() | expected.keys()) - fixed
            changed = {k: known.flat.get(k) for k in keys if known.flat.get(k) != expected.get(k)}
            if not any(k == o or k.startswith(f"{o}.") for k in changed for o in own):
                found[name] = json.dumps(changed, sort_keys=True)
        return found

    def _values(self, claim: Claim, arm: Arm) -> dict[tuple[str, str], pd.DataFrame]:
        """By rung and changes to the recipe: a row per seed with value and run."""
        m, matching = claim.seen(arm), self._matching(claim, arm)
        rows = self._table(m.table)
        rows = rows[rows["run"].isin(list(matching))]
        if not len(rows):
            return {}
        if lacking := [c for c in (*m.where, m.value) if c not in rows.columns]:
            raise HardlabError(f"The table '{self.folder / m.table}.csv' has no column '{lacking[0]}'.")
        for column, wanted in m.where.items():
            rows = rows[rows[column].astype(str) == wanted]
        if m.table == "evaluation":
            rows = self._as_trained(rows, m.where)
        rows = rows.assign(value=pd.to_numeric(rows[m.value], errors="coerce")).dropna(subset="value")
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for name, of in rows.groupby("run", sort=True):
            series = of.sort_values([c for c in ("epoch", "step") if c in of] or "run")["value"].to_numpy(np.float64)
            run = self.runs[name].run
            line = {"seed": run.seed, "value": OVER[m.over](series), "run": name}
            found.setdefault((run.rung, matching[name]), []).append(line)
        return {k: pd.DataFrame(v).dropna().drop_duplicates("seed", keep="last") for k, v in found.items()}

    def _as_trained(self, rows: pd.DataFrame, where: Mapping[str, str]) -> pd.DataFrame:
        """Of the network of the paper's headline, with the settings most runs have, on the set it was trained on.

        Unless the claim says another, or the protocol brings its own.
        """
        if "evaluated_on" not in where and PROTOCOLS[where["protocol"]].needs != "scenes":
            own = rows["run"].map(lambda name: self.runs[name].run.data.name)
            rows = rows[rows["evaluated_on"] == own]
        if "features" not in where:
            rows = rows[rows["features"].isin(["backbone", "teacher"])]
        usual = rows["options"].value_counts(sort=False)
        return rows[rows["options"] == min(usual.index, key=lambda o: (-usual[o], o))] if len(usual) else rows

    def _groups(self, claim: Claim, per_arm: Sequence[Mapping[tuple[str, str], pd.DataFrame]]) -> list[_Group]:
        """Where every arm has rows of the same rung with the same changes; paired by seed."""
        groups = []
        for key in sorted(set.intersection(*(set(of) for of in per_arm))):
            parts = [of[key].set_index("seed") for of in per_arm]
            seeds = sorted(set.intersection(*(set(p.index) for p in parts)))
            values = pd.DataFrame({i: p.loc[seeds, "value"] for i, p in enumerate(parts)})
            runs = dict.fromkeys(run for p in parts for run in p.loc[seeds, "run"])
            groups.append(_Group(key[0], values, tuple(runs), json.loads(key[1])))
        return groups

    def _wanted(self, claim: Claim, per_arm: Sequence[Mapping[tuple[str, str], pd.DataFrame]]) -> tuple[str, str]:
        """The verdict where there are no rows, and what to do: train, evaluate, or collect."""
        high, table = RUNGS[RUNGS.index(claim.testable_from) :], claim.measure.table
        trained = [self._trained(claim, arm, high) for arm in claim.arms]
        if lacking := [arm for arm, runs in zip(claim.arms, trained, strict=True) if not runs]:
            commands = " and ".join(claim.commands(lacking, claim.testable_from))
            told = f"no rows yet, testable from rung {claim.testable_from}: {commands}, with 2 seeds or more"
            if table == "evaluation":
                protocols = dict.fromkeys(claim.seen(arm).where["protocol"] for arm in lacking)
                told += f", each then `hardlab evaluate runs/<id> {' '.join(f'--protocol {p}' for p in protocols)}`"
            return NO_RUN, told
        alike = set.intersection(*(set(runs.values()) for runs in trained))
        if not alike:
            again = " and ".join(claim.commands(claim.arms, claim.testable_from))
            told = sorted({self.runs[name].run.precision for runs in trained for name in runs})
            also = f", also in precision ({' and '.join(told)})" if len(told) > 1 else ""
            return NO_RUN, f"the runs that are there differ in more than their arm{also}: {again}"
        bare: list[Arm] = []
        ways: dict[str, list[str]] = {}  # of evaluating, each with the runs that lack it
        for arm, runs, of in zip(claim.arms, trained, per_arm, strict=True):
            if without := [name for name, key in runs.items() if key in alike and key not in of]:
                bare.append(arm)
                where = claim.seen(arm).where
                said = {"protocol": where.get("protocol"), "data": where.get("evaluated_on")}
                how = " ".join(f"--{option} {value}" for option, value in said.items() if value)
                ways.setdefault(how, []).extend(without)
        if table == "evaluation":
            commands = " and ".join(
                f"`hardlab evaluate {' '.join(f'runs/{name}' for name in dict.fromkeys(without))} {how}`"
                for how, without in ways.items()
            )
            return NO_EVALUATION, f"the runs are there, not evaluated so: {commands}"
        names = " ".join(dict.fromkeys(name for without in ways.values() for name in without))
        return NO_RUN, (
            f"the runs {names} came without rows in {table}.csv: `hardlab figures --from runs --all` where their "
            f"folders still are, else train them again, {' and '.join(claim.commands(bare, claim.testable_from))}"
        )

    def _trained(self, claim: Claim, arm: Arm, rungs: Sequence[str]) -> dict[str, tuple[str, str]]:
        """The runs of an arm at these rungs, each with the rung and the changes that make it comparable."""
        keys = {name: (self.runs[name].run.rung, changes) for name, changes in self._matching(claim, arm).items()}
        return {name: key for name, key in keys.items() if key[0] in rungs}


def verdicts(data_dir: Path | str, claims: Iterable[Claim] | None = None) -> pd.DataFrame:
    """A row per claim: ``COLUMNS``, ours in the published unit. Tables that are not in ``data_dir`` have no rows."""
    book = Book(data_dir)
    return pd.DataFrame([book.verdict(c) for c in (load() if claims is None else claims)], columns=list(COLUMNS))


def ours(row: Any) -> str:
    """Mean, interval and unit of a row of ``verdicts``; empty where there is nothing."""
    if not row.n:
        return ""
    inner = f" ({row.lo:.3g} to {row.hi:.3g})" if row.n > 1 else " (one seed)"
    return f"{row.mean:.3g}{inner} {row.unit}"


def links(names: str, runs_dir: Path | str) -> str:
    """HTML: each of these runs as a link to its manifest in the folder of the runs."""
    return " ".join(f'<a href="{Path(runs_dir) / name / "manifest.json"}">{name}</a>' for name in names.split())


def describe(found: pd.DataFrame, *, why: bool = False, width: int = 110) -> str:
    """Rows of ``verdicts`` as text: two lines a claim, its reason and its runs on request; a count at the end.

    Where runs are lacking, the commands that make them stand below, each on a line of its own, however long.
    """
    lines = []
    for paper, rows in found.groupby("paper", sort=False):
        lines.append(f"{paper.upper()}")
        for row in rows.itertuples():
            measured = f"{ours(row)}, {row.rung}" if row.n else f"from rung {row.testable_from}"
            lines.append(f"  {row.id:34}{row.verdict:20}{measured}"[:width])
            told = [f"{row.statement} ({row.place}: {row.published})", *([row.why] if why else [])]
            told += [f"Runs: {row.runs}"] if why and row.runs else []
            lines += textwrap.wrap(" ".join(told), width, initial_indent=" " * 6, subsequent_indent=" " * 6)
            lines += [f"        {command}" for command in re.findall(r"`([^`]+)`", row.why)]
        lines.append("")
    counts = found["verdict"].value_counts(sort=False)
    lines += textwrap.wrap(f"{len(found)} claims" + "".join(f", {n} {v}" for v, n in counts.items()), width)
    if decided := int(found["verdict"].isin([REPRODUCED, CONTRADICTED, INCONCLUSIVE]).sum()):
        lines += textwrap.wrap(
            f"Each verdict is at 95 % for itself: were none of the {decided} tested differences real, about "
            f"{0.025 * decided:.1f} would be called reproduced and as many contradicted by chance.",
            width,
        )
    return "\n".join(lines)


@cache
def _expected(name: str, rung: str, overrides: str) -> dict[str, Any]:
    return _flat(recipe(name, rung, json.loads(overrides)))


def _flat(run: Run) -> dict[str, Any]:
    """Dotted key -> value of all that decides a run's outcome but its seed; a parent is told by its recipe."""
    tree = run.model_dump(mode="json", exclude={"recipe", "rung", "seed", "logs", "parent"})
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return out
