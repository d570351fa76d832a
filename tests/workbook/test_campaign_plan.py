"""What a campaign runs and in which order, against a plain search through all that could come next."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from left_by_runs import finished
from scipy import stats

from hardlab.errors import HardlabError
from hardlab.recipes import recipe
from hardlab.workbook import campaign_plan
from hardlab.workbook.campaign_plan import Question, Stage, Survey, order, rates, work_out
from hardlab.workbook.job_queue import Estimate


def made_questions(seed: int) -> tuple[list[Question], dict[str, float]]:
    """Claims of two arms each, of which several share a baseline, with control runs, and the seconds of all runs."""
    rng = np.random.default_rng(seed)
    questions = []
    for i in range(7):
        there, least = int(rng.integers(0, 4)), int(rng.choice([3, 6]))
        arms = [f"base{rng.integers(0, 2)}", f"arm{i}"]
        steps = [(there, ("untrained-0", "untrained-1"))] if i % 3 == 0 else []
        last = there + int(rng.integers(1, 6))
        steps += [(n, tuple(f"{arm}-{n}" for arm in arms)) for n in range(there + 1, last + 1)]
        unknown = i == 5
        size, spread = (None, None) if unknown else (float(rng.uniform(0.2, 3)), float(rng.uniform(0.5, 1.5)))
        questions.append(Question(f"claim{i}", i in (1, 4), there, last, least, size, spread, tuple(steps)))
    names = {run for q in questions for _, runs in q.steps for run in runs}
    return questions, {name: float(rng.uniform(10, 1000)) for name in sorted(names)}


def decided(question: Question, done: set[str]) -> float:
    """The power of a claim once these runs are there, from the noncentral t-distribution."""
    seeds, controlled = question.there, True
    for after, runs in question.steps:
        if not set(runs) <= done:
            controlled = after != question.there
            break
        seeds = after
    if not controlled or seeds < max(2, question.least):
        return 0.0
    if question.size is None or question.spread is None:
        return campaign_plan.UNKNOWN
    t, limit = stats.nct(seeds - 1, question.size / question.spread * np.sqrt(seeds)), stats.t(seeds - 1).ppf(0.975)
    missed, opposite = np.nan_to_num([t.cdf(limit), t.cdf(-limit)])  # NaN far out in a tail, by scipy of some releases
    return float(1 - missed + opposite)


def searched(questions: Sequence[Question], seconds: dict[str, float]) -> list[tuple[str, frozenset[str]]]:
    """The order by trying everything anew at each turn."""
    done: set[str] = set()
    out = []
    for headline in (True, False):
        while True:
            turns = []
            for question in (q for q in questions if q.headline == headline):
                for n in range(1, len(question.steps) + 1):
                    new = {run for _, runs in question.steps[:n] for run in runs} - done
                    if new:
                        gain = sum(decided(q, done | new) - decided(q, done) for q in questions)
                        turns.append((gain / sum(seconds[run] for run in new), question.claim, frozenset(new)))
            if not turns:
                break
            _, claim, new = max(turns, key=lambda turn: turn[0])
            out.append((claim, new))
            done |= new
    return out


@pytest.mark.parametrize("seed", range(6))
def test_the_order_is_what_a_search_through_all_next_turns_finds(seed: int) -> None:
    questions, seconds = made_questions(seed)
    picks = order(questions, seconds)
    expected = searched(questions, seconds)
    assert len(picks) == len(expected)
    # turns that decide nothing tie, and may then come in any order
    worth = [i for i, (_, new) in enumerate(expected) if _gain(questions, expected, i, new) > 1e-9]
    assert [(picks[i].claim, frozenset(picks[i].runs)) for i in worth] == [expected[i] for i in worth]
    runs = [run for pick in picks for run in pick.runs]
    assert sorted(runs) == sorted(seconds), "every missing run, each once"
    assert [p.seconds for p in picks] == pytest.approx([sum(seconds[r] for r in p.runs) for p in picks])


def _gain(
    questions: Sequence[Question], turns: Sequence[tuple[str, frozenset[str]]], at: int, new: frozenset[str]
) -> float:
    before = {run for _, runs in turns[:at] for run in runs}
    return sum(decided(q, before | new) - decided(q, before) for q in questions)


def test_a_baseline_that_two_claims_share_is_run_once_and_makes_the_second_cheaper() -> None:
    def ask(name: str, arm: str, size: float) -> Question:
        steps = tuple((n, (f"base-{n}", f"{arm}-{n}")) for n in (1, 2, 3))
        return Question(name, False, 0, 3, 3, size, 1.0, steps)

    seconds = {f"{arm}-{n}": cost for arm, cost in (("base", 90.0), ("a", 10.0), ("b", 10.0)) for n in (1, 2, 3)}
    first, second = order([ask("likely", "a", 5.0), ask("unlikely", "b", 3.0)], seconds)
    assert (first.claim, first.seconds) == ("likely", 300.0)
    assert (second.claim, second.runs, second.seconds) == ("unlikely", ("b-1", "b-2", "b-3"), 30.0)


def test_a_plan_is_a_rung_or_a_file_of_stages(tmp_path: Path) -> None:
    assert campaign_plan.read("cpu") == [Stage(rung="cpu")]
    path = tmp_path / "plan.yaml"
    path.write_text("- {rung: cpu, claims: [hvs], seeds: 4}\n- {rung: smoke, claims: [hvs-simsiam-linear]}\n")
    first, second = campaign_plan.read(str(path))
    assert {claim.paper for claim in first.chosen()} == {"hvs"}
    assert "hvs-simsiam-imagenet" not in {claim.id for claim in first.chosen()}, "no claim of a larger rung"
    assert [claim.id for claim in second.chosen()] == ["hvs-simsiam-linear"], "one that is named, whatever its rung"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rung: cpuu", "Did you mean 'cpu'"),
        ("{rung: cpu, claims: [hvs-simsiam-linea]}", "Did you mean 'hvs-simsiam-linear'"),
        ("{rung: cpu, set: {seed: 3}}", "sets seed"),
        ("{rung: cpu, set: {optim.lr: -1}}", "optim.lr"),
        ("{rung: cpu, sedes: 3}", "sedes"),
        ("{rung: cpu, seeds: 0}", "seeds"),
        ("cpu", "plan.yaml"),
    ],
)
def test_a_plan_that_names_what_does_not_exist_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(HardlabError, match=message):
        campaign_plan.read(str(tmp_path / "plan.yaml"))
    with pytest.raises(HardlabError, match="no file 'cpuu'"):
        campaign_plan.read("cpuu")


def survey(tmp_path: Path, **stage: object) -> Survey:
    """Of a folder without tables."""
    return Survey([Stage.model_validate({"rung": "smoke", **stage})], tmp_path / "data", tmp_path / "runs", "fp32")


def test_what_is_missing_is_a_run_of_every_arm_and_seed_with_the_control_first(tmp_path: Path) -> None:
    asked = survey(tmp_path, claims=["hvs-simsiam-linear"], seeds=2, set={"epochs": 3})
    [question] = asked.questions(asked.stages[0])
    runs = {
        (name, seed): recipe(name, "smoke", {"seed": seed} | ({"epochs": 3} if name != "untrained" else {})).id
        for name in ("untrained", "simsiam-hvs", "simsiam")
        for seed in (0, 1)
    }
    assert question.steps == (
        (0, (runs["untrained", 0], runs["untrained", 1])),
        (1, (runs["simsiam-hvs", 0], runs["simsiam", 0])),
        (2, (runs["simsiam-hvs", 1], runs["simsiam", 1])),
    )
    assert (question.there, question.least, question.power(3)) == (0, 6, 0.0)
    assert asked.runs.keys() == set(runs.values())

    for name in ("untrained", "simsiam-hvs", "simsiam"):
        finished(tmp_path / "runs", runs[name, 0], ("knn", "linear-lbfgs"))
    finished(tmp_path / "runs", runs["simsiam", 1], ("knn",))  # not yet measured by the claim's probe
    again = survey(tmp_path, claims=["hvs-simsiam-linear"], seeds=2, set={"epochs": 3})
    [question] = again.questions(again.stages[0])
    assert question.there == 1
    assert question.steps == ((1, (runs["untrained", 1],)), (2, (runs["simsiam-hvs", 1], runs["simsiam", 1])))
    made = work_out(again, Estimate({"smoke/simsiam": {"images_per_s": 100.0, "peak_memory_mb": 1.0}}, overhead=5.0))
    images = {job.rate: job.images for job in made.jobs}
    assert images["smoke/simsiam"] == 0, "it is trained, and lacks rows alone"
    assert images["smoke/simsiam-hvs"] > 0
    [row] = made.rows
    assert (row.claim, row.seeds_there, row.seeds_needed, row.runs) == ("hvs-simsiam-linear", 1, 6, 3)
    assert row.minutes == pytest.approx((3 * 5.0 + images["smoke/simsiam-hvs"] / 100) / 60)


def test_a_pair_of_the_other_precision_counts_and_half_a_pair_does_not(tmp_path: Path) -> None:
    collected = [
        (recipe(name, "smoke", {"seed": seed, "epochs": 3, "precision": "bf16"}), 0.4 + 0.1 * seed)
        for name, seed in (("simsiam-hvs", 0), ("simsiam", 0), ("simsiam", 1))
    ]
    (tmp_path / "data").mkdir()
    lines = [json.dumps({"id": run.id, "config": run.model_dump(mode="json")}) for run, _ in collected]
    (tmp_path / "data" / "manifests.jsonl").write_text("\n".join(lines))
    how = {"rung": "smoke", "data": "x", "method": "m", "setting": "0", "arm": "a", "protocol": "linear-lbfgs"}
    how |= {"metric": "top1", "features": "backbone", "split": "test", "options": "{}"}
    rows = [
        how | {"run": run.id, "recipe": run.recipe, "seed": run.seed, "evaluated_on": run.data.name, "value": value}
        for run, value in collected
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "data" / "evaluation.csv", index=False)
    asked = survey(tmp_path, claims=["hvs-simsiam-linear"], seeds=2, set={"epochs": 3})
    [question] = asked.questions(asked.stages[0])
    assert question.there == 1
    made = {name: recipe(name, "smoke", {"seed": 1, "epochs": 3}).id for name in ("simsiam-hvs", "simsiam")}
    assert question.steps[-1] == (2, tuple(made.values())), "both arms in this machine's precision"


def test_every_seed_has_a_generator_of_its_own_which_its_arms_share(tmp_path: Path) -> None:
    settings = {"data.name": "shapes", "parent.epochs": 1}
    asked = survey(tmp_path, claims=["ppcl-pairs-harder-than-frozen"], seeds=2, set=settings)
    [question] = asked.questions(asked.stages[0])
    arms = [run for run in asked.runs.values() if run.parent is not None]
    assert len(arms) == 4
    assert {(run.seed, run.parent.seed, run.parent.epochs) for run in arms if run.parent} == {(0, 0, 1), (1, 1, 1)}
    runs = [run for _, step in question.steps for run in step]
    assert len(runs) == 6, "a GAN a seed"
    assert all(runs.index(run.parent.id) < runs.index(run.id) for run in arms if run.parent)


def test_rates_are_those_of_this_device_else_scaled_by_what_two_devices_share() -> None:
    def manifest(device: str, name: str, rate: float, memory: float = 100.0, took: str = "fp32") -> dict[str, object]:
        config = {"rung": "cpu", "recipe": name, "precision": took}
        return {"device": device, "config": config, "images_per_s": rate, "peak_memory_mb": memory}

    manifests = [manifest("here", "a", 100.0), manifest("here", "a", 300.0), manifest("here", "a", 200.0, 400.0)]
    manifests += [manifest("there", name, rate) for name, rate in (("a", 1000.0), ("b", 3000.0), ("c", 500.0))]
    manifests.append(manifest("here", "a", 9000.0, took="bf16"))
    table = rates({str(i): m for i, m in enumerate(manifests)}, "here", "fp32", {"cpu/a": 7.0, "cpu/c": 100.0})
    assert {key: row["images_per_s"] for key, row in table.items()} == {"cpu/a": 200.0, "cpu/c": 100.0, "cpu/b": 600.0}
    assert table["cpu/a"]["peak_memory_mb"] == 400.0
