"""The ledger of claims: what the five papers state that a run can test, and the verdict that the rows give.

A claim is data (``claims.yaml``): what is measured, on which arms, and a test with a direction and a threshold. Its
verdict is computed, never typed: from one value per seed (differences and ratios are paired by seed) and the 95 %
Student t-interval of ``intervals.interval``. Which runs are its arms, and which of them compare, is ``arms.Book``'s to
say (docs/arms.md).
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hardlab import registry
from hardlab.analysis import schema
from hardlab.analysis.arms import Arm, Book, Measure, Over, reaches, rungs_from, usual
from hardlab.analysis.gaps import evaluate_command
from hardlab.analysis.intervals import Interval, interval
from hardlab.analysis.schema import WHO
from hardlab.errors import HardlabError
from hardlab.files import damaged, read_yaml
from hardlab.recipes import RUNGS, recipe

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


class Side(_Strict):
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
    arms: tuple[Side, ...] = Field(min_length=1)
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
        for side in self.arms:
            recipe(side.recipe, self.testable_from, side.set)
            _check_rows(self.id, self.seen(side))
        return self

    def seen(self, side: Side) -> Measure:
        """The measure as this arm has it."""
        m = self.measure
        changed = {"where": m.where | side.where, "value": side.value or m.value, "over": side.over or m.over}
        return m.model_copy(update=changed)

    def arm(self, side: Side) -> Arm:
        """The runs that this side is about."""
        return Arm(side.recipe, tuple(side.set.items()), sets=self.data)

    def overrides(self, side: Side, rung: str) -> tuple[str, ...]:
        """What makes the recipe's run one of this claim, as the command line has it."""
        return self.arm(side).pairs(rung)

    def commands(self, sides: Iterable[Side], rung: str, more: Mapping[str, Any] | None = None) -> list[str]:
        """One ``hardlab pretrain ...`` an arm, in backticks; more: overrides of all of them, such as a seed."""
        return list(dict.fromkeys(f"`{self.arm(side).command(rung, more)}`" for side in sides))


def _check_rows(claim: str, m: Measure) -> None:
    """Refuse tables, columns, protocols, metrics and logged numbers that do not exist."""
    from hardlab.evaluate.published import PROTOCOLS

    known = {name: schema.columns(name)[len(WHO) :] for name in schema.TABLES}
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
    tree = read_yaml(path)
    named, rows = (tree.get(key) if isinstance(tree, dict) else None for key in ("measures", "claims"))
    if not isinstance(named, dict) or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise damaged(path, "it needs a table `measures` and a list `claims` of tables")
    found = []
    for row in rows:
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
        except (ValueError, TypeError, LookupError, AttributeError) as e:
            raise damaged(path, f"claim '{row.get('id')}': {type(e).__name__}: {e}") from e
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
        if not reaches(rung, claim.testable_from):
            continue
        for side in claim.arms:
            where = claim.seen(side).where
            wanted = {(where["protocol"], where.get("evaluated_on", ""))} if "protocol" in where else set()
            found.setdefault((side.recipe, claim.overrides(side, rung)), set()).update(wanted)
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


class _Rows:
    """A table by run, as lists: a claim reads few rows of few columns, for which frames are slow."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame, self._lists = frame, {}  # type: ignore[var-annotated]
        self.of_run: dict[str, list[int]] = {}
        for at, run in enumerate(frame["run"].tolist()):
            self.of_run.setdefault(run, []).append(at)

    def __contains__(self, column: str) -> bool:
        return column in self._frame.columns

    def __getitem__(self, column: str) -> list[Any]:
        if column not in self._lists:
            self._lists[column] = self._frame[column].tolist()
        return self._lists[column]


class Ledger:
    """The collected tables of a folder, and the verdict of a claim on them."""

    def __init__(self, data_dir: Path | str) -> None:
        self.folder = Path(data_dir)
        self.book = Book.of_folder(self.folder)
        self._tables: dict[str, _Rows] = {}

    def verdict(self, claim: Claim) -> dict[str, Any]:
        """A row of ``COLUMNS``."""
        alike = self.book.alike([claim.arm(side) for side in claim.arms])
        values = [self._values(claim.seen(side), runs) for side, runs in zip(claim.arms, alike, strict=True)]
        groups = self.book.paired(alike, values, claim.testable_from)
        ours, rung, runs = Interval(np.nan, np.nan, np.nan, 0), "", ""
        if groups:
            best = groups[0]
            verdict, ours, why = judge(claim.test, best.frame * claim.published.scale)
            rung, runs = best.rung, " ".join(best.names)
            if not reaches(rung, claim.testable_from):
                verdict = f"needs rung {claim.testable_from}"
                commands = " and ".join(claim.commands(claim.arms, claim.testable_from))
                why = f"rung {rung} is too small for this claim ({why}): {commands}, with 2 seeds or more"
            elif ours.n < 2:
                seed = {"seed": max((-1, *best.seeds)) + 1}
                why += f": {' and '.join(claim.commands(claim.arms, rung, best.changes | seed))}"
            elif best.changes:
                why += f"; runs with {', '.join(f'{k}={v}' for k, v in best.changes.items())}"
        else:
            verdict, why = self._wanted(claim, alike, values)
        row = dict(claim) | ours._asdict() | {"rung": rung, "verdict": verdict, "runs": runs}
        row |= {"published": str(claim.published), "unit": claim.published.unit}
        row["why"] = why[:1].upper() + why[1:] + "."
        return {k: row[k] for k in COLUMNS}

    def _table(self, name: str) -> _Rows:
        if name not in self._tables:
            self._tables[name] = _Rows(schema.read(self.folder, name))
        return self._tables[name]

    def _values(self, m: Measure, runs: Iterable[str]) -> dict[str, float]:
        """Run -> what the measure reads of it, of these runs those that have it."""
        rows = self._table(m.table)
        found = {name: list(rows.of_run.get(name, ())) for name in sorted(runs)}
        for column, wanted in m.where.items():
            found = {name: [i for i in at if str(rows[column][i]) == wanted] for name, at in found.items()}
        if m.table == "evaluation":
            found = self._as_trained(rows, found, m.where)
        values = {}
        for name, at in found.items():
            series = np.array([rows[m.value][i] for i in self._in_time(rows, at)], dtype=np.float64)
            series = series[~np.isnan(series)]
            if len(series) and not np.isnan(value := OVER[m.over](series)):
                values[name] = value
        return values

    def _in_time(self, rows: _Rows, at: list[int]) -> list[int]:
        """Rows by epoch, then by step."""
        times = [[rows[column][i] for i in at] for column in ("step", "epoch") if column in rows]
        order = np.lexsort(times) if len(times) > 1 else np.argsort(times[0]) if times else range(len(at))
        return [at[i] for i in order]

    def _as_trained(
        self, rows: _Rows, found: Mapping[str, list[int]], where: Mapping[str, str]
    ) -> dict[str, list[int]]:
        """Of the network of the paper's headline, with the settings most runs have, on the set it was trained on.

        Unless the claim says another, or the protocol brings its own.
        """
        from hardlab.evaluate.published import PROTOCOLS

        kept = dict(found)
        if "evaluated_on" not in where and PROTOCOLS[where["protocol"]].needs != "scenes":
            own = {name: self.book.runs[name]["data.name"] for name in kept}
            kept = {name: [i for i in at if rows["evaluated_on"][i] == own[name]] for name, at in kept.items()}
        if "features" not in where:
            kept = {n: [i for i in at if rows["features"][i] in ("backbone", "teacher")] for n, at in kept.items()}
        options = usual([rows["options"][i] for at in kept.values() for i in at])
        return {name: [i for i in at if rows["options"][i] == options] for name, at in kept.items()}

    def _wanted(
        self, claim: Claim, alike: Sequence[Mapping[str, tuple[str, str]]], values: Sequence[Mapping[str, float]]
    ) -> tuple[str, str]:
        """The verdict where there are no rows, and what to do: train, evaluate, or collect."""
        high, table = rungs_from(claim.testable_from), claim.measure.table
        trained = [{n: key for n, key in runs.items() if key[0] in high} for runs in alike]
        if lacking := [side for side, runs in zip(claim.arms, trained, strict=True) if not runs]:
            commands = " and ".join(claim.commands(lacking, claim.testable_from))
            what = f"no rows yet, testable from rung {claim.testable_from}: {commands}, with 2 seeds or more"
            if table == "evaluation":
                protocols = dict.fromkeys(claim.seen(side).where["protocol"] for side in lacking)
                what += f", each then `{evaluate_command([], *({'protocol': p} for p in protocols))}`"
            return NO_RUN, what
        shared = set.intersection(*(set(runs.values()) for runs in trained))
        if not shared:
            again = " and ".join(claim.commands(claim.arms, claim.testable_from))
            took = sorted({self.book.runs[name]["precision"] for runs in trained for name in runs})
            also = f", also in precision ({' and '.join(took)})" if len(took) > 1 else ""
            return NO_RUN, f"the runs that are there differ in more than their arm{also}: {again}"
        bare: list[Side] = []
        ways: dict[tuple[str, ...], list[str]] = {}  # (protocol, data) of evaluating, each with the runs that lack it
        for side, runs, of in zip(claim.arms, trained, values, strict=True):
            there = {runs[name] for name in of if name in runs}
            if without := [name for name, key in runs.items() if key in shared - there]:
                bare.append(side)
                where = claim.seen(side).where
                how = tuple(str(where.get(key) or "") for key in ("protocol", "evaluated_on"))
                ways.setdefault(how, []).extend(without)
        if table == "evaluation":
            commands = " and ".join(
                f"`{evaluate_command(dict.fromkeys(without), {'protocol': protocol, 'data': data})}`"
                for (protocol, data), without in ways.items()
            )
            return NO_EVALUATION, f"the runs are there, not evaluated so: {commands}"
        names = " ".join(dict.fromkeys(name for without in ways.values() for name in without))
        return NO_RUN, (
            f"the runs {names} came without rows in {table}.csv: `hardlab figures --from runs --all` where their "
            f"folders still are, else train them again, {' and '.join(claim.commands(bare, claim.testable_from))}"
        )


def verdicts(data_dir: Path | str, claims: Iterable[Claim] | None = None) -> pd.DataFrame:
    """A row per claim: ``COLUMNS``, ours in the published unit. Tables that are not in ``data_dir`` have no rows."""
    ledger = Ledger(data_dir)
    return pd.DataFrame([ledger.verdict(c) for c in (load() if claims is None else claims)], columns=list(COLUMNS))


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
