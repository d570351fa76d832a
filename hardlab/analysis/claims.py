"""The ledger of claims: the five papers' testable statements, and their verdicts on the collected rows.

A claim is data (``claims.yaml``): what is measured, on which arms, and a test with a direction and a threshold. Its
verdict is computed, never typed: from one value per seed (differences and ratios are paired by seed) and the 95 %
Student t-interval of ``intervals.interval``, corrected for the number of claims (``evidence``). docs/verdicts.md has
the rules. Which runs are its arms, and which of them compare, is ``arms.Book``'s to say (docs/arms.md).
"""

from __future__ import annotations

import hashlib
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hardlab import registry, rich
from hardlab.analysis import evidence, schema
from hardlab.analysis.arms import (
    LINEAR,
    UNTRAINED,
    Arm,
    Book,
    Measure,
    Over,
    Paired,
    highest_shared,
    reaches,
    rungs_from,
    usual,
)
from hardlab.analysis.gap_notes import evaluate_command
from hardlab.analysis.intervals import Interval, interval
from hardlab.analysis.schema import WHO
from hardlab.errors import HardlabError
from hardlab.files import damaged, read_yaml
from hardlab.recipes import RUNGS, recipe

SOURCE = Path(__file__).with_name("claims.yaml")
FROZEN = Path(__file__).with_name("claims_frozen.yaml")
PAPERS = {"hexa": (5, 5), "hvs": (11, 12), "hnssl": (3, 7), "adco": (2, 4), "ppcl": (6, 4)}  # figures, tables
REPRODUCED, CONTRADICTED, INCONCLUSIVE = "reproduced", "contradicted", "inconclusive"
WEAKLY = {v: f"{v} (not after correction)" for v in (REPRODUCED, CONTRADICTED)}
NOT_LEARNED, NO_SEEDS, CANNOT = "needs a network that has learned", "needs more seeds", "cannot be judged"
NO_EVALUATION, NO_RUN = "needs an evaluation", "needs a run"
DECIDED = (REPRODUCED, WEAKLY[REPRODUCED], CONTRADICTED, WEAKLY[CONTRADICTED])
VERDICTS = (
    *DECIDED, INCONCLUSIVE, NOT_LEARNED, NO_SEEDS, *(f"needs rung {r}" for r in RUNGS), NO_EVALUATION, NO_RUN, CANNOT,
)  # fmt: skip
POOLED_SINCE = datetime.fromisoformat("2026-11-28T15:04:00Z")  # pairs of two precisions count together
UNPUBLISHED = "not compared in the paper"  # what is published of a comparison that no paper makes
SEEDS, HEADLINE_SEEDS = 3, 6  # that a verdict takes, and one on the headline of a paper
COLUMNS = (
    "id", "paper", "headline", "place", "statement", "published", "mean", "lo", "hi", "n", "unit", "rung",
    "testable_from", "pooled_lo", "pooled_hi", "p", "p_sign", "q", "more_seeds", "more_seeds_published", "excluded",
    "beside", "frozen", "settings", "verdict", "why", "commands", "runs",
)  # fmt: skip
# linear evaluation on the data of the training, and its neighbours: each stands beside the others
PROBES = {
    "converged probe": LINEAR,
    "kNN": ("knn", "top1@k=20"),
    "SGD probe": ("linear", "top1-last"),
    "PPCL's probe": ("linear-ppcl", "top1-last"),
}
# the numbers of the epochs table: a run's own, or one of a strategy
_PLAIN = (
    "loss",
    "objective",
    "knn",
    "std",
    "rank",
    "alignment",
    "uniformity",
    "accuracy",
    "d_ii",
    "feature_std",
    "pseudo_top1",
)
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
    r"Abstract( of HVP)?|Sec\. \d(\.\d)*|App\. [A-H](\.\d)*|Alg\. \d"
    r"|Fig\. (?P<figure>\d+)( left| right)?|Table (?P<table>\d+)"
)
# How the epochs of a run become one number. `rise` compares the last fifth of the logged epochs with the first, `later`
# with the second, so that a dip at the start is left out. `late` is the last fifth, `early` what the first fifth has
# more than the rest, without the first epoch. `jitter` is the spread from epoch to epoch about any trend. `tail` is the
# value that a tenth exceed, of points instead of epochs.
OVER: dict[str, Callable[[np.ndarray], float]] = {
    "mean": lambda x: float(x.mean()),
    "first": lambda x: float(x[0]),
    "last": lambda x: float(x[-1]),
    "rise": lambda x: float(x[-_fifth(x) :].mean() - x[: _fifth(x)].mean()) if len(x) > 1 else np.nan,
    "later": lambda x: float(x[-_fifth(x) :].mean() - x[_fifth(x) : 2 * _fifth(x)].mean()) if len(x) > 2 else np.nan,
    "late": lambda x: float(x[-_fifth(x) :].mean()),
    "early": lambda x: float(x[1 : 1 + _fifth(x)].mean() - x[1 + _fifth(x) :].mean()) if len(x) > 2 else np.nan,
    "spread": lambda x: float(x.std(ddof=1)) if len(x) > 1 else np.nan,
    "jitter": lambda x: float(np.diff(x).std(ddof=1) / np.sqrt(2)) if len(x) > 2 else np.nan,
    "tail": lambda x: float(np.quantile(x, 0.9)),
}


def _fifth(x: np.ndarray) -> int:
    return max(1, len(x) // 5)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Published(_Strict):
    """The number in the paper, None if it gives none. unit: ``points`` and ``%`` scale ours by 100. of: its context."""

    value: float | None
    unit: str
    of: str

    @property
    def scale(self) -> float:
        return 100.0 if self.unit in ("points", "%") else 1.0

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit} ({self.of})" if self.value is not None else self.of


class Side(_Strict):
    """Runs of a recipe with overrides; ``where``, ``value`` and ``over`` replace those of the claim's measure.

    longer: training length as a multiple of the recipe's. fails: the paper says that it does not learn, so the positive
    control skips it.
    """

    recipe: str
    set: dict[str, Any] = Field(default_factory=dict)
    longer: float = Field(default=1.0, gt=0)
    fails: bool = False
    where: dict[str, str] = Field(default_factory=dict)
    value: str | None = None
    over: Over | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"recipe": value} if isinstance(value, str) else value


class Test(_Strict):
    """A named test with its threshold, in the published unit.

    greater, less: first arm minus second, against ``margin``.
    above, below: the arm, or the ratio or difference of two, or the difference of the differences of four (``gain``),
        against ``value``.
    equal_within: the whole interval within ``margin`` of ``value``.
    ordering: every arm above the next.
    largest: the first arm above every other.
    """

    __test__ = False  # nothing for pytest

    name: Literal["greater", "less", "above", "below", "equal_within", "ordering", "largest"]
    value: float | None = None
    margin: float = 0.0
    of: Literal["value", "difference", "ratio", "gain"] = "value"

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class Claim(_Strict):
    """A statement of a paper: its place, published value, measure, and the rung from which it is testable.

    data: the sets that count for it, of which commands use the first; empty = any.
    headline: whether it is a main result of the paper, which needs ``HEADLINE_SEEDS``.
    note: what a reader must know about the test.
    cannot: why no run can judge it.

    Raises HardlabError on load for names that do not exist.
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
    headline: bool = False
    note: str = ""
    cannot: str = ""

    @model_validator(mode="after")
    def _names(self) -> Claim:
        for place in self.place.split(", "):
            match = re.fullmatch(_PLACE, place)
            last = dict(zip(("figure", "table"), PAPERS[self.paper], strict=True))
            if not match or any(int(match[k] or 1) not in range(1, n + 1) for k, n in last.items()):
                raise HardlabError(f"Claim '{self.id}': {self.paper} has no '{place}'.")
        for name in self.data:
            if name not in registry.DATASETS:
                raise registry.unknown("data set", name, registry.DATASETS)
        arity = {"greater": 2, "less": 2}.get(self.test.name, {"value": 1, "gain": 4}.get(self.test.of, 2))
        if len(self.arms) < 3 if self.test.name in ("ordering", "largest") else len(self.arms) != arity:
            raise HardlabError(f"Claim '{self.id}': {len(self.arms)} arms do not fit the test '{self.test.name}'.")
        if (self.test.name in ("above", "below", "equal_within")) != (self.test.value is not None):
            raise HardlabError(f"Claim '{self.id}': above, below and equal_within need a value, other tests take none.")
        if self.test.name == "equal_within" and not self.test.margin > 0:
            raise HardlabError(f"Claim '{self.id}': equal_within needs a margin above 0, not {self.test.margin:g}.")
        for side in self.arms:
            recipe(side.recipe, self.testable_from, side.set)
            _check_rows(self.id, self.seen(side))
        return self

    def _about(self) -> dict[str, str]:
        test = f"{self.test.name} of {self.test.of}" if self.test.of != "value" else self.test.name
        limit = f" {self.test.value:g}" if self.test.value is not None else ""
        margin = f", margin {self.test.margin:g}" if self.test.margin else ""
        return {
            "statement": f"{self.statement} ({self.paper.upper()}, {self.place})",
            "published": str(self.published),
            "arms": "; ".join(
                " ".join([s.recipe, *(f"{k}={v}" for k, v in {**s.set, **s.where}.items()), s.value or ""]).strip()
                for s in self.arms
            ),
            "measure": " ".join(
                [
                    self.measure.value,
                    "of table",
                    self.measure.table,
                    *(f"{k}={v}" for k, v in self.measure.where.items()),
                ]
            ),
            "test": f"{test}{limit}{margin}; {self.seeds} seeds, from rung {self.testable_from}",
            "note": self.note or self.cannot,
        }

    def __repr__(self) -> str:
        return "\n".join([f"Claim {self.id}", *(f"  {key:10} {text}" for key, text in self._about().items() if text)])

    def _repr_html_(self) -> str:
        rows = [(key, text) for key, text in self._about().items() if text]
        return f"<p><b>{self.id}</b></p>{rich.table(rows)}"

    def seen(self, side: Side) -> Measure:
        """The measure with this arm's changes."""
        m = self.measure
        changed = {"where": m.where | side.where, "value": side.value or m.value, "over": side.over or m.over}
        return m.model_copy(update=changed)

    @property
    def digest(self) -> str:
        """A digest, 12 hex digits, of the whole test: the measure, the runs and the threshold."""
        test = {"measure", "arms", "test", "testable_from", "data", "headline", "cannot"}
        tree = self.model_dump(mode="json", include=test, exclude_defaults=True)
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def seeds(self) -> int:
        """The number of seeds that a verdict needs."""
        return HEADLINE_SEEDS if self.headline else SEEDS

    @property
    def timed(self) -> bool:
        """Whether it compares seconds."""
        return self.measure.table == "costs" and self.measure.where.get("quantity", "").startswith("seconds")

    @property
    def probe(self) -> tuple[str, str] | None:
        """Protocol and metric of an accuracy on frozen features, which needs a positive control; None for others."""
        where = self.measure.where
        protocol, metric = where.get("protocol", ""), where.get("metric", "")
        return (protocol, metric) if protocol.startswith(("knn", "linear")) else None

    @property
    def level(self) -> float:
        """The level of each comparison: of several, one decides at a level that they share, see ``_several``."""
        return evidence.LEVEL / (len(self.arms) - 1 if self.test.name in ("ordering", "largest") else 1)

    def size(self) -> float | None:
        """The published size of the tested comparison; None without a number, or if the test compares nothing."""
        compares = self.test.name in ("greater", "less") or self.test.of != "value"
        return self.published.value if compares else None

    def spread_at(self, rung: str) -> tuple[Any, ...] | None:
        """The key by which spreads are pooled: differences of one measure at one rung; None where nothing is."""
        if self.test.of not in ("value", "difference") or len(self.arms) < 2 or self.probe is None:
            return None
        if any(side.fails for side in self.arms):  # accuracies of networks that fail vary far more
            return None
        return (rung, *sorted(self.measure.where.items()), self.published.unit)

    def arm(self, side: Side) -> Arm:
        """The arm of a side."""
        return Arm(side.recipe, tuple(side.set.items()), sets=self.data, longer=side.longer)

    def overrides(self, side: Side, rung: str) -> tuple[str, ...]:
        """The overrides that turn the recipe's run into one of this claim, as on the command line."""
        return self.arm(side).pairs(rung)

    def commands(self, sides: Iterable[Side], rung: str, more: Mapping[str, Any] | None = None) -> list[str]:
        """One ``hardlab pretrain ...`` an arm; more: overrides of all of them, such as a seed."""
        return list(dict.fromkeys(self.arm(side).command(rung, more) for side in sides))


def _check_rows(claim: str, m: Measure) -> None:
    """Raise ``HardlabError`` for tables, columns, protocols, metrics and logged numbers that do not exist."""
    from hardlab.evaluate.published import PROTOCOLS

    columns = {name: schema.columns(name)[len(WHO) :] for name in schema.TABLES}
    if m.table not in columns:
        raise registry.unknown("table", m.table, columns)
    for column in (*m.where, m.value):
        if column not in columns[m.table]:
            raise registry.unknown("column", column, columns[m.table], f"Table '{m.table}'")
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
    loaded = []
    for row in rows:
        measure = row.get("measure")
        if isinstance(measure, str):
            if measure not in named:
                raise registry.unknown("measure", measure, named)
            row = row | {"measure": named[measure]}
        try:
            loaded.append(Claim.model_validate(row))
        except ValidationError as e:
            faults = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in e.errors())
            raise HardlabError(f"Claim '{row.get('id')}' in '{path.name}' does not fit: {faults}.") from e
        except (ValueError, TypeError, LookupError, AttributeError) as e:
            raise damaged(path, f"claim '{row.get('id')}': {type(e).__name__}: {e}") from e
    ids = [claim.id for claim in loaded]
    if twice := sorted({i for i in ids if ids.count(i) > 1}):
        raise HardlabError(f"Two claims have the id '{twice[0]}'.")
    return tuple(loaded)


def needed(rung: str) -> dict[tuple[str, tuple[str, ...]], set[tuple[str, str]]]:
    """(recipe, overrides) of the arms of all claims testable at this rung -> the evaluations that measure them.

    An evaluation is a protocol and the data set it asks for, "" for the one that the protocol takes by itself.
    """
    evaluations: dict[tuple[str, tuple[str, ...]], set[tuple[str, str]]] = {}
    for claim in load():
        if not reaches(rung, claim.testable_from):
            continue
        for side in claim.arms:
            where = claim.seen(side).where
            protocols = {(where["protocol"], where.get("evaluated_on", ""))} if "protocol" in where else set()
            evaluations.setdefault((side.recipe, claim.overrides(side, rung)), set()).update(protocols)
    return evaluations


class Frozen(_Strict):
    """A version of a claim's test: its digest, since when it stands, and what changed."""

    digest: str
    since: datetime
    changed: str = ""


@cache
def frozen(path: Path = FROZEN) -> dict[str, tuple[Frozen, ...]]:
    """Claim -> its tests, the oldest first. Raises HardlabError for a file that holds something else."""
    tree = read_yaml(path)
    try:
        return {str(name): tuple(Frozen.model_validate(row) for row in rows) for name, rows in tree.items()}
    except (ValidationError, AttributeError, TypeError) as e:
        raise damaged(path, "it needs a list of digest, since and changed for each claim") from e


def freeze(changed: str, now: datetime, path: Path = FROZEN) -> list[str]:
    """Record the claims whose test is new or changed, with the reason; returns their ids.

    Tests of claims that are gone stay: they were tested once.
    """
    import yaml

    changes = {name: list(rows) for name, rows in frozen(path).items()} if path.exists() else {}
    moved = [c for c in load() if not (rows := changes.get(c.id)) or rows[-1].digest != c.digest]
    for claim in moved:
        since = now.replace(microsecond=0)
        changes.setdefault(claim.id, []).append(Frozen(digest=claim.digest, since=since, changed=changed))
    tree = {
        name: [row.model_dump(mode="json", exclude_defaults=True) for row in rows] for name, rows in changes.items()
    }
    head = "# Since when the test of each claim is what it is; `hardlab claims --freeze REASON` writes it.\n"
    path.write_text(head + yaml.safe_dump(tree, sort_keys=True, width=120), encoding="utf-8")
    frozen.cache_clear()
    return [claim.id for claim in moved]


class Finding(NamedTuple):
    """A verdict, the quantity it rests on, and the reason in one sentence.

    values: one per seed, of the comparison that decided. threshold: the number that they are compared with. p: of the
    verdict, two-sided.
    """

    verdict: str
    ours: Interval
    why: str
    values: np.ndarray = np.empty(0)
    threshold: float = 0.0
    p: float = np.nan
    commands: tuple[str, ...] = ()  # that make what is lacking, in this order


def judge(test: Test, arms: Sequence[np.ndarray], least: int = SEEDS) -> Finding:
    """The verdict of a test on the values of each arm, (seeds,) float64 in the same order, in the published unit.

    A seed without a finite number (a ratio to 0) does not count. The test assumes independent seeds and normal
    differences. If the interval lies strictly on the stated side of the threshold, the claim is reproduced; on the
    other side, contradicted; otherwise the result is inconclusive. With fewer than ``least`` seeds there is no verdict,
    and none for arms that are equal to the last bit. Of several comparisons all must hold to reproduce the claim, and
    one contradicts it, at a level corrected for their number (Bonferroni); the weakest is reported.
    """
    if test.name in ("ordering", "largest"):
        first = arms[:-1] if test.name == "ordering" else [arms[0]] * (len(arms) - 1)
        return _several([a - b for a, b in zip(first, arms[1:], strict=True)], least)
    if test.name in ("greater", "less") or test.of == "difference":
        quantity = arms[0] - arms[1]
    elif test.of == "gain":
        quantity = (arms[0] - arms[1]) - (arms[2] - arms[3])
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            quantity = arms[0] / arms[1] if test.of == "ratio" else arms[0]
    quantity = quantity[np.isfinite(quantity)]
    ours = interval(quantity)
    threshold = test.margin if test.value is None else test.value
    if test.name == "equal_within":  # compared with the nearer edge
        threshold += test.margin if ours.mean > threshold else -test.margin
    if ours.n < least:
        return Finding(NO_SEEDS, ours, _too_few(ours, least), quantity, threshold)
    if len(arms) > 1 and all(np.array_equal(a, arms[0]) for a in arms):
        return Finding(INCONCLUSIVE, ours, "the arms are the same to the last bit in every seed", quantity, threshold)

    def finding(verdict: str, why: str) -> Finding:
        return Finding(verdict, ours, f"{_span(ours)} {why}", quantity, threshold, evidence.t_test(quantity, threshold))

    if test.name == "equal_within":
        assert test.value is not None
        lo, hi = test.value - test.margin, test.value + test.margin
        bounds = f"{lo:g} to {hi:g}"
        if lo < ours.lo and ours.hi < hi:
            return finding(REPRODUCED, f"lies within {bounds}")
        if ours.hi < lo or ours.lo > hi:
            return finding(CONTRADICTED, f"lies outside {bounds}")
        return finding(INCONCLUSIVE, f"crosses an edge of {bounds}")
    upwards = test.name in ("greater", "above")
    side = 1 if ours.lo > threshold else -1 if ours.hi < threshold else 0
    if side == 0:
        return finding(INCONCLUSIVE, f"contains {threshold:g}")
    return finding(
        REPRODUCED if (side > 0) == upwards else CONTRADICTED, f"is {'above' if side > 0 else 'below'} {threshold:g}"
    )


def _several(differences: Sequence[np.ndarray], least: int) -> Finding:
    """The verdict that all differences are above 0; reports the one with the smallest mean."""
    intervals = [interval(d) for d in differences]
    at = int(np.argmin([i.mean for i in intervals]))
    weakest, values = intervals[at], differences[at]
    if weakest.n < least:
        return Finding(NO_SEEDS, weakest, _too_few(weakest, least), values)
    strict = [interval(d, 1 - evidence.LEVEL / len(intervals)) for d in differences]
    held, ps = sum(i.lo > 0 for i in intervals), [evidence.t_test(d) for d in differences]
    summary = f"{held} of {len(intervals)} comparisons hold, the weakest: {_span(weakest)}"
    against = [min(1.0, p * len(intervals)) for p, i in zip(ps, intervals, strict=True) if i.mean < 0]
    p = min(against) if against else max(ps)
    if held == len(intervals):
        return Finding(REPRODUCED, weakest, summary, values, 0.0, p)
    verdict = CONTRADICTED if any(i.hi < 0 for i in strict) else INCONCLUSIVE
    return Finding(verdict, weakest, summary, values, 0.0, p)


def _span(i: Interval) -> str:
    return f"the 95 % interval {i.lo:.4g} to {i.hi:.4g} of {i.n} seeds"


def _too_few(i: Interval, least: int) -> str:
    return f"{i.n} seed{'s' * (i.n != 1)} with all arms: a verdict needs {least}"


class _Rows:
    """A table by run, as lists: a claim reads few rows of few columns, for which frames are slow."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame, self._lists, self._texts = frame, {}, {}  # type: ignore[var-annotated]
        self.of_run: dict[str, list[int]] = {}
        for at, run in enumerate(frame["run"].tolist()):
            self.of_run.setdefault(run, []).append(at)

    def __contains__(self, column: str) -> bool:
        return column in self._frame.columns

    def __getitem__(self, column: str) -> list[Any]:
        if column not in self._lists:
            self._lists[column] = self._frame[column].tolist()
        return self._lists[column]

    def texts(self, column: str) -> list[str]:
        """A column as text."""
        if column not in self._texts:
            values = self[column]
            numeric = self._frame[column].dtype.kind in "biuf"
            self._texts[column] = [str(v) for v in values] if numeric else values
        return self._texts[column]


NOTHING = Interval(np.nan, np.nan, np.nan, 0)


class Judged(NamedTuple):
    """A claim, its finding, and the runs that were compared, if any."""

    claim: Claim
    finding: Finding
    group: Paired | None

    @property
    def tested(self) -> bool:
        """Whether it counts in the correction for the number of claims."""
        return not np.isnan(self.finding.p)

    @property
    def spread_of(self) -> tuple[Any, ...] | None:
        """The key by which its spread is pooled with that of others."""
        return None if self.group is None else self.claim.spread_at(self.group.rung)


class Ledger:
    """The collected tables of a folder, and the verdict of a claim on them."""

    def __init__(self, data_dir: Path | str) -> None:
        self.folder = Path(data_dir)
        self.book = Book.of_folder(self.folder)
        self._tables: dict[str, _Rows] = {}

    def judge(self, claim: Claim) -> Judged:
        """Judge a claim by the rows, without correction for the number of claims."""
        trained = [side for side in claim.arms if side.recipe != UNTRAINED]
        alike = self.book.alike([claim.arm(side) for side in trained])
        values = [self.values(claim.seen(side), runs) for side, runs in zip(trained, alike, strict=True)]
        groups = self._groups(claim, alike, values)
        if not groups:
            return Judged(claim, self._wanted(claim, trained, alike, values), None)
        group = groups[0]
        finding = judge(claim.test, self._arms(claim, group), SEEDS)
        unmeasured = self._unmeasured(claim, group, trained, alike, values) if finding.ours.n < claim.seeds else ()
        if claim.cannot:
            finding = finding._replace(verdict=CANNOT, why=claim.cannot, p=np.nan)
        elif not reaches(group.rung, claim.testable_from):
            finding = finding._replace(verdict=f"needs rung {claim.testable_from}", p=np.nan)
        elif unmeasured:
            why = _too_few(finding.ours, claim.seeds)
            finding = finding._replace(verdict=NO_EVALUATION, why=why, p=np.nan, commands=unmeasured)
        elif finding.verdict != NO_SEEDS:
            control = self._control(claim, group)
            if control is not None:
                finding = finding._replace(
                    verdict=control.verdict, why=control.why, p=np.nan, commands=control.commands
                )
            elif finding.ours.n < claim.seeds:
                why = f"{_too_few(finding.ours, claim.seeds)} on what a paper is known for; so far {finding.why}"
                finding = finding._replace(verdict=NO_SEEDS, why=why, p=np.nan)
        return Judged(claim, finding, group)

    def _groups(
        self, claim: Claim, alike: Sequence[Mapping[str, tuple[str, str]]], values: Sequence[Mapping[str, float]]
    ) -> list[Paired]:
        """The comparable runs, the best group first. Seconds compare on one device alone."""
        if not claim.timed:
            return self.book.paired(alike, values, claim.testable_from)
        groups = []
        for device in sorted(set(self.book.devices.values())):
            here = [{run: x for run, x in side.items() if self.book.devices.get(run) == device} for side in values]
            groups += self.book.paired(alike, here, claim.testable_from)[:1]
        return sorted(groups, key=lambda group: self.book.rank(group, claim.testable_from), reverse=True)

    def _unmeasured(
        self,
        claim: Claim,
        group: Paired,
        sides: Sequence[Side],
        alike: Sequence[Mapping[str, tuple[str, str]]],
        values: Sequence[Mapping[str, float]],
    ) -> tuple[str, ...]:
        """The commands that add seeds to this comparison by evaluating existing runs of all arms."""
        if claim.measure.table != "evaluation":
            return ()
        key = (group.rung, json.dumps(group.changes, sort_keys=True))
        partners = self.book.with_partners(alike).get(key, {})
        pairs = [runs for seed, runs in partners.items() if seed not in group.seeds]
        return self._evaluate(claim, sides, _without(values, pairs))

    def _evaluate(self, claim: Claim, sides: Sequence[Side], runs: Sequence[Sequence[str]]) -> tuple[str, ...]:
        """One ``hardlab evaluate ...`` for each protocol and data set that measures these runs of the sides."""
        ways: dict[tuple[str, str], list[str]] = {}
        for side, names in zip(sides, runs, strict=True):
            where = claim.seen(side).where
            if names:
                ways.setdefault((where.get("protocol", ""), where.get("evaluated_on", "")), []).extend(names)
        return tuple(
            evaluate_command(dict.fromkeys(names), {"protocol": protocol, "data": data})
            for (protocol, data), names in ways.items()
        )

    def _arms(self, claim: Claim, group: Paired) -> list[np.ndarray]:
        """Of each side its values; an untrained network as a side is paired by its seed."""
        arms, values = [], iter(group.values)
        for side in claim.arms:
            if side.recipe != UNTRAINED:
                arms.append(dict(zip(group.seeds, next(values), strict=True)))
            else:
                began = self.values(claim.seen(side), self.book.untrained(group.names))
                arms.append({int(self.book.runs[name]["seed"]): value for name, value in began.items()})
        return _shared(arms, group.seeds, claim.published.scale)

    def _control(self, claim: Claim, group: Paired) -> Finding | None:
        """The reason why the positive control of an accuracy is missing or failed; None if it passed.

        Every arm must beat the untrained network and raw pixels by the same probe, outside the 95 % interval.
        """
        if claim.probe is None:
            return None
        began = self.book.untrained(group.names)
        controls = self.controls(claim.measure, began)
        lacking = [name for name, values in controls.items() if len(values) < (1 if name == "raw pixels" else 2)]
        if lacking:
            like = next(iter(group.names))
            where = {k: v for k, v in group.changes.items() if k.partition(".")[0] in ("data", "backbone")}
            protocol = claim.probe[0]
            train = Arm(UNTRAINED, tuple(where.items()), sets=(self.book.runs[like]["data.name"],)).command(group.rung)
            runs = " ".join(f"runs/{name}" for name in began) or "RUN"
            measure_them = f"hardlab evaluate {runs} --protocol {protocol} --pixels"
            why = f"{' and '.join(lacking)} were not measured by this probe"
            if began:
                return Finding(NO_EVALUATION, NOTHING, why, commands=(measure_them,))
            why += ", which takes two seeds or more of the first"
            return Finding(NO_EVALUATION, NOTHING, why, commands=(train, measure_them))
        failures, scale = [], claim.published.scale
        sides = [side for side in claim.arms if side.recipe != UNTRAINED]
        for side, values in zip(sides, group.values, strict=True):
            for name, others in controls.items():
                if not side.fails and not evidence.surely_above(values, others):
                    reached = f"{scale * np.mean(values):.4g} against {scale * np.mean(others):.4g}"
                    failures.append(f"the arm {side.recipe} does not surely beat {name} ({reached})")
        return Finding(NOT_LEARNED, NOTHING, "; ".join(failures)) if failures else None

    def controls(self, measure: Measure, began: Sequence[str]) -> dict[str, list[float]]:
        """What an arm has to beat, by a probe: the values of untrained networks and of raw pixels."""
        pixels = measure.model_copy(update={"where": measure.where | {"features": "pixels"}})
        return {
            "the untrained network": list(self.values(measure, began).values()),
            "raw pixels": list(self.values(pixels, began).values()),
        }

    def beside(self, claim: Claim, group: Paired) -> str:
        """The same comparison by other probes that measured all arms with two seeds or more, as text.

        It names the control that a trained arm does not reach by such a probe.
        """
        if claim.probe not in PROBES.values() or "evaluated_on" in claim.measure.where:
            return ""
        sentences, began = [], self.book.untrained(group.names)
        for name, (protocol, metric) in PROBES.items():
            if (protocol, metric) == claim.probe:
                continue
            measure = claim.measure.model_copy(update={"where": {"protocol": protocol, "metric": metric}})
            columns = []
            for runs in group.runs:
                values = self.values(measure, runs)
                per_seed = zip(group.seeds, runs, strict=True)
                columns.append({seed: values[run] for seed, run in per_seed if run in values})
            arms = _shared(columns, group.seeds, claim.published.scale)
            if len(arms[0]) > 1 and len(arms) == len(claim.arms):
                effect = judge(claim.test, arms).ours
                mean, lo, hi = written(*effect[:3])
                lowest = min(np.mean(list(column.values())) for column in columns)
                controls = self.controls(measure, began).items()
                below = [control for control, values in controls if values and lowest <= np.mean(values)]
                remark = f", an arm below {' and '.join(below)}" * bool(below)
                sentences.append(f"{name} {mean} ({lo} to {hi}, {effect.n} seeds{remark})")
        return "; ".join(sentences)

    def row(self, judged: Judged, q: float, spread: tuple[float, int]) -> dict[str, Any]:
        """A row of ``COLUMNS`` with the corrected finding. spread: of all claims of its measure, and its freedom."""
        claim, finding, group = judged
        ours, why, verdict, commands = finding.ours, finding.why, finding.verdict, list(finding.commands)
        if group is not None and verdict.startswith("needs rung"):
            commands = claim.commands(claim.arms, claim.testable_from)
            why = f"rung {group.rung} is too small for this claim ({why}), with {claim.seeds} seeds or more"
        elif group is not None and verdict == NO_SEEDS:
            seed = {"seed": max((-1, *group.seeds)) + 1}
            commands = claim.commands(claim.arms, group.rung, group.changes | seed)
        elif group is not None and group.changes and verdict not in (NO_EVALUATION, CANNOT):
            why += f"; runs with {', '.join(f'{k}={v}' for k, v in group.changes.items())}"
        if verdict in WEAKLY and not q <= evidence.LEVEL:
            verdict = WEAKLY[verdict]
        row = dict(claim) | ours._asdict() | {"verdict": verdict, "published": str(claim.published)}
        row |= {"unit": claim.published.unit, "p": finding.p, "q": q, "beside": "", "frozen": "", "excluded": ""}
        changes = group.changes.items() if group is not None else ()
        row["settings"] = " ".join(f"{k}={v}" for k, v in changes)
        row |= {"p_sign": np.nan, "pooled_lo": np.nan, "pooled_hi": np.nan}
        row |= dict.fromkeys(("more_seeds", "more_seeds_published"), np.nan)
        row |= {"rung": group.rung if group else "", "runs": " ".join(group.names) if group else ""}
        if group is not None:
            row |= self._strength(judged, spread) | {"beside": self.beside(claim, group)}
        note, row["frozen"] = self._since(claim, group)
        remarks = (claim.note.rstrip("."), self._took(claim, group), *self._origin(claim, group), note)
        parts = [part for part in (why, *remarks) if part]
        row["why"] = ". ".join(part[:1].upper() + part[1:] for part in parts) + "."
        row["commands"] = "\n".join(commands)
        return {k: row[k] for k in COLUMNS}

    def _took(self, claim: Claim, group: Paired | None) -> str:
        """The device of a claim about seconds, and the seconds of each arm where one trains longer to take as many."""
        if group is None:
            return ""
        devices = {self.book.devices.get(name, "") for name in group.names}
        if claim.timed:
            return f"these are seconds of {' and '.join(sorted(devices))}"
        if all(side.longer == 1 for side in claim.arms) or claim.test.of == "gain":
            return ""
        if len(devices) > 1:
            return "these runs were trained on several machines, whose seconds do not compare"
        an_epoch = Measure(table="costs", where={"quantity": "seconds.total"})
        seconds_by_arm = [self.values(an_epoch, runs) for runs in group.runs]
        seconds = [[value * self.book.epochs(name) for name, value in of_arm.items()] for of_arm in seconds_by_arm]
        if not all(seconds):
            return ""
        # not the mean: a run beside other work takes several times as long
        medians = " and ".join(f"{np.median(arm_seconds):.0f}" for arm_seconds in seconds)
        return f"on {devices.pop()}, where these runs were trained, the median runs took {medians} s"

    def _origin(self, claim: Claim, group: Paired | None) -> Iterator[str]:
        """What a referee wants to know of the runs: precision, pairs of two kinds of machine, and uncommitted code."""
        if group is None:
            return
        precisions = np.array([self.book.runs[name].get("precision", "") for name in group.runs[0]])
        kinds = sorted(set(precisions) - {"", "auto"})  # the manifest does not say what became of it
        if len(kinds) > 1:
            parts = (f"{np.count_nonzero(precisions == kind)} in {kind}" for kind in kinds)
            alone = (self._alone(claim, group, precisions == kind, f"those in {kind}") for kind in kinds)
            yield f"pairs by precision: {' and '.join(parts)}" + "".join(alone)
            if any(datetime.fromisoformat(start) < POOLED_SINCE for start in self._started(group)):
                yield f"that both count together was set on {POOLED_SINCE:%Y-%m-%d}, after its runs"
        elif kinds:
            yield f"trained in {kinds[0]}"
        pairs = [{self.book.devices.get(name, "") for name in pair} for pair in zip(*group.runs, strict=True)]
        alike = np.array([len(devices) == 1 for devices in pairs])
        if not alike.all():
            sentence = (
                f"in {np.count_nonzero(~alike)} of {len(alike)} pairs the arms were trained on different machines"
            )
            yield sentence + self._alone(claim, group, alike, "the others")
        if uncommitted := [name for name in group.names if name in self.book.uncommitted]:
            yield f"trained from a checkout with uncommitted changes: {' '.join(uncommitted)}"

    def _alone(self, claim: Claim, group: Paired, some: np.ndarray, name: str) -> str:
        """What ``some`` of a group's pairs, a mask of these, give alone; "" if they are too few for a verdict."""
        arms = self._arms(claim, group)
        if np.count_nonzero(some) < SEEDS or any(len(arm) != len(some) for arm in arms):
            return ""
        mean, lo, hi = written(*judge(claim.test, [arm[some] for arm in arms]).ours[:3])
        return f"; {name} alone give {mean} ({lo} to {hi})"

    def _strength(self, judged: Judged, spread: tuple[float, int]) -> dict[str, Any]:
        """A finding's sign-flip test, interval by the pooled spread, missing seeds, and excluded size."""
        claim, finding, _ = judged
        evidence_columns: dict[str, Any] = {}
        if judged.tested:
            evidence_columns["p_sign"] = evidence.sign_flip_test(finding.values, finding.threshold)
        sd, free = spread
        if np.isfinite(sd):
            if 2 <= finding.ours.n < evidence.FEW:
                pooled = evidence.pooled_interval(finding.values, sd, free)
                evidence_columns |= {"pooled_lo": pooled.lo, "pooled_hi": pooled.hi}
        else:
            sd, _ = evidence.pooled_spread([finding.values])
        size = claim.size()
        if finding.verdict in WEAKLY and judged.tested:
            return evidence_columns | self._excluded(size, finding.ours)
        for name, effect in (("more_seeds", finding.ours.mean - finding.threshold), ("more_seeds_published", size)):
            if effect is not None and (needed := evidence.seeds_for(float(effect), sd, level=claim.level)):
                more = max(0, max(needed, claim.seeds) - finding.ours.n)
                evidence_columns[name] = more if needed < evidence.MOST else evidence.MOST
        return evidence_columns | self._excluded(size, finding.ours)

    def _excluded(self, size: float | None, ours: Interval) -> dict[str, str]:
        """Whether the published size lies outside our interval."""
        if size is None or ours.n < SEEDS:
            return {}
        return {"excluded": "no" if ours.lo <= size <= ours.hi else "yes"}

    def _started(self, group: Paired | None) -> list[str]:
        """When the runs of a group began, where their manifests say so."""
        return [start for name in (group.names if group else ()) if (start := self.book.started.get(name))]

    def _since(self, claim: Claim, group: Paired | None) -> tuple[str, str]:
        """Since when a test stands, and a remark on the last change if it came after the runs began."""
        tests = frozen().get(claim.id, ())
        if not tests or tests[-1].digest != claim.digest:
            return "", ""
        last = tests[-1]
        note = ""
        if any(datetime.fromisoformat(start) < last.since for start in self._started(group)):
            note = f"this test was set on {last.since:%Y-%m-%d}, after its runs" + f": {last.changed}" * bool(
                last.changed
            )
        return note, last.since.isoformat()

    def _table(self, name: str) -> _Rows:
        if name not in self._tables:
            self._tables[name] = _Rows(schema.read(self.folder, name))
        return self._tables[name]

    def values(self, m: Measure, runs: Iterable[str]) -> dict[str, float]:
        """Run -> value of the measure, for the runs that have one."""
        rows = self._table(m.table)
        row_numbers = {name: list(rows.of_run.get(name, ())) for name in sorted(runs)}
        for column, text in m.where.items():
            texts = rows.texts(column)
            row_numbers = {name: [i for i in at if texts[i] == text] for name, at in row_numbers.items()}
        if m.table == "evaluation":
            row_numbers = self._as_trained(rows, row_numbers, m.where)
        values, numbers = {}, rows[m.value]
        for name, at in row_numbers.items():
            series = np.array([numbers[i] for i in self._in_time(rows, at)], dtype=np.float64)
            series = series[~np.isnan(series)]
            if len(series) and not np.isnan(value := OVER[m.over](series)):
                values[name] = value
        return values

    def _in_time(self, rows: _Rows, at: list[int]) -> list[int]:
        """Rows by epoch, then by step."""
        if len(at) < 2:
            return at
        columns = [rows[column] for column in ("step", "epoch") if column in rows]
        times = [[column[i] for i in at] for column in columns]
        order = np.lexsort(times) if len(times) > 1 else np.argsort(times[0]) if times else range(len(at))
        return [at[i] for i in order]

    def _as_trained(
        self, rows: _Rows, row_numbers: Mapping[str, list[int]], where: Mapping[str, str]
    ) -> dict[str, list[int]]:
        """The rows of the paper's main network, with the options of most runs, on the run's own training set.

        The claim may name another data set, and a protocol may have its own.
        """
        from hardlab.evaluate.published import PROTOCOLS

        selected = dict(row_numbers)
        if "evaluated_on" not in where and PROTOCOLS[where["protocol"]].needs != "scenes":
            own, on = {name: self.book.runs[name]["data.name"] for name in selected}, rows["evaluated_on"]
            selected = {name: [i for i in at if on[i] == own[name]] for name, at in selected.items()}
        if "features" not in where:
            features = rows["features"]
            selected = {n: [i for i in at if features[i] in ("backbone", "teacher")] for n, at in selected.items()}
        options_of = rows["options"]
        options = usual([options_of[i] for at in selected.values() for i in at])
        return {name: [i for i in at if options_of[i] == options] for name, at in selected.items()}

    def _wanted(
        self,
        claim: Claim,
        sides: Sequence[Side],
        alike: Sequence[Mapping[str, tuple[str, str]]],
        values: Sequence[Mapping[str, float]],
    ) -> Finding:
        """The verdict without rows, and the commands that make them: train, evaluate, or collect."""
        high, table = rungs_from(claim.testable_from), claim.measure.table
        trained = [{n: key for n, key in runs.items() if key[0] in high} for runs in alike]
        if lacking := [side for side, runs in zip(sides, trained, strict=True) if not runs]:
            commands = claim.commands(lacking, claim.testable_from)
            if table == "evaluation":
                protocols = dict.fromkeys(claim.seen(side).where["protocol"] for side in lacking)
                commands.append(evaluate_command([], *({"protocol": p} for p in protocols)))
            why = f"no rows yet, testable from rung {claim.testable_from}, with {claim.seeds} seeds or more"
            return Finding(NO_RUN, NOTHING, why, commands=tuple(commands))
        shared = self.book.with_partners(trained)
        if not shared:
            training = tuple(claim.commands(claim.arms, claim.testable_from))
            precisions = sorted({self.book.runs[name]["precision"] for runs in trained for name in runs})
            remark = f", also in precision ({' and '.join(precisions)})" if len(precisions) > 1 else ""
            why = f"the existing runs differ in more than their arm{remark}"
            return Finding(NO_RUN, NOTHING, why, commands=training)
        if not any(shared.values()):
            rung, changes = highest_shared(shared)
            seed = 1 + max(int(self.book.runs[name]["seed"]) for runs in trained for name in runs)
            training = tuple(claim.commands(claim.arms, rung, json.loads(changes) | {"seed": seed}))
            return Finding(NO_RUN, NOTHING, "no seed has a run of every arm", commands=training)
        pairs = [runs for of_seed in shared.values() for runs in of_seed.values()]
        without = _without(values, pairs)
        if table == "evaluation":
            why = "the runs exist but were not evaluated this way"
            return Finding(NO_EVALUATION, NOTHING, why, commands=self._evaluate(claim, sides, without))
        bare = [side for side, runs in zip(sides, without, strict=True) if runs]
        names = " ".join(dict.fromkeys(name for runs in without for name in runs))
        why = (
            f"the runs {names} came without rows in {table}.csv: collect where their folders are, else train them again"
        )
        training = ("hardlab figures --from runs --all", *claim.commands(bare, claim.testable_from))
        return Finding(NO_RUN, NOTHING, why, commands=training)


def _without(values: Sequence[Mapping[str, float]], pairs: Sequence[tuple[list[str], ...]]) -> list[list[str]]:
    """Of each arm the runs to measure, one of each of the ``pairs`` in which no run of the arm has a value."""
    return [
        [runs[at][-1] for runs in pairs if not any(name in measured for name in runs[at])]
        for at, measured in enumerate(values)
    ]


def _shared(arms: Sequence[Mapping[int, float]], seeds: Sequence[int], scale: float) -> list[np.ndarray]:
    """Of each arm the values, times a scale, of the seeds that all of them have."""
    common = [seed for seed in seeds if all(seed in values for values in arms)]
    return [scale * np.array([values[seed] for seed in common], dtype=np.float64) for values in arms]


def verdicts(data_dir: Path | str, claims: Iterable[Claim] | None = None) -> pd.DataFrame:
    """A row per claim with ``COLUMNS``, ours in the published unit. Tables missing in ``data_dir`` count as empty.

    claims: by default all. q is corrected for these claims, and their spreads are pooled, so to see a few, select their
    rows from the verdicts of all.
    """
    ledger = Ledger(data_dir)
    all_judged = [ledger.judge(claim) for claim in (load() if claims is None else claims)]
    q = evidence.corrected([judged.finding.p for judged in all_judged])
    pooled, none = spreads(all_judged), (np.nan, 0)
    rows = [
        ledger.row(judged, at, pooled.get(judged.spread_of, none) if judged.spread_of else none)
        for judged, at in zip(all_judged, q, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def spreads(all_judged: Sequence[Judged]) -> dict[tuple[Any, ...], tuple[float, int]]:
    """Key of a pool -> the spread of its differences, and its degrees of freedom."""
    return {
        key: evidence.pooled_spread(_once(all_judged, key))
        for key in {judged.spread_of for judged in all_judged}
        if key
    }


def _once(all_judged: Iterable[Judged], key: tuple[Any, ...]) -> list[np.ndarray]:
    """The differences behind these claims, once per set of runs, without differences that are all equal."""
    values_by_runs = {
        claim.group.names: claim.finding.values
        for claim in all_judged
        if claim.group is not None and claim.spread_of == key
    }
    return [values for values in values_by_runs.values() if len(values) > 1 and np.ptp(values) > 0]


class Level(NamedTuple):
    """An arm's runs, and its accuracy in percent by each of ``PROBES`` that measured it."""

    name: str
    rung: str
    data: str
    epochs: float
    runs: tuple[str, ...]
    by: dict[str, Interval]


def levels(data_dir: Path | str, judged: pd.DataFrame) -> list[Level]:
    """The arms behind the headlines in rows of ``verdicts``, after the untrained network and raw pixels."""
    ledger = Ledger(data_dir)
    book = ledger.book
    arms: dict[tuple[str, str], list[str]] = {}
    for names in judged.loc[judged["headline"] & judged["n"].gt(0), "runs"]:
        for run in names.split():
            recipe_of = book.runs[run]["recipe"]
            arms.setdefault((recipe_of, names), []).append(run)
    runs = dict.fromkeys((name, tuple(sorted(arm_runs))) for (name, _), arm_runs in arms.items())
    began: dict[str, tuple[str, ...]] = {}
    for _, arm_runs in runs:
        if control := tuple(sorted(book.untrained(arm_runs))):
            began.setdefault(" ".join(control), control)
    distinct = [(name, arm_runs) for name, arm_runs in runs if not any(set(arm_runs) < set(more) for _, more in runs)]
    out = []
    for arm_runs in began.values():
        out += [
            level_of(ledger, "untrained network", arm_runs, "backbone"),
            level_of(ledger, "raw pixels", arm_runs, "pixels"),
        ]
    return out + [level_of(ledger, name, arm_runs) for name, arm_runs in distinct]


def level_of(ledger: Ledger, name: str, runs: tuple[str, ...], features: str = "") -> Level:
    """What these runs of an arm reach by every probe; features: of an untrained network, ``backbone`` or ``pixels``."""
    by, facts = {}, ledger.book.runs[runs[0]]
    for probe, (protocol, metric) in PROBES.items():
        where = {"protocol": protocol, "metric": metric} | ({"features": features} if features else {})
        values = [100 * value for value in ledger.values(Measure(where=where), runs).values()]
        if values:
            by[probe] = interval(values)
    share = float(facts.get("data.fraction", "1"))
    data = facts["data.name"] + (f", {100 * share:g} %" if share < 1 else "")
    return Level(name, facts["rung"], data, ledger.book.epochs(runs[0]), runs, by)


def ours(row: Any) -> str:
    """Mean, interval and unit of a row of ``verdicts`` as text; "" without a mean."""
    if not row.n:
        return ""
    mean, *limits = written(row.mean, row.lo, row.hi)
    return f"{mean}{f' ({limits[0]} to {limits[1]})' if row.n > 1 else ' (one seed)'} {row.unit}"


def written(mean: float, lo: float, hi: float) -> tuple[str, str, str]:
    """A mean and its limits with the same decimals, of which half the interval fills two; three digits without one."""
    half = (hi - lo) / 2
    if not (np.isfinite(half) and half > 0):
        return f"{mean:.3g}", f"{lo:.3g}", f"{hi:.3g}"
    decimals = max(0, 1 - int(np.floor(np.log10(half))))
    mean, lo, hi = (round(x, decimals) + 0.0 for x in (mean, lo, hi))  # no -0
    return f"{mean:.{decimals}f}", f"{lo:.{decimals}f}", f"{hi:.{decimals}f}"


def seeds_in_words(seeds: float) -> str:
    """A number of missing seeds; from ``evidence.MOST`` on nobody counts them."""
    return f"{seeds:.0f}" if seeds < evidence.MOST else f"{evidence.MOST} or more"


def strength(row: Any) -> str:
    """The strength of the evidence in a row of ``verdicts``, in sentences; "" if nothing was tested."""
    sentences = []
    if np.isfinite(row.p):
        sign = f", {row.p_sign:.2g} by changes of sign" if np.isfinite(row.p_sign) else ""
        sentences.append(f"p = {row.p:.2g}{sign}, q = {row.q:.2g} over all claims.")
    if np.isfinite(row.pooled_lo):
        _, lo, hi = written(row.mean, row.pooled_lo, row.pooled_hi)
        sentences.append(f"By the spread of all claims of this measure {lo} to {hi}.")
    if row.excluded:
        sentences.append(f"The published size is {'' if row.excluded == 'yes' else 'not '}excluded at this scale.")
    if np.isfinite(row.more_seeds):
        sentences.append(f"Seeds still needed to detect the observed size: {seeds_in_words(row.more_seeds)}.")
    if np.isfinite(row.more_seeds_published):
        sentences.append(f"For the published size: {seeds_in_words(row.more_seeds_published)}.")
    return " ".join(sentences)


def links(names: str, runs_dir: Path | str) -> str:
    """HTML links from the names of runs to their manifests in the folder of runs."""
    return " ".join(f'<a href="{Path(runs_dir) / name / "manifest.json"}">{name}</a>' for name in names.split())


def counted(judged: pd.DataFrame) -> str:
    """The number of rows of ``verdicts`` with each verdict, as text in the order of ``VERDICTS``.

    Comparisons that no paper makes are told apart.
    """
    counts, unpublished = (
        rows["verdict"].value_counts() for rows in (judged, judged[judged["published"] == UNPUBLISHED])
    )
    wording = {v: v.replace("needs", "need") if counts.get(v, 0) > 1 else v for v in VERDICTS}
    own = {v: f" ({n} by comparisons that no paper makes)" for v, n in unpublished.items() if v in DECIDED}
    return ", ".join(f"{counts[v]} {text}{own.get(v, '')}" for v, text in wording.items() if v in counts)


def describe(judged: pd.DataFrame, *, why: bool = False, width: int = 110) -> str:
    """Rows of ``verdicts`` as text: two lines per claim, on request its reason and runs, and a count at the end.

    The commands that make missing runs follow, each on one line, however long.
    """
    lines = []
    for paper, rows in judged.groupby("paper", sort=False):
        lines.append(f"{paper.upper()}")
        for row in rows.itertuples():
            measured = f"{ours(row)}, {row.rung}" if row.n else f"from rung {row.testable_from}"
            lines.append(f"  {row.id:33} {row.verdict:20} {measured}"[:width])
            lines_of_claim = [f"{row.statement} ({row.place}: {row.published})"]
            if why:
                lines_of_claim += [
                    text for text in (row.why, strength(row), row.beside and f"Beside: {row.beside}.") if text
                ]
                lines_of_claim += [f"Runs: {row.runs}"] if row.runs else []
            lines += textwrap.wrap(" ".join(lines_of_claim), width, initial_indent=" " * 6, subsequent_indent=" " * 6)
            lines += [f"        {command}" for command in row.commands.splitlines()]
        lines.append("")
    lines += textwrap.wrap(", ".join(text for text in (f"{len(judged)} claims", counted(judged)) if text), width)
    if tested := int(judged["q"].notna().sum()):
        lines += textwrap.wrap(
            f"{tested} of these were tested, each corrected for all that were (Benjamini-Hochberg): of those called "
            f"reproduced or contradicted at most one in {1 / evidence.LEVEL:.0f} is expected to be so by chance.",
            width,
        )
    return "\n".join(lines)
