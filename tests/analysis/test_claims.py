"""The ledger of claims: its data, its tests on values with known answers, and what today's rows give."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from scipy import stats

from hardlab.analysis import claims, schema
from hardlab.analysis.claims import (
    CANNOT,
    CONTRADICTED,
    INCONCLUSIVE,
    NO_EVALUATION,
    NO_RUN,
    NO_SEEDS,
    NOT_LEARNED,
    REPRODUCED,
    WEAKLY,
    Claim,
    Test,
    judge,
)
from hardlab.analysis.intervals import interval
from hardlab.analysis.summary import quantities
from hardlab.analysis.summary import summary as summary_of
from hardlab.cli import cli
from hardlab.recipes import RECIPES, RUNGS, recipe
from hardlab.types import HardlabError

DATA = Path(__file__).resolve().parents[2] / "figures" / "data"
GAIN: dict[str, Any] = {
    "id": "a-gain",
    "paper": "hvs",
    "place": "Sec. 4.1, Table 1",
    "statement": "Selection raises the linear accuracy.",
    "published": {"value": 0.78, "unit": "points", "of": "ImageNet"},
    "measure": {"table": "evaluation", "where": {"protocol": "linear-lbfgs", "metric": "top1"}},
    "arms": ["simsiam-hvs", "simsiam"],
    "test": "greater",
    "testable_from": "cpu",
}


def claim(**changes: Any) -> Claim:
    return Claim.model_validate(GAIN | changes)


def per_arm(*values: Sequence[float]) -> list[np.ndarray]:
    return [np.asarray(a, float) for a in values]


def test(name: str, **options: Any) -> Test:
    return Test(name=name, **options)


test.__test__ = False  # type: ignore[attr-defined]


class Folder:
    """A folder of tables that is written run by run.

    untrained: what a network without training and raw pixels reach by every probe, by seed; None = not measured.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.untrained: tuple[float, ...] | None = (-9.0, -9.1, -9.2)
        self.manifests: list[str] = []
        self.rows: dict[str, list[dict[str, Any]]] = {}

    def run(
        self,
        name: str,
        seed: int,
        value: float | None,
        /,
        *,
        rung: str = "cpu",
        precision: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        table: str = "evaluation",
        **columns: Any,
    ) -> str:
        made = recipe(name, rung, {**(overrides or {}), "seed": seed})
        if all(json.loads(m)["id"] != made.id for m in self.manifests):
            extra = {"precision": precision} if precision else {}
            self.manifests.append(json.dumps({"id": made.id, "config": made.model_dump(mode="json"), **extra}))
        if value is not None:
            who = {"rung": rung, "data": "x", "method": "m", "setting": "0", "arm": "a", "recipe": name}
            extra = {"protocol": "linear-lbfgs", "features": "backbone", "evaluated_on": made.data.name}
            extra |= {"split": "test", "metric": "top1", "options": "{}"} if table == "evaluation" else {}
            if table != "evaluation":
                extra = {}
            row = who | {"seed": seed, "run": made.id} | extra | {"value": value} | columns
            self.rows.setdefault(table, []).append(row)
        return made.id

    def verdict(self, one: Claim) -> Any:
        lines, tables = list(self.manifests), {name: list(rows) for name, rows in self.rows.items()}
        self._controls(lines, tables.get("evaluation", []))
        (self.path / "manifests.jsonl").write_text("\n".join(lines))
        for table, rows in tables.items():
            pd.DataFrame(rows).to_csv(self.path / f"{table}.csv", index=False)
        return next(claims.verdicts(self.path, [one]).itertuples())

    def _controls(self, lines: list[str], rows: list[dict[str, Any]]) -> None:
        """An untrained network of each seed, of the rung and the data of every run, and its rows by every probe."""
        began = {}
        for run in [json.loads(line)["config"] for line in self.manifests]:
            data = {f"data.{k}": run["data"][k] for k in ("name", "fraction")}
            began.update({(run["rung"], *data.values(), seed): data for seed, _ in enumerate(self.untrained or ())})
        how = ("rung", "protocol", "evaluated_on", "metric", "options")
        probes = {tuple(row[k] for k in how) for row in rows}
        for (rung, *_, seed), data in began.items():
            made = recipe("untrained", rung, {**data, "seed": seed})
            lines.append(json.dumps({"id": made.id, "config": made.model_dump(mode="json")}))
            for probe in probes:
                for features in ("backbone", "pixels") if probe[0] == rung else ():
                    value = (self.untrained or ())[seed if features == "backbone" else 0]
                    about = {**rows[0], **dict(zip(how, probe, strict=True)), "recipe": "untrained", "run": made.id}
                    rows.append({**about, "seed": seed, "features": features, "value": value})


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


# ------------------------------------------------------------------------------------------------ the data


def test_there_are_sixty_claims_or_more_and_every_paper_has_its_share() -> None:
    loaded = claims.load()
    papers = pd.Series([c.paper for c in loaded]).value_counts()
    assert len(loaded) >= 60
    assert set(papers.index) == set(claims.PAPERS)
    assert papers.min() >= 8


def test_every_claim_names_what_exists_and_says_what_was_published() -> None:
    for c in claims.load():
        assert all(arm.recipe in RECIPES for arm in c.arms), c.id
        assert re.match(r"Abstract|Sec\.|App\.|Fig\.|Table", c.place), c.id
        assert c.published.of and c.published.unit, c.id
        assert c.statement.endswith("."), c.id
        if c.test.name in ("greater", "less") and c.published.value is not None and c.test.margin == 0:
            assert (c.published.value > 0) == (c.test.name == "greater"), f"{c.id}: published against the test"


def test_every_arm_can_be_trained_at_every_rung_from_which_its_claim_is_testable() -> None:
    for c in claims.load():
        for rung in RUNGS[RUNGS.index(c.testable_from) :]:
            for arm in c.arms:
                recipe(arm.recipe, rung, arm.set)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": ["simsiam-hsv", "simsiam"]}, "no recipe 'simsiam-hsv'"),
        ({"measure": {"table": "evaluation", "where": {"protocol": "linaer", "metric": "top1"}}}, "protocol 'linaer'"),
        ({"measure": {"table": "evaluation", "where": {"protocol": "knn", "metric": "top1"}}}, "no metric 'top1'"),
        ({"measure": {"table": "hvs_f3", "value": "share"}}, "no table 'hvs_f3'"),
        ({"measure": {"table": "hvs_f4_right", "value": "shares"}}, "Table 'hvs_f4_right' has no column 'shares'"),
        ({"measure": {"table": "epochs", "where": {"name": "mind.frac_nonempty"}}}, "no run logs"),
        ({"place": "Table 13"}, "hvs has no 'Table 13'"),
        ({"place": "somewhere"}, "hvs has no 'somewhere'"),
        ({"arms": ["simsiam"]}, "1 arms do not fit"),
        ({"test": "largest"}, "2 arms do not fit"),
        ({"test": {"name": "above", "of": "ratio"}}, "need a value"),
        ({"test": {"name": "equal_within", "of": "difference", "value": 0}}, "margin above 0"),
        ({"data": ["cifar11"]}, "no data set 'cifar11'"),
        ({"arms": [{"recipe": "simsiam-hvs", "set": {"hard.hvs.drawz": 3}}, "simsiam"]}, "drawz"),
    ],
)
def test_a_claim_that_names_what_does_not_exist_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(HardlabError, match=re.escape(message)):
        claim(**change)


def test_a_file_with_a_slip_is_refused_in_one_sentence(tmp_path: Path) -> None:
    def write(**change: Any) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump({"measures": {}, "claims": [GAIN | change, GAIN]}))
        return path

    with pytest.raises(HardlabError, match=r"'a-gain' in '0\.yaml' does not fit: verdict: Extra inputs"):
        claims.load(write(verdict="reproduced"))  # a verdict cannot be typed
    with pytest.raises(HardlabError, match="no measure 'linear'"):
        claims.load(write(measure="linear"))
    with pytest.raises(HardlabError, match="Two claims have the id 'a-gain'"):
        claims.load(write())


# ------------------------------------------------------------------------------------------------ the tests


def test_greater_and_less_look_at_the_interval_of_the_paired_difference() -> None:
    up = per_arm([5, 6, 7.1], [1, 2, 3])
    assert judge(test("greater"), up).verdict == REPRODUCED
    assert judge(test("less"), up).verdict == CONTRADICTED
    assert judge(test("greater", margin=5), up).verdict == CONTRADICTED
    assert judge(test("greater"), per_arm([1, 5, 3], [3, 1, 3])).verdict == INCONCLUSIVE
    d = np.array([4, 4, 4.1])
    half = stats.t.ppf(0.975, 2) * d.std(ddof=1) / np.sqrt(3)
    assert judge(test("greater"), up).ours == pytest.approx((d.mean(), d.mean() - half, d.mean() + half, 3))


def test_pairing_by_seed_finds_what_a_large_spread_between_seeds_would_hide() -> None:
    paired = judge(test("greater"), per_arm([11, 21, 31.1], [10, 20, 30]))
    unpaired = interval([11, 21, 31.1]).lo - interval([10, 20, 30]).hi
    assert paired.verdict == REPRODUCED
    assert unpaired < 0


def test_an_interval_that_ends_at_the_threshold_decides_nothing() -> None:
    same = per_arm([3, 3, 3], [1, 1, 1])  # the interval is the point 2
    assert judge(test("greater", margin=2), same).verdict == INCONCLUSIVE
    assert judge(test("less", margin=2), same).verdict == INCONCLUSIVE
    assert judge(test("greater", margin=2 - 1e-9), same).verdict == REPRODUCED
    assert judge(test("above", value=3), per_arm([3, 3, 3])).verdict == INCONCLUSIVE
    assert judge(test("equal_within", value=2, margin=1), per_arm([3, 3, 3])).verdict == INCONCLUSIVE


@pytest.mark.parametrize("rule", [test("greater"), test("above", value=0.0), test("largest"), test("ordering")])
@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_decide_nothing_however_far_apart_the_arms_are(rule: Test, seeds: int) -> None:
    far = per_arm(*([v, v + 0.01][:seeds] for v in ((9, 5, 1) if rule.name != "above" else (9,))))
    finding = judge(rule, far)
    assert (finding.verdict, np.isnan(finding.p)) == (NO_SEEDS, True)
    assert f"{seeds} seed{'s' * (seeds > 1)} with all arms: a verdict needs 3" in finding.why


def test_above_and_below_hold_a_value_or_a_ratio_against_a_constant() -> None:
    share = per_arm([0.34, 0.35, 0.36])
    assert judge(test("above", value=1 / 6), share).verdict == REPRODUCED
    assert judge(test("above", value=0.4), share).verdict == CONTRADICTED
    assert judge(test("below", value=0.4), share).verdict == REPRODUCED
    assert judge(test("above", value=0.35), share).verdict == INCONCLUSIVE
    times = per_arm([3.1, 4.6, 6.2], [2, 3, 4])
    assert judge(test("below", value=1.6, of="ratio"), times).verdict == REPRODUCED
    assert judge(test("below", value=1.1, of="ratio"), times).verdict == CONTRADICTED
    assert judge(test("below", value=1.6, of="ratio"), times).ours.mean == pytest.approx(np.mean([1.55, 4.6 / 3, 1.55]))


def test_equality_takes_an_interval_inside_the_margin_not_the_absence_of_a_difference() -> None:
    near, far, wide = per_arm([0.1, 0.0, -0.1]), per_arm([5, 5.1, 5.2]), per_arm([-9, 0, 9])
    within = test("equal_within", value=0.0, margin=1)
    assert judge(within, near).verdict == REPRODUCED
    assert judge(within, far).verdict == CONTRADICTED
    assert judge(within, wide).verdict == INCONCLUSIVE
    difference = test("equal_within", value=0.0, margin=1, of="difference")
    assert judge(difference, per_arm([50.1, 60.0, 69.9], [50, 60, 70])).verdict == REPRODUCED


def test_an_ordering_needs_every_step_and_the_largest_every_comparison() -> None:
    a, b, c = [9, 9.1, 9.2], [5, 5.2, 5.1], [1, 1.1, 1.3]
    assert judge(test("ordering"), per_arm(a, b, c)).verdict == REPRODUCED
    assert judge(test("ordering"), per_arm(a, c, b)).verdict == CONTRADICTED
    assert judge(test("largest"), per_arm(a, c, b)).verdict == REPRODUCED
    assert judge(test("largest"), per_arm(b, a, c)).verdict == CONTRADICTED
    wavering = judge(test("largest"), per_arm(a, [9, 9, 9.3], c))
    assert wavering.verdict == INCONCLUSIVE
    assert wavering.why.startswith("1 of 2 comparisons hold, the weakest")
    assert wavering.ours.mean == pytest.approx(0)  # the weakest is told


def test_one_of_many_comparisons_refutes_only_at_a_level_that_they_share() -> None:
    alone = np.array([-1, -2, -3.0])  # below 0 at 95 %? no: only just at the level of one comparison
    shift = stats.t.ppf(0.975, 2) * alone.std(ddof=1) / np.sqrt(3)
    just = alone - alone.mean() - shift - 0.01  # the interval of one comparison ends at -0.01
    first, others = np.zeros(3), [-just] + [np.full(3, -5.0)] * 4
    assert judge(test("less"), per_arm(first, -just)).verdict == REPRODUCED
    assert judge(test("largest"), per_arm(first, *others)).verdict == INCONCLUSIVE


# ------------------------------------------------------------------------------------------------ from rows


def test_a_verdict_is_read_off_the_rows_in_the_published_unit_with_its_runs(folder: Folder) -> None:
    names = [folder.run("simsiam-hvs", s, 0.50 + 0.01 * s + 0.001 * s) for s in range(3)]
    names += [folder.run("simsiam", s, 0.48 + 0.01 * s) for s in range(3)]
    row = folder.verdict(claim())
    assert (row.verdict, row.rung, row.n) == (REPRODUCED, "cpu", 3)
    assert row.mean == pytest.approx(2.1)
    assert sorted(row.runs.split()) == sorted(names)
    assert row.why.startswith("The 95 % interval") and row.why.endswith("is above 0.")


def test_a_verdict_changes_when_the_rows_do(folder: Folder) -> None:
    for s in range(3):
        folder.run("simsiam-hvs", s, 0.5 + 0.001 * s)
        folder.run("simsiam", s, 0.4)
    assert folder.verdict(claim()).verdict == REPRODUCED
    for row in folder.rows["evaluation"]:
        row["value"] *= -1
    assert folder.verdict(claim()).verdict == CONTRADICTED
    folder.rows["evaluation"][0]["value"] = -0.3
    assert folder.verdict(claim()).verdict == INCONCLUSIVE


def test_only_seeds_that_every_arm_has_are_compared(folder: Folder) -> None:
    for s in (0, 1, 2, 7):
        folder.run("simsiam-hvs", s, 0.5 + 0.001 * s)
    for s in (2, 1, 0, 9):
        folder.run("simsiam", s, 0.4 if s < 9 else 0.9)
    row = folder.verdict(claim())
    assert row.n == 3
    assert row.mean == pytest.approx(10.1)
    assert "s7" not in row.runs and "s9" not in row.runs


def test_no_rows_need_a_run_and_the_reason_is_its_command(folder: Folder) -> None:
    for s in range(3):
        folder.run("simsiam", s, 0.4)
    row = folder.verdict(claim())
    assert (row.verdict, row.n, row.runs, row.rung) == (NO_RUN, 0, "", "")
    assert "hardlab pretrain simsiam-hvs --rung cpu" in row.commands
    assert "hardlab evaluate RUN --protocol linear-lbfgs" in row.commands
    assert "pretrain simsiam --rung" not in row.commands  # that arm is there
    longer = claim(arms=[{"recipe": "adco", "set": {"epochs": 10}}, "simsiam"], data=["cifar100"], testable_from="gpu")
    assert "hardlab pretrain adco --rung gpu epochs=10 data.name=cifar100" in folder.verdict(longer).commands


def test_runs_that_were_not_evaluated_so_need_an_evaluation(folder: Folder) -> None:
    for s in range(2):
        hvs = folder.run("simsiam-hvs", s, 0.5, metric="top5")
        folder.run("simsiam", s, 0.4)
    row = folder.verdict(claim())
    assert row.verdict == NO_EVALUATION == "needs an evaluation"
    assert f"runs/{hvs} --protocol linear-lbfgs" in row.commands
    assert row.commands.count("runs/") == 2 and "pretrain" not in row.commands
    text = claims.describe(claims.verdicts(folder.path, [claim()]))
    assert re.search(r"a-gain +needs an evaluation +from rung cpu\n", text)
    assert re.search(rf"\n {{8}}hardlab evaluate runs/\S+ runs/{hvs} --protocol linear-lbfgs\n", text)
    assert "1 claims, 1 needs an evaluation" in text
    assert "collects" not in row.why
    elsewhere = {"table": "evaluation", "where": GAIN["measure"]["where"] | {"evaluated_on": "cifar100"}}
    assert "--protocol linear-lbfgs --data cifar100" in folder.verdict(claim(measure=elsewhere)).commands


def test_an_evaluation_is_asked_for_of_the_seeds_that_every_arm_has_a_run_of_and_else_a_training(
    folder: Folder,
) -> None:
    alone = folder.run("simsiam", 0, 0.4)
    other = folder.run("simsiam-hvs", 1, 0.5, metric="top5")
    row = folder.verdict(claim())
    assert row.verdict == NO_RUN and alone not in row.why and other not in row.why
    assert "No seed has a run of every arm" in row.why and "pretrain simsiam --rung cpu seed=2" in row.commands
    partner = folder.run("simsiam-hvs", 0, 0.5, metric="top5")
    row = folder.verdict(claim())
    assert row.verdict == NO_EVALUATION
    assert f"runs/{partner} " in row.commands and other not in row.commands  # seed 1 has no partner


def test_runs_that_came_without_the_rows_are_named_with_what_makes_them(folder: Folder) -> None:
    loss = {"table": "epochs", "where": {"name": "loss"}}
    for s in range(2):
        known = folder.run("simsiam-hvs", s, 0.5, table="epochs", epoch=0, name="loss")
        bare = folder.run("simsiam", s, 0.4)
    # of another length: its rows compare with no run of the other arm
    other = folder.run("simsiam", 0, 0.4, overrides={"epochs": 9}, table="epochs", epoch=0, name="loss")
    row = folder.verdict(claim(measure=loss, published={"value": None, "unit": "loss", "of": "none"}))
    assert row.verdict == NO_RUN
    assert f"{bare} came without rows in epochs.csv" in row.why
    assert known not in row.why and other not in row.why
    assert row.commands == "hardlab figures --from runs --all\nhardlab pretrain simsiam --rung cpu"


def test_rows_of_a_rung_below_are_shown_but_decide_nothing(folder: Folder) -> None:
    for s in range(3):
        folder.run("simsiam-hvs", s, 0.5 + 0.001 * s, rung="smoke")
        folder.run("simsiam", s, 0.4, rung="smoke")
    row = folder.verdict(claim())
    assert (row.verdict, row.rung, row.n) == ("needs rung cpu", "smoke", 3)
    assert row.mean == pytest.approx(10.1)
    row = folder.verdict(claim(testable_from="paper"))
    assert row.verdict == "needs rung paper" and "hardlab pretrain simsiam-hvs --rung paper" in row.commands


def test_one_seed_of_a_higher_rung_does_not_hide_several_of_a_rung_that_is_enough(folder: Folder) -> None:
    for s in range(3):
        folder.run("simsiam-hvs", s, 0.5 + 0.001 * s)
        folder.run("simsiam", s, 0.4)
    for name, value in (("simsiam-hvs", 0.1), ("simsiam", 0.9)):
        folder.run(name, 0, value, rung="gpu")
    assert (folder.verdict(claim()).rung, folder.verdict(claim()).verdict) == ("cpu", REPRODUCED)
    assert folder.verdict(claim(testable_from="gpu")).rung == "gpu"


def test_of_two_lengths_with_as_many_seeds_and_changes_the_longer_counts(folder: Folder) -> None:
    for epochs, value in ((3, 0.9), (9, 0.5), (5, 0.1)):  # whichever comes first by name
        for s in range(3):
            folder.run("simsiam-hvs", s, value + 0.001 * s, overrides={"epochs": epochs})
            folder.run("simsiam", s, 0.4, overrides={"epochs": epochs})
    assert folder.verdict(claim()).mean == pytest.approx(10.1)


def test_a_single_seed_asks_for_the_next_one_trained_in_the_same_way(folder: Folder) -> None:
    for name in ("ppcl", "ppcl-simclr"):
        folder.run(name, 3, 0.5, overrides={"epochs": 9})
    row = folder.verdict(claim(arms=["ppcl", "ppcl-simclr"], data=["cifar10", "cifar10-jpeg"]))
    assert (row.verdict, row.n) == (NO_SEEDS, 1)
    # the rung's own data set counts for the claim, so it needs no override
    for name in ("ppcl", "ppcl-simclr"):
        assert f"hardlab pretrain {name} --rung cpu epochs=9 seed=4" in row.commands


def test_a_ratio_to_nothing_is_no_value() -> None:
    rule = test("above", of="ratio", value=1)
    assert judge(rule, per_arm([2, 2.1, 2.2, 1], [1, 1, 1, 0])).verdict == REPRODUCED
    assert judge(rule, per_arm([2, 2.1, 2.2, 1], [1, 1, 1, 0])).ours.n == 3


def test_the_highest_rung_with_all_arms_counts(folder: Folder) -> None:
    for s in range(3):
        for rung, gain in (("smoke", 0.1), ("cpu", -0.1)):
            folder.run("simsiam-hvs", s, 0.5 + gain + 0.001 * s, rung=rung)
            folder.run("simsiam", s, 0.5, rung=rung)
        folder.run("simsiam-hvs", s, 0.9, rung="gpu")  # without its baseline
    row = folder.verdict(claim())
    assert (row.verdict, row.rung) == (CONTRADICTED, "cpu")


def test_runs_are_paired_only_where_they_differ_from_their_recipes_alike(folder: Folder) -> None:
    for s in range(3):
        folder.run("simsiam-hvs", s, 0.5 + 0.001 * s, overrides={"epochs": 9})
        folder.run("simsiam", s, 0.4)
    row = folder.verdict(claim())
    assert row.verdict == NO_RUN  # 9 epochs against 30: no evaluation makes them comparable
    assert "differ in more than their arm." in row.why and "hardlab pretrain simsiam-hvs --rung cpu" in row.commands
    assert "evaluate" not in row.commands
    for s in range(3):
        folder.run("simsiam", s, 0.2, overrides={"epochs": 9})
    row = folder.verdict(claim())
    assert row.mean == pytest.approx(30.1)


def test_runs_that_became_of_different_precision_are_no_pair_and_the_reason_says_so(folder: Folder) -> None:
    for s in range(3):
        folder.run("simsiam-hvs", s, 0.5 + 0.001 * s, precision="bf16")
        folder.run("simsiam", s, 0.4, precision="fp32")
    row = folder.verdict(claim())
    assert row.verdict == NO_RUN
    assert "differ in more than their arm, also in precision (bf16 and fp32)." in row.why
    for s in range(3):  # as runs from before there was auto have it, beside one that auto made
        folder.run("simsiam", s, 0.2, overrides={"precision": "bf16"})
    row = folder.verdict(claim())
    assert row.mean == pytest.approx(30.1) and row.n == 3 and row.why.endswith(". Trained in bf16.")


def test_pairs_of_two_precisions_count_together_each_seed_once_and_are_told_apart(folder: Folder) -> None:
    def trained(precision: str, gains: Mapping[int, float]) -> None:
        for seed, gain in gains.items():
            folder.run("simsiam", seed, 0.4, overrides={"precision": precision})
            folder.run("simsiam-hvs", seed, 0.4 + gain, overrides={"precision": precision})

    trained("bf16", {0: 0.10, 1: 0.11, 2: 0.12, 3: 0.13})
    trained("fp32", {3: 0.90, 4: 0.20, 5: 0.21, 6: 0.22})
    folder.run("simsiam-hvs", 9, 0.99, overrides={"precision": "bf16"})
    folder.run("simsiam", 9, 0.4, overrides={"precision": "fp32"})  # no pair
    row = folder.verdict(claim())
    assert row.n == 7
    assert row.mean == pytest.approx(np.mean([10, 11, 12, 90, 20, 21, 22]))  # of equals in fp32
    assert (
        "Pairs by precision: 3 in bf16 and 4 in fp32; those in bf16 alone give 11.0 (8.5 to 13.5); those in" in row.why
    )
    assert "precision" not in row.settings and "precision" not in row.commands

    trained("bf16", {7: 0.14})
    row = folder.verdict(claim())
    assert row.mean == pytest.approx(np.mean([10, 11, 12, 13, 14, 20, 21, 22]))  # else where there are more seeds


def test_a_rule_that_came_after_the_runs_is_told_where_it_counts(folder: Folder) -> None:
    def judged(day: str) -> str:
        lines = [json.loads(line) | {"started": f"{day}T09:00:00+00:00"} for line in folder.manifests]
        folder.manifests = [json.dumps(line) for line in lines]
        return str(folder.verdict(claim()).why)

    for seed, precision in enumerate(("bf16", "bf16", "fp32", "fp32")):
        for name in ("simsiam", "simsiam-hvs"):
            folder.run(
                name, seed, 0.4 + 0.1 * (name == "simsiam-hvs") + 0.001 * seed, overrides={"precision": precision}
            )
    assert "That both count together was set on 2026-11-28, after its runs" in judged("2026-11-27")
    assert "count together" not in judged("2026-11-29")


def test_a_run_with_another_method_or_strategy_is_not_the_recipes_arm(folder: Folder) -> None:
    for s in range(3):
        folder.run("simsiam-hvs", s, 0.9, overrides={"hard.hvs.draws": 8})
        folder.run("simsiam", s, 0.4)
        folder.run("simsiam", s, 0.1, overrides={"method.layers": 3})
    assert folder.verdict(claim()).verdict == NO_RUN
    for s in range(3):
        folder.run("hnssl", s, 0.5 + 0.001 * s)
        folder.run("hnssl", s, 0.2, overrides={"method.tau": 1.0})
    row = folder.verdict(claim(arms=["hnssl", {"recipe": "hnssl", "set": {"method.tau": 1.0}}]))
    assert (row.verdict, row.n) == (REPRODUCED, 3)
    assert row.mean == pytest.approx(30.1)


def test_an_arm_with_a_parent_is_paired_with_one_without(folder: Folder) -> None:
    for s in range(3):
        folder.run("ppcl", s, 0.5 + 0.001 * s, overrides={"data.fraction": 0.2})
        folder.run("ppcl-simclr", s, 0.4, overrides={"data.fraction": 0.2})
    of_fifth = [{"recipe": name, "set": {"data.fraction": 0.2}} for name in ("ppcl", "ppcl-simclr")]
    assert folder.verdict(claim(arms=of_fifth)).verdict == REPRODUCED
    assert folder.verdict(claim(arms=["ppcl", "ppcl-simclr"])).n == 3  # a claim about any amount of data
    of_tenth = [{"recipe": name, "set": {"data.fraction": 0.1}} for name in ("ppcl", "ppcl-simclr")]
    assert folder.verdict(claim(arms=of_tenth)).verdict == NO_RUN


def test_a_claim_about_a_data_set_takes_no_other(folder: Folder) -> None:
    for s in range(2):
        folder.run("simsiam-hvs", s, 0.5 + 0.001 * s, overrides={"data.name": "cifar100"})
        folder.run("simsiam", s, 0.4, overrides={"data.name": "cifar100"})
    assert folder.verdict(claim(data=["cifar10"])).verdict == NO_RUN
    assert folder.verdict(claim(data=["cifar10", "cifar100"])).n == 2
    assert folder.verdict(claim()).n == 2


def test_transfer_is_measured_where_it_says_and_accuracy_where_the_run_was_trained(folder: Folder) -> None:
    for s in range(2):
        for on, gain in (("cifar10-jpeg", 0.1), ("cifar100", -0.2)):
            folder.run("simsiam-hvs", s, 0.5 + gain + 0.001 * s, evaluated_on=on)
            folder.run("simsiam", s, 0.5, evaluated_on=on)
        folder.run("simsiam", s, 0.99, features="pixels")
    assert folder.verdict(claim()).mean == pytest.approx(10.05)
    where = GAIN["measure"]["where"] | {"evaluated_on": "cifar100"}
    assert folder.verdict(claim(measure=GAIN["measure"] | {"where": where})).mean == pytest.approx(-19.95)
    scenes = {"protocol": "detection-voc", "metric": "AP50"}
    for s in range(2):
        folder.run("simsiam-hvs", s, 0.5 + 0.001 * s, evaluated_on="voc2007", **scenes)
        folder.run("simsiam", s, 0.4, evaluated_on="voc2007", **scenes)
    assert folder.verdict(claim(measure=GAIN["measure"] | {"where": scenes})).mean == pytest.approx(10.05)


def test_epochs_become_one_number_as_the_measure_says(folder: Folder) -> None:
    for s in range(2):
        for epoch, value in enumerate([9, 4, 4, 4, 4, 4, 4, 4, 3, 1]):
            folder.run("simsiam", s, value + 0.01 * s, table="epochs", epoch=epoch, name="loss")
            folder.run("simsiam", s, 100.0, table="epochs", epoch=epoch, name="std")

    def mean(over: str) -> float:
        measure = {"table": "epochs", "where": {"name": "loss"}, "over": over}
        unit = {"value": None, "unit": "loss", "of": "none"}
        one = claim(measure=measure, arms=["simsiam"], test={"name": "above", "value": 0}, published=unit)
        return float(folder.verdict(one).mean)

    values = [9, 4, 4, 4, 4, 4, 4, 4, 3, 1]
    assert mean("mean") == pytest.approx(np.mean(values) + 0.005)
    assert mean("first") == pytest.approx(9.005)
    assert mean("last") == pytest.approx(1.005)
    assert mean("rise") == pytest.approx(2 - 6.5)
    assert mean("spread") == pytest.approx(np.std(values, ddof=1))


def test_without_tables_every_claim_needs_a_run(tmp_path: Path) -> None:
    verdicts = claims.verdicts(tmp_path)
    assert list(verdicts.columns) == list(claims.COLUMNS)
    assert set(verdicts["verdict"]) == {NO_RUN}
    assert verdicts["commands"].str.contains("hardlab pretrain").all()
    assert not verdicts["why"].str.contains("hardlab ").any()


# ------------------------------------------------------------------------------------------------ the rules


def accuracies(folder: Folder, hvs: Sequence[float], simsiam: Sequence[float]) -> None:
    for s, (a, b) in enumerate(zip(hvs, simsiam, strict=True)):
        folder.run("simsiam-hvs", s, a)
        folder.run("simsiam", s, b)


def test_an_accuracy_counts_only_where_every_arm_beats_the_untrained_network_and_raw_pixels(folder: Folder) -> None:
    accuracies(folder, [0.5, 0.501, 0.502], [0.4, 0.4, 0.4])
    for untrained, verdict in (((0.38, 0.381, 0.39), REPRODUCED), ((0.2, 0.6, 0.4), NOT_LEARNED)):
        folder.untrained = untrained  # its first value is that of raw pixels as well
        assert folder.verdict(claim()).verdict == verdict
    folder.untrained = (0.45, 0.41, 0.42)
    row = folder.verdict(claim())
    assert row.verdict == NOT_LEARNED and np.isnan(row.q)
    assert "The arm simsiam does not surely beat the untrained network (40 against 42.67)" in row.why
    assert "the arm simsiam does not surely beat raw pixels (40 against 45)" in row.why
    assert "simsiam-hvs does not surely beat raw pixels" not in row.why
    ruined = [{"recipe": "simsiam-hvs"}, {"recipe": "simsiam", "fails": True}]  # what is said to learn nothing need not
    folder.untrained = (0.45, 0.44, 0.43)
    assert folder.verdict(claim(arms=ruined)).verdict == REPRODUCED


def test_without_its_controls_an_accuracy_needs_an_evaluation_and_another_number_none(folder: Folder) -> None:
    accuracies(folder, [0.5, 0.501, 0.502], [0.4, 0.4, 0.4])
    folder.untrained = None
    row = folder.verdict(claim())
    assert row.verdict == NO_EVALUATION
    assert row.why.startswith("The untrained network and raw pixels were not measured by this probe")
    assert "hardlab pretrain untrained --rung cpu" in row.commands
    assert "hardlab evaluate RUN --protocol linear-lbfgs --pixels" in row.commands
    loss = {"table": "epochs", "where": {"name": "loss"}}
    for s in range(3):
        folder.run("simsiam-hvs", s, 2.0 + 0.1 * s, table="epochs", epoch=0, name="loss")
        folder.run("simsiam", s, 1.0, table="epochs", epoch=0, name="loss")
    unit = {"value": None, "unit": "loss", "of": "none"}
    assert folder.verdict(claim(measure=loss, published=unit)).verdict == REPRODUCED


def test_the_control_is_the_network_of_the_same_rung_data_and_backbone(folder: Folder) -> None:
    accuracies(folder, [0.5, 0.501, 0.502], [0.4, 0.4, 0.4])
    for s in range(3):  # of another share of the data, and wider
        for other in ({"data.fraction": 0.5}, {"backbone.width": 64}):
            for features in ("backbone", "pixels"):
                folder.run("untrained", s, 0.9 + 0.01 * s, overrides=other, features=features)
    assert folder.verdict(claim()).verdict == REPRODUCED


def test_an_untrained_network_is_an_arm_that_is_paired_by_its_seed(folder: Folder) -> None:
    folder.untrained = (0.30, 0.35, 0.40)
    for s in range(4):
        folder.run("simsiam-hvs", s, 0.31 + 0.05 * s + 0.001 * s)
    arms = [{"recipe": "simsiam-hvs", "fails": True}, "untrained"]
    row = folder.verdict(claim(arms=arms))
    assert (row.verdict, row.n) == (REPRODUCED, 3)  # the fourth seed has no untrained network
    assert row.mean == pytest.approx(1.1)


def test_a_headline_takes_six_seeds_and_has_its_sign_flip_test(folder: Folder) -> None:
    a = [0.50, 0.51, 0.50, 0.52, 0.515, 0.52]
    accuracies(folder, a[:5], [0.4, 0.4, 0.41, 0.4, 0.4])
    row = folder.verdict(claim(headline=True))
    assert (row.verdict, row.n) == (NO_SEEDS, 5)
    assert "5 seeds with all arms: a verdict needs 6" in row.why and "seed=5" in row.commands
    assert folder.verdict(claim()).verdict == REPRODUCED
    folder.run("simsiam-hvs", 5, a[5])
    folder.run("simsiam", 5, 0.4)
    row = folder.verdict(claim(headline=True))
    assert (row.verdict, row.n, row.p_sign) == (REPRODUCED, 6, 2 / 2**6)


def test_what_does_not_survive_the_number_of_claims_is_told_so(folder: Folder) -> None:
    d = np.array([0.023, 0.035, 0.049])  # p is below the level, and not if there are two more tests that find nothing
    accuracies(folder, 0.4 + d, [0.4, 0.4, 0.4])
    p = stats.ttest_1samp(d, 0).pvalue
    assert 0.025 < p < 0.05
    row = folder.verdict(claim())
    assert (row.verdict, row.p, row.q) == (REPRODUCED, pytest.approx(p), pytest.approx(p))
    others = [claim(id=f"other-{i}", test={"name": "greater", "margin": float(d.mean() * 100)}) for i in range(2)]
    rows = claims.verdicts(folder.path, [claim(), *others])
    assert rows["verdict"].tolist() == [WEAKLY[REPRODUCED], INCONCLUSIVE, INCONCLUSIVE]
    assert rows["q"].tolist() == pytest.approx([3 * p, 1, 1])
    down = claims.verdicts(folder.path, [claim(test="less"), *others])
    assert down["verdict"].iloc[0] == WEAKLY[CONTRADICTED]


def test_arms_that_are_the_same_to_the_last_bit_compare_nothing(folder: Folder) -> None:
    accuracies(folder, [0.5, 0.51, 0.52], [0.5, 0.51, 0.52])
    within = {"name": "equal_within", "of": "difference", "value": 0, "margin": 1}
    row = folder.verdict(claim(test=within))
    assert row.verdict == INCONCLUSIVE and "the same to the last bit" in row.why
    folder.rows["evaluation"][0]["value"] += 1e-6
    assert folder.verdict(claim(test=within)).verdict == REPRODUCED


def test_a_claim_that_no_run_can_judge_shows_its_number_and_why(folder: Folder) -> None:
    accuracies(folder, [0.5, 0.51, 0.52], [0.4, 0.4, 0.4])
    row = folder.verdict(claim(cannot="the paper does not tell its trees"))
    assert (row.verdict, row.n, row.why) == (CANNOT, 3, "The paper does not tell its trees.")
    assert np.isnan(row.q)


def test_the_published_size_is_excluded_where_our_interval_leaves_it_out(folder: Folder) -> None:
    accuracies(folder, [0.5, 0.51, 0.53], [0.4, 0.4, 0.4])
    mean, half = 11.333, stats.t.ppf(0.975, 2) * np.std([10, 11, 13], ddof=1) / np.sqrt(3)
    for size, excluded in ((mean + half - 0.1, "no"), (mean + half + 0.1, "yes"), (mean - half - 0.1, "yes")):
        published = {"value": size, "unit": "points", "of": "ImageNet"}
        assert folder.verdict(claim(published=published)).excluded == excluded
    assert folder.verdict(claim(published={"value": None, "unit": "points", "of": "none"})).excluded == ""


def test_the_spread_is_pooled_over_the_claims_of_one_measure_and_each_pair_of_runs_counts_once(folder: Folder) -> None:
    accuracies(folder, [0.45, 0.47, 0.52], [0.44, 0.42, 0.43])
    for s, value in enumerate((0.41, 0.45, 0.44)):
        folder.run("simclr", s, value)
    several = [claim(id=n, arms=arms) for n, arms in (
        ("a", ["simsiam-hvs", "simsiam"]), ("b", ["simsiam-hvs", "simsiam"]), ("c", ["simclr", "simsiam"]),
    )]  # fmt: skip
    folder.verdict(several[0])
    rows = claims.verdicts(folder.path, several)
    first, third = np.array([1.0, 5, 9]), np.array([-3.0, 3, 1])
    spread = np.sqrt((first.var(ddof=1) + third.var(ddof=1)) / 2)
    half = stats.t.ppf(0.975, 4) * spread / np.sqrt(3)
    assert rows["pooled_hi"].tolist() == pytest.approx([5 + half, 5 + half, 1 / 3 + half])
    assert rows["verdict"].tolist() == [INCONCLUSIVE] * 3  # by its own spread, whatever the pooled one says
    more = int(rows["more_seeds_published"][0])
    power = [
        stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, 0.78 / spread * np.sqrt(n)) for n in (3 + more - 1, 3 + more)
    ]
    assert power[0] < 0.8 <= power[1] + 1e-6


def test_seconds_compare_on_one_device_alone(folder: Folder) -> None:
    def ran(seed: int, ours: float, theirs: float, devices: str, rung: str) -> None:
        for name, seconds, device in zip(("simsiam-hvs", "simsiam"), (ours, theirs), devices, strict=True):
            run = folder.run(name, seed, seconds, rung=rung, table="costs", quantity="seconds.total")
            folder.manifests = [json.dumps(json.loads(m) | {"device": device}) if json.loads(m)["id"] == run else m
                                for m in folder.manifests]  # fmt: skip

    each = [(30, 20, "AB"), (3, 2, "BB"), (6, 4, "BB"), (12, 8, "BB"), (9, 2, "AA"), (9, 2, "AB")]
    for seed, (ours, theirs, devices) in enumerate(each):
        ran(seed, ours, theirs, devices, "cpu")
    test = {"name": "equal_within", "of": "ratio", "value": 1.55, "margin": 0.2}
    seconds = {"table": "costs", "where": {"quantity": "seconds.total"}}
    row = folder.verdict(claim(measure=seconds, test=test))
    assert (row.n, row.mean) == (3, 1.5) and "These are seconds of B." in row.why
    for seed in range(2):  # a rung that the claim asks for comes before more seeds
        ran(seed, 8, 4, "CC", "gpu")
    row = folder.verdict(claim(measure=seconds, test=test, testable_from="gpu"))
    assert (row.n, row.mean, row.rung) == (2, 2.0, "gpu")


def test_at_equal_compute_the_seconds_of_the_median_run_of_each_arm_are_told(folder: Folder) -> None:
    test = claim(arms=["simsiam-hvs", {"recipe": "simsiam", "longer": 2}])
    for seed, seconds in enumerate([3.0, 4.0, 50.0]):
        for name, epochs in (("simsiam-hvs", 30), ("simsiam", 60)):
            accuracy = {"simsiam-hvs": 0.5 + 0.01 * seed, "simsiam": 0.4}[name]
            for value, table in ((accuracy, "evaluation"), (seconds, "costs")):
                extra = {"quantity": "seconds.total"} if table == "costs" else {}
                folder.run(name, seed, value, overrides={"epochs": epochs}, table=table, **extra)
            folder.manifests[-1] = json.dumps(json.loads(folder.manifests[-1]) | {"device": "A"})
    assert "On A, where these runs were trained, the median runs took 120 and 240 s." in folder.verdict(test).why
    folder.manifests[0] = json.dumps(json.loads(folder.manifests[0]) | {"device": "B"})
    assert "were trained on several machines, whose seconds do not compare" in folder.verdict(test).why


def test_a_verdict_tells_pairs_of_two_machines_uncommitted_code_and_settings_of_its_runs(folder: Folder) -> None:
    for seed, (gain, devices) in enumerate([(0.1, "AA"), (0.11, "BB"), (0.12, "AA"), (0.4, "AB")]):
        for name, accuracy, device in zip(("simsiam-hvs", "simsiam"), (0.4 + gain, 0.4), devices, strict=True):
            folder.run(name, seed, accuracy, overrides={"epochs": 7})
            folder.manifests[-1] = json.dumps(json.loads(folder.manifests[-1]) | {"device": device})
    row = folder.verdict(claim())
    mean, half = 11.0, stats.t.ppf(0.975, 2) * 1 / np.sqrt(3)
    told = f"in 1 of 4 pairs the arms were trained on different machines; the others alone give {mean:.1f} "
    assert f"{told}({mean - half:.1f} to {mean + half:.1f})" in row.why.replace("In 1", "in 1")
    assert "uncommitted" not in row.why and row.settings == "epochs=7"
    folder.manifests[0] = json.dumps(json.loads(folder.manifests[0]) | {"dirty": True, "device": "B"})
    why = folder.verdict(claim()).why  # two pairs are left, too few to judge by
    assert "In 2 of 4 pairs the arms were trained on different machines. Trained from" in why
    assert f"checkout with uncommitted changes: {json.loads(folder.manifests[0])['id']}." in why


def test_an_arm_that_fails_lends_its_spread_to_no_other_claim(folder: Folder) -> None:
    accuracies(folder, [0.41, 0.43, 0.48], [0.4, 0.4, 0.4])
    fails = claim(arms=[{"recipe": "simsiam-hvs", "fails": True}, "simsiam"])
    assert np.isfinite(folder.verdict(claim()).pooled_lo) and np.isnan(folder.verdict(fails).pooled_lo)
    assert folder.verdict(fails).more_seeds > 0  # from its own


def test_the_other_probes_stand_beside_the_primary_one(folder: Folder) -> None:
    accuracies(folder, [0.5, 0.51, 0.52], [0.4, 0.4, 0.4])
    for s in range(3):
        folder.run("simsiam-hvs", s, 0.3 + 0.001 * s, protocol="knn", metric="top1@k=20")
        folder.run("simsiam", s, 0.4, protocol="knn", metric="top1@k=20")
    row = folder.verdict(claim())
    assert row.beside == "kNN -9.90 (-10.15 to -9.65, 3 seeds)"
    folder.untrained = (0.35, 0.351, 0.352)  # of raw pixels as well
    assert folder.verdict(claim()).beside.endswith("3 seeds, an arm below the untrained network and raw pixels)")
    knn = {"table": "evaluation", "where": {"protocol": "knn", "metric": "top1@k=20"}}
    assert folder.verdict(claim(measure=knn)).beside.startswith("converged probe 11.0 (")


def test_seeds_that_were_trained_and_not_evaluated_come_before_new_ones(folder: Folder) -> None:
    accuracies(folder, [0.5, 0.51], [0.4, 0.4])
    bare = [folder.run(name, 2, 0.5, metric="top5") for name in ("simsiam-hvs", "simsiam")]
    row = folder.verdict(claim())
    assert (row.verdict, row.n) == (NO_EVALUATION, 2)
    assert all(f"runs/{name}" in row.commands for name in bare) and "pretrain" not in row.commands


def test_an_arm_is_trained_several_times_as_long_as_its_recipe_at_any_rung(folder: Folder) -> None:
    longer = claim(arms=["simsiam-hvs", {"recipe": "simsiam", "longer": 2.5}])
    for rung in ("cpu", "gpu"):
        usual = recipe("simsiam", rung).epochs
        assert longer.commands(longer.arms[1:], rung) == [
            f"hardlab pretrain simsiam --rung {rung} epochs={2.5 * usual:.0f}"
        ]
    accuracies(folder, [0.5, 0.51, 0.52], [0.4, 0.4, 0.4])
    assert folder.verdict(longer).verdict == NO_RUN  # as long as its recipe is another arm
    for s in range(3):
        folder.run("simsiam", s, 0.45, overrides={"epochs": round(2.5 * recipe("simsiam", "cpu").epochs)})
    assert folder.verdict(longer).mean == pytest.approx(6)


def test_a_gain_is_the_difference_of_two_differences() -> None:
    rule = test("above", of="gain", value=0.0)
    arms = [9, 9.1, 9.2], [5, 5, 5], [7, 7, 7], [6, 6.1, 6.2]
    assert judge(rule, per_arm(*arms)).ours.mean == pytest.approx(4.1 - 0.9)
    assert judge(rule, per_arm(*arms)).verdict == REPRODUCED
    assert judge(rule, per_arm(*arms[2:], *arms[:2])).verdict == CONTRADICTED


def test_the_p_of_a_verdict_is_the_level_at_which_it_would_just_have_been_given() -> None:
    """Against intervals at the level of p: they end at the edge, or at 0, that decides."""
    rng = np.random.default_rng(3)
    near = rng.normal(0.3, 0.2, 5)
    p = judge(test("equal_within", value=0.0, margin=1), per_arm(near)).p
    assert interval(near, 1 - p).hi == pytest.approx(1)
    p = judge(test("equal_within", value=0.0, margin=1), per_arm(-near)).p
    assert interval(-near, 1 - p).lo == pytest.approx(-1)
    far = near + 2  # outside: at the level of p the interval reaches the edge
    assert interval(far, 1 - judge(test("equal_within", value=0.0, margin=1), per_arm(far)).p).lo == pytest.approx(1)
    a, b, c = rng.normal([[9], [7], [5]], 0.5, (3, 4))
    differences = [stats.ttest_rel(a, b).pvalue, stats.ttest_rel(a, c).pvalue]
    assert judge(test("largest"), per_arm(a, b, c)).p == pytest.approx(max(differences))  # all must hold
    against = min(1, 2 * stats.ttest_rel(b, a).pvalue)  # one refutes, at a level that two share
    assert judge(test("largest"), per_arm(b, a, c)).p == pytest.approx(against)


# ------------------------------------------------------------------------------------------------ frozen


def test_every_test_is_frozen_as_it_is() -> None:
    last = {name: rows[-1].digest for name, rows in claims.frozen().items()}
    assert {c.id: c.digest for c in claims.load()}.items() <= last.items(), "run `hardlab claims --freeze REASON`"


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ({"statement": "Selection raises the accuracy."}, False),
        ({"note": "a remark"}, False),
        ({"test": {"name": "greater", "margin": 0.1}}, True),
        ({"headline": True}, True),
        ({"arms": ["simsiam-hvs", "simclr"]}, True),
        ({"arms": ["simsiam-hvs", {"recipe": "simsiam", "fails": True}]}, True),
        ({"testable_from": "gpu"}, True),
        ({"data": ["cifar10"]}, True),
        ({"measure": {"table": "evaluation", "where": {"protocol": "knn", "metric": "top1@k=20"}}}, True),
    ],
)
def test_the_digest_of_a_claim_is_of_its_test_and_not_of_its_words(change: dict[str, Any], moved: bool) -> None:
    assert (claim(**change).digest != claim().digest) == moved


def test_a_change_is_noted_once_with_its_day_and_told_beside_the_runs_before_it(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "frozen.yaml"
    day = datetime(2026, 11, 27, 12, tzinfo=UTC)
    monkeypatch.setattr(claims, "load", lambda: (claim(),))
    assert claims.freeze("", day - timedelta(days=9), path) == ["a-gain"]
    assert claims.freeze("nothing moved", day, path) == []
    monkeypatch.setattr(claims, "load", lambda: (claim(headline=True),))
    assert claims.freeze("it is what the paper is known for", day, path) == ["a-gain"]
    first, second = claims.frozen(path)["a-gain"]
    assert (first.digest, second.digest) == (claim().digest, claim(headline=True).digest)
    monkeypatch.setattr(claims, "frozen", lambda: {"a-gain": (first, second)})
    accuracies(folder, [0.5] * 3, [0.4, 0.41, 0.42])
    for begins, noted in ((day - timedelta(hours=1), True), (day + timedelta(hours=1), False)):
        folder.manifests = [json.dumps(json.loads(m) | {"started": begins.isoformat()}) for m in folder.manifests]
        row = folder.verdict(claim(headline=True))
        remark = "This test was set on 2026-11-27, after its runs: it is what the paper is known for."
        assert row.why.endswith(remark) == noted and row.frozen == day.isoformat()


# ------------------------------------------------------------------------------------------------ today's rows


@pytest.fixture(scope="module")
def today() -> pd.DataFrame:
    return claims.verdicts(DATA).set_index("id")


def test_todays_rows_reproduce_that_selection_prefers_the_lowest_overlap(today: pd.DataFrame) -> None:
    assert today.loc["hvs-lowest-iou-chance", "verdict"] == REPRODUCED
    assert today.loc["hvs-iou-lower", "verdict"] == REPRODUCED
    share = schema.read(DATA, "hvs_f4_right")
    share = share[
        (share["recipe"] == "simsiam-hvs") & share["run"].isin(today.loc["hvs-lowest-iou-40", "runs"].split())
    ]
    late = [rows.sort_values("epoch")["share"].iloc[-(len(rows) // 5) :].mean() for _, rows in share.groupby("seed")]
    test = stats.ttest_1samp(late, 0.4)
    row, (lo, hi) = today.loc["hvs-lowest-iou-40"], test.confidence_interval()
    assert [row["mean"], row["lo"], row["hi"], row["p"]] == pytest.approx([np.mean(late), lo, hi, test.pvalue])
    assert row["verdict"] in {REPRODUCED, WEAKLY[REPRODUCED]} if lo > 0.4 else {CONTRADICTED, INCONCLUSIVE}


def test_todays_gains_are_those_of_the_summary(today: pd.DataFrame) -> None:
    summary = summary_of(*(schema.read(DATA, name) for name in ("hvs_f4_right", "hvs_f4_left", "evaluation")))
    summary = summary.assign(quantity=quantities(summary))
    for name, protocol in (("linear", "linear-lbfgs top1 of"), ("knn", "knn top1@k=20 of")):
        for method in ("simsiam", "simclr"):
            row = today.loc[f"hvs-{method}-{name}"]
            gain = summary[
                (summary["recipe"] == f"{method}-hvs")
                & (summary["rung"] == row["rung"])
                & summary["quantity"].str.match(rf"{protocol}.*: gain")
            ]
            assert np.isclose(gain["mean"] * 100, row["mean"], rtol=1e-3).any()
            assert np.isclose(gain["lo"] * 100, row["lo"], rtol=1e-3, atol=1e-3).any()


def test_todays_students_that_hardly_move_leave_nothing_to_mine_as_the_ledger_says(today: pd.DataFrame) -> None:
    epochs = schema.read(DATA, "epochs")
    share = epochs[epochs["name"] == "mined.frac_nonempty"].groupby("run")["value"].mean()
    tau = {
        manifest["id"]: manifest["config"]["method"]["options"].get("tau", 0.5)
        for manifest in map(json.loads, (DATA / "manifests.jsonl").read_text().splitlines())
        if manifest["id"] in share
    }
    assert set(tau.values()) == {0.0, 0.5, 0.999, 1.0}
    assert all(
        (share[run] < 0.001) == (of_run > 0.9) and (share[run] > 0.3) == (of_run < 0.9) for run, of_run in tau.items()
    )
    assert "next to no anchor has a negative near enough" in today.loc["hnssl-tau-best", "why"]


def test_a_verdict_with_rows_links_to_runs_that_were_collected(today: pd.DataFrame) -> None:
    known = {json.loads(line)["id"] for line in (DATA / "manifests.jsonl").read_text().splitlines()}
    with_rows = today[today["n"] > 0]
    assert len(with_rows) >= 8
    assert all(set(runs.split()) <= known and runs for runs in with_rows["runs"])
    assert (today.loc[today["n"] == 0, "runs"] == "").all()


# ------------------------------------------------------------------------------------------------ where it is shown


def test_comparisons_that_no_paper_makes_are_counted_apart() -> None:
    rows = [
        ("reproduced", "1 point"),
        (CONTRADICTED, claims.UNPUBLISHED),
        (CONTRADICTED, "x"),
        (NO_RUN, claims.UNPUBLISHED),
    ]
    told = claims.counted(pd.DataFrame(rows, columns=["verdict", "published"]))
    assert told == "1 reproduced, 2 contradicted (1 by comparisons that no paper makes), 1 needs a run"
    own = {c.id for c in claims.load() if str(c.published) == claims.UNPUBLISHED}
    assert own == {c.id for c in claims.load() if c.id.endswith("-equal-compute")} and len(own) == 8


def test_the_terminal_shows_claims_in_110_columns_and_filters_them() -> None:
    result = CliRunner().invoke(cli, ["claims", "--data", str(DATA), "--paper", "hvs", "--verdict", "reproduced"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 110
    assert any(line.startswith("  hvs-lowest-iou-chance") and "reproduced" in line for line in lines)
    assert "needs a run" not in result.output and "HEXA" not in result.output
    explained = CliRunner().invoke(cli, ["claims", "--data", str(DATA), "--paper", "hvs", "--why"]).output
    assert "Runs: simsiam-hvs-cpu-s0" in explained
    named = CliRunner().invoke(cli, ["claims", "hvs-predict", "hexa-beta", "--data", str(DATA), "--json"]).output
    assert {row["id"] for row in json.loads(named)} == {"hvs-predict", "hexa-beta"}
    # a command is one line, to be copied
    commands = [line.strip() for line in explained.splitlines() if line.startswith("        hardlab ")]
    assert "hardlab pretrain simsiam-hvs-8 --rung gpu" in commands
    assert max(len(line) for line in explained.splitlines() if line.strip() not in commands) <= 110
    plain = CliRunner().invoke(cli, ["claims", "--data", str(DATA), "--verdict", "needs a run"]).output
    assert plain.count("hardlab pretrain") >= plain.count("needs a run") - 1 > 10  # the last line counts the verdicts


def test_the_terminal_gives_rows_as_json_and_refuses_slips(tmp_path: Path) -> None:
    (tmp_path / "evaluation.csv").write_text(",".join(schema.columns("evaluation")) + "\n")
    result = CliRunner().invoke(cli, ["claims", "--data", str(tmp_path), "--paper", "adco", "--json"])
    rows = json.loads(result.output)
    assert {r["paper"] for r in rows} == {"adco"}
    assert rows[0]["mean"] is None and rows[0]["verdict"] == NO_RUN
    for *option, value in (("--paper", "hvx"), ("--verdict", "reprodused"), ("hexa-betta",)):
        refused = CliRunner().invoke(cli, ["claims", *option, value])
        assert refused.exit_code == 2
        assert value in refused.output and "Did you mean" in refused.output
