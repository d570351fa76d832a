"""Plans a campaign: the runs that the claims of a rung lack, ordered by the statistical power that they add per second.

A claim gains power with every seed that all of its arms have. The planner compares all claims, with every number of
seeds up to the number that each needs. It picks the runs that add the most power, summed over all claims that share
them, per second of training, and repeats. A baseline is trained once; its cost counts only for the first claim that
needs it.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardlab import config, registry
from hardlab.analysis import claims, evidence
from hardlab.analysis.arms import LINEAR, UNTRAINED, option_key, reaches
from hardlab.analysis.claims import Claim, Judged, Ledger, Side
from hardlab.config import Run
from hardlab.errors import HardlabError
from hardlab.files import damaged, read_manifest, read_yaml
from hardlab.recipes import RUNGS, recipe
from hardlab.workbook.archive import evaluated
from hardlab.workbook.job_queue import Estimate, Job
from hardlab.workbook.plan import training_images

if TYPE_CHECKING:
    from hardlab.data import Images

UNKNOWN = 0.5  # power of a claim with enough seeds for a verdict, where neither its size nor its spread is known
BESIDE = ("knn", LINEAR[0])  # protocols that evaluate every run


class Stage(BaseModel):
    """Claims at a rung.

    claims: papers, for all their claims that the rung can test, or ids of claims, at any rung; empty = all papers.
    seeds: the most seeds of an arm.
    set: overrides of all runs, dotted as on the command line, e.g. a shorter schedule.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rung: str
    claims: tuple[str, ...] = ()
    seeds: int = Field(default=10, ge=1, le=evidence.MOST)
    set: dict[str, Any] = Field(default_factory=dict)

    def chosen(self) -> list[Claim]:
        """The claims of the stage, in the ledger's order."""
        papers = self.claims or claims.PAPERS
        return [
            claim
            for claim in claims.load()
            if claim.id in self.claims or (claim.paper in papers and reaches(self.rung, claim.testable_from))
        ]


def read(plan: str) -> list[Stage]:
    """Read the stages of a plan: the name of a rung, or a YAML file with a stage or a list of stages.

    Raises HardlabError for a file that is missing, holds something else, or names what does not exist.
    """
    if plan in RUNGS:
        return [Stage(rung=plan)]
    path = Path(plan)
    if not path.is_file():
        raise registry.unknown("rung, and no file", plan, RUNGS)
    tree = read_yaml(path)
    try:
        stages = [Stage.model_validate(part) for part in (tree if isinstance(tree, list) else [tree])]
    except ValidationError as e:
        first = e.errors()[0]
        raise damaged(path, f"{'.'.join(map(str, first['loc'])) or 'a stage'}: {first['msg']}") from e
    names = {claim.id for claim in claims.load()} | claims.PAPERS.keys()
    for stage in stages:
        if stage.rung not in RUNGS:
            raise registry.unknown("rung", stage.rung, RUNGS)
        for name in set(stage.claims) - names:
            raise registry.unknown("claim or paper", name, names)
        if label := stage.set.keys() & {"seed", "recipe", "rung"}:
            raise HardlabError(
                f"'{path}' sets {min(label)} for a whole stage, but it tells its runs apart: leave it out."
            )
        recipe("simsiam", stage.rung, _without_parent(stage.set))  # any recipe: only the overrides are checked
    return stages


def _without_parent(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in overrides.items() if k.partition(".")[0] != "parent"}


# ------------------------------------------------------------------------------------------------ what is missing


@dataclass(frozen=True)
class Question:
    """An open claim, and the runs that it lacks.

    there: number of seeds that all of its arms have.
    needed: number of seeds for a verdict with a power of 80 %.
    least: the smallest number of seeds for a verdict.
    size, spread: of the difference; None if unknown.
    level: of its test.
    steps: (seeds afterwards, ids of missing runs), each after the steps before it; the first may be the untrained
        networks that an accuracy is compared with.
    """

    claim: str
    headline: bool
    there: int
    needed: int
    least: int
    size: float | None
    spread: float | None
    steps: tuple[tuple[int, tuple[str, ...]], ...]
    level: float = evidence.LEVEL

    def reached(self, done: Iterable[str]) -> int:
        """The number of steps, from the first, whose runs are all in ``done``."""
        done = set(done)
        return next((i for i, (_, runs) in enumerate(self.steps) if not done.issuperset(runs)), len(self.steps))

    def power(self, steps: int) -> float:
        """The probability that the claim is decided after so many steps."""
        seeds = self.steps[steps - 1][0] if steps else self.there
        controlled = steps > 0 or not self.steps or self.steps[0][0] != self.there
        if seeds < max(2, self.least) or not controlled:
            return 0.0
        if self.size is None or self.spread is None:
            return UNKNOWN
        return _power(self.size, self.spread, seeds, self.level)


@cache
def _power(size: float, spread: float, seeds: int, level: float) -> float:
    return float(evidence.power_of(size, spread, np.array([seeds]), level)[0])


class Pick(NamedTuple):
    """The next runs of a plan: the claim that they serve, their ids, and their total seconds."""

    claim: str
    runs: tuple[str, ...]
    seconds: float


def order(questions: Sequence[Question], seconds: Mapping[str, float]) -> list[Pick]:
    """Order all missing runs, each once: those for the headlines of the papers first, then by power per second.

    seconds: run id -> seconds. Ties go to the first claim, then to the fewest seeds.
    """
    of_run: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        for run in {run for _, runs in question.steps for run in runs}:
            of_run[run].append(question)
    done: set[str] = set()
    picks: list[Pick] = []
    for first in (True, False):
        open_ = [question for question in questions if question.headline == first]
        while True:
            best: tuple[float, Pick] | None = None
            for question in open_:
                new: dict[str, None] = {}
                for _, runs in question.steps[question.reached(done) :]:
                    new.update(dict.fromkeys(run for run in runs if run not in done))
                    cost = sum(seconds[run] for run in new)
                    after = done | new.keys()
                    touched = {id(other): other for run in new for other in of_run[run]}.values()
                    gain = sum(o.power(o.reached(after)) - o.power(o.reached(done)) for o in touched)
                    worth = gain / max(cost, 1e-9)
                    if best is None or worth > best[0] * (1 + 1e-9):
                        best = (worth, Pick(question.claim, tuple(new), cost))
            if best is None:
                break
            picks.append(best[1])
            done.update(best[1].runs)
    return picks


@dataclass
class Survey:
    """The open claims at the stages of a plan, and their missing runs.

    stages: of the plan.
    data_dir: the collected tables.
    runs_dir: the campaign's own runs.
    precision: that of runs on this machine with ``precision=auto``; only runs of one precision are paired.
    root: the folder of the data sets.
    """

    stages: Sequence[Stage]
    data_dir: Path
    runs_dir: Path
    precision: str
    root: Path | None = None
    runs: dict[str, Run] = field(default_factory=dict)  # missing ones, a parent before those that start from it
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)  # overrides of a recipe that give a run, by id
    protocols: dict[str, dict[str, None]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # claim -> why its runs cannot be made

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.data_dir)
        self.judged = {claim.id: self.ledger.judge(claim) for claim in claims.load()}
        self.spreads = claims.spreads(list(self.judged.values()))
        family = list(self.judged)
        q = evidence.corrected([self.judged[name].finding.p for name in family])
        self.q = dict(zip(family, q, strict=True))
        self.asked: dict[str, str] = {}  # id of a run without its seed -> why it cannot be made
        self.images: dict[config.Data, int] = {}
        self.folders: dict[config.Data, tuple[Images, Images]] = {}  # of training and test

    def questions(self, stage: Stage) -> list[Question]:
        """The open claims of a stage that lack runs; claims whose runs cannot be made go to ``refused``."""
        out = []
        for claim in stage.chosen():
            try:
                question = None if self._settled(claim, stage) else self._question(claim, stage)
            except HardlabError as e:
                self.refused[claim.id] = str(e)
                continue
            if question is not None and question.steps:
                out.append(question)
        return out

    def _settled(self, claim: Claim, stage: Stage) -> bool:
        """Whether a claim is decided after correction at this rung, or can never be decided."""
        _, finding, group = self.judged[claim.id]
        at_rung = group is not None and group.rung == stage.rung
        return bool(claim.cannot) or (
            at_rung and finding.verdict in claims.WEAKLY and self.q[claim.id] <= evidence.LEVEL
        )

    def _question(self, claim: Claim, stage: Stage) -> Question | None:
        if "epochs" in stage.set and any(side.longer != 1 for side in claim.arms):
            raise HardlabError("one arm is trained for longer than its recipe says, and the plan sets the epochs.")
        have = self._have(claim, stage)
        existing = len(set.intersection(*(set(seeds) for seeds in have)))
        size, spread = self._size(claim, stage)
        enough = 0
        if size is not None and spread is not None:
            enough = evidence.seeds_for(size, spread, level=claim.level)
        needed = max(claim.seeds, enough)
        judged = self.judged[claim.id]
        if judged.finding.verdict == claims.NOT_LEARNED and self._at_stage(judged, stage):
            return None  # a network that does not learn decides nothing with more seeds
        steps = [] if claim.probe is None else [(existing, self._control(claim, stage))]
        steps = [step for step in steps if step[1]]
        seeds = (seed for seed in count() if not all(seed in of_side for of_side in have))
        for after in range(existing + 1, min(needed, stage.seeds) + 1):
            seed = next(seeds)
            sides = [side for side, of_side in zip(claim.arms, have, strict=True) if seed not in of_side]
            runs = dict.fromkeys(run for side in sides for run in self._missing(claim, side, stage, seed))
            steps.append((after, tuple(runs)))
        return Question(
            claim.id, claim.headline, existing, needed, claim.seeds, size, spread, tuple(steps), claim.level
        )

    def _have(self, claim: Claim, stage: Stage) -> list[set[int]]:
        """The seeds of each side that have rows from runs with this stage's settings.

        They are in this machine's precision, or a pair in the other one.
        """
        book, judged = self.ledger.book, self.judged[claim.id]
        paired = set(judged.group.seeds) if judged.group is not None and self._at_stage(judged, stage) else set[int]()
        trained = [side for side in claim.arms if side.recipe != UNTRAINED]
        alike = iter(book.alike([claim.arm(side) for side in trained]))
        out = []
        for side in claim.arms:
            runs = [self._run(claim, side, stage, seed) for seed in range(stage.seeds)]
            names = [run.id for run in runs if run.id in book.runs]
            if side.recipe != UNTRAINED:
                run_keys = next(alike).items()
                names = [n for n, (rung, c) in run_keys if rung == stage.rung and self._planned(json.loads(c), stage)]
            seeds = {int(book.runs[name]["seed"]) for name in self.ledger.values(claim.seen(side), names)}
            if side.recipe != UNTRAINED:
                seeds |= paired
            out.append(seeds | {run.seed for run in runs if self._done(run, self._ways(claim, side))})
        return out

    def _at_stage(self, judged: Judged, stage: Stage) -> bool:
        """Whether the runs of a claim have this stage's rung and settings, in whichever precision."""
        group = judged.group
        return group is not None and group.rung == stage.rung and self._planned(group.changes, stage)

    def _planned(self, changes: Mapping[str, Any], stage: Stage) -> bool:
        """Whether these changes of a recipe are those of the stage, in the precision of this machine."""
        planned = {option_key(k): v for k, v in _without_parent(stage.set).items()}
        precision = changes.get("precision", planned.get("precision", self.precision))
        rest = {k: v for k, v in changes.items() if k != "precision"}
        return precision == planned.pop("precision", self.precision) and rest == planned

    def _size(self, claim: Claim, stage: Stage) -> tuple[float | None, float | None]:
        """The expected difference from the threshold, and its spread.

        The difference is the one measured with this stage's settings, from two seeds or more, else the published one.
        """
        judged, threshold = self.judged[claim.id], claim.test.margin if claim.test.value is None else claim.test.value
        measured = self._at_stage(judged, stage) and judged.finding.ours.n > 1
        spread, _ = self.spreads.get(claim.spread_at(stage.rung) or (), (np.nan, 0))
        if measured:
            size: float | None = judged.finding.ours.mean - judged.finding.threshold
            if not np.isfinite(spread):
                spread, _ = evidence.pooled_spread([judged.finding.values])
        elif claim.test.name == "equal_within":
            size = claim.test.margin
        else:
            size = None if (published := claim.size()) is None else published - threshold
        return (size or None), (float(spread) if np.isfinite(spread) and spread > 0 else None)

    # ------------------------------------------------------------------------------------------ runs

    def _run(self, claim: Claim, side: Side, stage: Stage, seed: int) -> Run:
        shared = stage.set
        if side.recipe == UNTRAINED:
            shared = {k: v for k, v in shared.items() if k.partition(".")[0] in ("data", "backbone")}
        elif recipe(side.recipe, stage.rung).parent is None:
            shared = _without_parent(shared)
        changes = {"seed": seed, **shared, **config.parse(claim.overrides(side, stage.rung))}
        run = recipe(side.recipe, stage.rung, changes)
        self.changes.setdefault(run.id, changes)
        return run

    def _ways(self, claim: Claim, side: Side) -> tuple[str, ...]:
        """The protocol that measures a side, with its data set if that is not the run's own; empty without one."""
        where = claim.seen(side).where
        on = where.get("evaluated_on", "")
        return (where["protocol"] + (f"@{on}" if on else ""),) if "protocol" in where else ()

    def _done(self, run: Run, ways: Sequence[str]) -> bool:
        path = self.runs_dir / run.id
        done = evaluated(path, ways)
        if done and run.data.name.startswith("folder:"):
            from hardlab import build
            from hardlab.evaluate import runner

            if run.data not in self.folders:
                self.folders[run.data] = build.images(run, root=self.root), build.images(run, "test", self.root)
            runner.check_reused(path, run, read_manifest(path / "manifest.json"), *self.folders[run.data])
        return done

    def _missing(self, claim: Claim, side: Side, stage: Stage, seed: int) -> list[str]:
        """The ids of the missing runs of a side with this seed: its parent and itself."""
        run = self._run(claim, side, stage, seed)
        self._check(run)
        missing = []
        if run.parent is not None and not self._done(run.parent, ()):
            self.runs.setdefault(run.parent.id, run.parent)
            missing.append(run.parent.id)
        self.runs.setdefault(run.id, run)
        self.protocols.setdefault(run.id, dict.fromkeys(BESIDE)).update(dict.fromkeys(self._ways(claim, side)))
        return [*missing, run.id]

    def _control(self, claim: Claim, stage: Stage) -> tuple[str, ...]:
        """The ids of the untrained networks, of two seeds, that an accuracy is compared with, if they lack rows."""
        assert claim.probe is not None
        runs = [self._run(claim, Side(recipe=UNTRAINED), stage, seed) for seed in (0, 1)]
        existing = [run.id for run in runs if run.id in self.ledger.book.runs]
        pixels = claim.measure.model_copy(update={"where": claim.measure.where | {"features": "pixels"}})
        if len(self.ledger.values(claim.measure, existing)) == len(runs) and self.ledger.values(pixels, existing):
            return ()
        missing = [run for run in runs if not self._done(run, claim.probe[:1])]
        for run in missing:
            self.runs.setdefault(run.id, run)
            self.protocols.setdefault(run.id, dict.fromkeys(BESIDE)).update({claim.probe[0]: None})
        return tuple(run.id for run in missing)

    def _check(self, run: Run) -> None:
        """Raise HardlabError for a run that cannot be trained, or whose images are missing, whatever its seed."""
        from hardlab import build

        key = run.with_({"seed": 0}).id
        if key not in self.asked:
            try:
                build.check(run)
                if run.data not in self.images:
                    images = build.check_images(run, self.root)  # None if they would have to be downloaded
                    self.images[run.data] = training_images(run.data) if images is None else len(images)
                self.asked[key] = ""
            except HardlabError as e:
                self.asked[key] = str(e)
        if self.asked[key]:
            raise HardlabError(self.asked[key])

    def job(self, run: Run, claim: str = "") -> Job:
        """The job of a missing run; a trained run that lacks only rows sees no images."""
        count = 0 if self._done(run, ()) else self.images.get(run.data, 0)
        return Job.of(run, claim, run.rung, count, tuple(self.protocols.get(run.id, ())))


def rates(
    manifests: Mapping[str, Mapping[str, Any]], device: str, precision: str, known: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """``<rung>/<recipe>`` -> images_per_s and peak_memory_mb on a device, for ``job_queue.Estimate``.

    A rate is that measured on this device in this precision; else the one in ``known`` (images per second by the same
    keys); else that of another device or precision, times the median ratio over the recipes that both have.
    """
    by: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    memory: dict[str, float] = {}
    for m in manifests.values():
        key = f"{m['config']['rung']}/{m['config']['recipe']}"
        if m.get("images_per_s"):
            on = str(m.get("device")), config.precision_of(m)
            by[on][key].append(float(m["images_per_s"]))
        memory[key] = max(memory.get(key, 0.0), float(m.get("peak_memory_mb") or 0.0))
    medians = {on: {key: statistics.median(x) for key, x in table.items()} for on, table in by.items()}
    rates = {**known, **medians.pop((device, precision), {})}
    for table in sorted(medians.values(), key=len, reverse=True):
        if common := rates.keys() & table.keys():
            factor = statistics.median(rates[key] / table[key] for key in common)
            rates |= {key: factor * value for key, value in table.items() if key not in rates}
    return {key: {"images_per_s": v, "peak_memory_mb": memory.get(key) or 1000.0} for key, v in rates.items()}


class Row(NamedTuple):
    """A line of the table: a claim, its seeds, and the minutes of the runs that no claim above it has."""

    claim: str
    seeds_there: int
    seeds_needed: int
    runs: int
    minutes: float


class Campaign(NamedTuple):
    """A complete plan: a row per claim and all jobs, in the order in which they run."""

    rows: list[Row]
    jobs: list[Job]
    refused: dict[str, str]


def work_out(survey: Survey, estimate: Estimate) -> Campaign:
    """Plan the missing runs of all stages, one stage after the other."""
    rows: dict[str, Row] = {}
    jobs: dict[str, Job] = {}
    for stage in survey.stages:
        questions = survey.questions(stage)
        jobs_by_run = {run.id: survey.job(run) for run in survey.runs.values() if run.id not in jobs}
        # without any rate for a rung, only numbers of images are compared
        seconds = {name: estimate.alone(job) or job.images / 100 for name, job in jobs_by_run.items()}
        by_claim = {question.claim: question for question in questions}
        for pick in order(questions, seconds | dict.fromkeys(jobs, 0.0)):
            question = by_claim[pick.claim]
            new = [name for name in pick.runs if name not in jobs]
            before = rows.get(pick.claim, Row(pick.claim, question.there, question.needed, 0, 0.0))
            minutes = before.minutes + sum(seconds[name] for name in new) / 60
            rows[pick.claim] = before._replace(runs=before.runs + len(new), minutes=minutes)
            jobs |= {name: survey.job(survey.runs[name], pick.claim) for name in new}
        for question in questions:  # claims whose runs all belong to another claim
            rows.setdefault(question.claim, Row(question.claim, question.there, question.needed, 0, 0.0))
    return Campaign(list(rows.values()), list(jobs.values()), survey.refused)


def describe(campaign: Campaign, places: int) -> str:
    """The plan as a table, with its total time."""
    wide = max((len(row.claim) for row in campaign.rows), default=5)
    lines = [f"{'claim':{wide}}  seeds there  seeds needed  runs  minutes"]
    for r in campaign.rows:
        needed = claims.seeds_in_words(r.seeds_needed)
        lines.append(f"{r.claim:{wide}}  {r.seeds_there:11}  {needed:>12}  {r.runs:4}  {r.minutes:7.1f}")
    total = sum(row.minutes for row in campaign.rows)
    lines.append(
        f"{len(campaign.jobs)} runs for {len(campaign.rows)} claims: {total:.0f} minutes one after the other, "
        f"at best {total / places:.0f} with {places} at a time."
    )
    reasons: dict[str, list[str]] = defaultdict(list)
    for claim, why in campaign.refused.items():
        reasons[why].append(claim)
    lines += [f"cannot be run, {len(names)} claims ({', '.join(names)}): {why}" for why, names in reasons.items()]
    return "\n".join(lines)
