"""The rules behind `make reproduce`: what they would run, on the real command line."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from hardlab import config, recipes
from hardlab.analysis import claims as ledger
from hardlab.cli import cli
from hardlab.figures import FIGURES
from hardlab.types import HardlabError
from hardlab.workbook import execute, parameters, plan, workflow
from hardlab.workbook.plan import Step


def snakemake(folder: Path, *words: str) -> str:
    """What Snakemake prints of the rules of ``plan.json`` in ``folder``."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(workflow.SNAKEFILE), "--directory", str(folder)),
            *("--cores", "2", "--quiet", "progress", "host", "--nolock", *words),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("rung", ["smoke", "cpu"])
def test_every_step_is_command_lines_that_hardlab_understands(rung: str) -> None:
    steps = plan.steps(rung)
    for words in [words for step in steps for words in step.commands]:
        left, command = list(words), cli
        while isinstance(command, click.Group):
            name, left = left[0], left[1:]
            command = command.commands[name]
        command.make_context(name, list(left))
        if words[:2] == ("nb", "run"):
            given = [w for w in words[3:] if "=" in w]
            parameters.check(execute.find(words[2]), parameters.split(given))
    runs = [s for s in steps if s.kind == "run"]
    assert len(runs) == len(plan.PURPOSES) * plan.SEEDS[rung]
    assert all(words[0] in ("pretrain", "evaluate") and "knn" in s.commands[0] for s in runs for words in s.commands)
    assert [s.title for s in steps if s.kind == "notebook"] == [p.stem for p in execute.notebooks()]
    assert steps[-1].outputs == ("report.html",)


def test_a_step_needs_only_what_an_earlier_one_makes() -> None:
    made: set[str] = set()
    for step in plan.steps("smoke"):
        assert set(step.inputs) <= made, step.name
        made |= set(step.outputs)
    assert set(plan.steps("smoke")[-1].inputs) == {o for o in made if not o.startswith(("runs/", "report"))}


def test_what_a_run_is_for_names_figures_that_there_are() -> None:
    named = {n for names in plan.PURPOSES.values() for n in names if " " not in n}
    assert len(named) > 10 and named <= FIGURES.keys()
    purposes = {s.title: s.purpose for s in plan.steps("smoke")}
    assert purposes["simsiam-hvs"] == "HVS Figures 2, 3, 4, 9"
    assert purposes["simclr"] == "HVS Figure 3, Table 9, PPCL Table 1"


@pytest.mark.slow
def test_snakemake_plans_the_same_steps_and_gives_every_value_as_it_was_given(tmp_path: Path) -> None:
    folder = tmp_path / "a folder's {name}"
    folder.mkdir()
    given = ["optim.betas=[0.9, 0.99]", "data.name=folder:/a b/{c}'s"]
    steps = plan.steps("smoke", given)
    plan.write(steps, folder / "plan.json")
    said = snakemake(folder, "--dry-run", "--printshellcmds").splitlines()
    lines = [line.removeprefix("Shell command: ") for line in said if line.startswith("Shell command: if ")]
    assert sorted(lines) == sorted(s.shell for s in steps)
    words = shlex.split(next(line for line in lines if "simsiam-hvs-static" in line))
    assert words[words.index("simsiam-hvs-static") :][:4] == ["simsiam-hvs-static", "seed=0", *given]


@pytest.mark.slow
def test_the_engine_runs_a_plan_marks_a_failure_and_goes_on_beside_it(tmp_path: Path) -> None:
    def step(name: str, words: tuple[str, ...], *inputs: str) -> Step:
        return Step(name, "run", name, "a test", (words,), inputs, (f"{name}.txt",))

    (tmp_path / "logs").mkdir()
    steps = [step("good", ("--help",)), step("bad", ("pretrain", "simsam")), step("after", ("--help",), "bad.txt")]
    steps.append(Step("end", "report", "end", "all", (("--help",),), ("good.txt", "after.txt"), ("end.txt",)))
    plan.write(steps, tmp_path / "plan.json")
    with pytest.raises(subprocess.CalledProcessError):
        snakemake(tmp_path, "--keep-going")
    assert (tmp_path / "good.txt").exists() and not (tmp_path / "bad.txt").exists()
    assert (tmp_path / "logs" / "bad.failed").read_text() == "2\n"
    assert "Did you mean 'simsiam'" in (tmp_path / "logs" / "bad.log").read_text()
    assert not (tmp_path / "logs" / "after.log").exists()


def test_with_the_claims_every_arm_that_the_rung_can_test_is_trained_and_measured_by_its_protocol() -> None:
    runs = [s for s in plan.steps("cpu", ["epochs=10"], with_claims=True) if s.kind == "run"]
    ids = {s.run for s in runs}
    assert len(ids) == len(runs)
    for s in runs:
        words = s.commands[0]
        assert recipes.recipe(words[1], "cpu", config.parse(words[2 : words.index("--rung")])).id == s.run
    for claim in ledger.load():
        for arm in claim.arms if claim.testable_from == "cpu" else ():
            for seed in range(3):
                own = config.parse(claim.overrides(arm, "cpu"))
                assert arm.set.items() <= own.items()
                length = {"epochs": 10} if arm.recipe != "untrained" else {}
                run = recipes.recipe(arm.recipe, "cpu", {"seed": seed} | length | own)
                assert claim.id in next(s.purpose for s in runs if s.run == run.id)
    assert ("untrained", "seed=0", "--rung") in {s.commands[0][1:4] for s in runs}  # not trained with epochs=10
    larger = [s for s in plan.steps("gpu", with_claims=True) if s.kind == "run"]
    asked = {s.title: s.commands[0] for s in larger}
    assert "semi-hexa-1" in asked["deepcluster, seed 0"] and "semi-hexa-1" not in asked["simsiam, seed 0"]


def test_a_claim_of_transfer_is_evaluated_on_the_set_that_it_names() -> None:
    commands = [words for s in plan.steps("gpu", with_claims=True) for words in s.commands if words[0] == "evaluate"]
    wanted = {c.measure.where.get("evaluated_on") for c in ledger.load() if c.testable_from in ("cpu", "gpu")}
    assert {words[words.index("--data") + 1] for words in commands} == wanted - {None} != set()


def test_a_step_is_run_again_when_what_it_needs_is_newer_and_so_is_all_behind_it(tmp_path: Path) -> None:
    def step(name: str, *inputs: str) -> Step:
        return Step(name, "figures", name, "", ((),), inputs, (name,))

    steps = [step("a"), step("b", "a"), step("c"), step("d", "b", "c")]
    assert plan.missing(steps, tmp_path) == steps
    for at, name in enumerate("abcd"):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (1000 + at, 1000 + at))
    assert plan.missing(steps, tmp_path) == []
    os.utime(tmp_path / "a", (1001.5, 1001.5))
    assert [s.name for s in plan.missing(steps, tmp_path)] == ["b", "d"]
    os.utime(tmp_path / "a", (1000, 1000))
    (tmp_path / "c").unlink()
    assert [s.name for s in plan.missing(steps, tmp_path)] == ["c", "d"]


def test_training_steps_are_those_that_the_data_give() -> None:
    from hardlab import build

    for name in ("simsiam", "ppcl"):
        run = recipes.recipe(name, "smoke")
        assert plan.training_steps(run) == run.epochs * (len(build.images(run)) // run.batch_size)
    ppcl = next(s for s in plan.steps("smoke") if s.title == "ppcl")
    assert [t.recipe for t in ppcl.trains] == ["gan", "ppcl"]


def test_a_dry_run_prints_the_plan_with_its_minutes_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = workflow.costs.Rates(0.1, 0.05, "fp32")
    monkeypatch.setattr(workflow.costs, "calibrate", lambda rung: rates)
    assert workflow.reproduce("smoke", out=tmp_path / "out", dry_run=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split(None, 3)[:3] == ["2", "run", "simsiam-hvs"] and "for HVS Figures 2, 3, 4, 9" in lines[1]
    assert "28 of 28 steps" in lines[-1] and " min with 2 at a time" in lines[-1] and "100 ms in fp32" in lines[-1]
    assert not (tmp_path / "out").exists()


def test_an_unknown_rung_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(HardlabError, match="Did you mean 'smoke'"):
        workflow.reproduce("smok")


def test_two_reproductions_in_one_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow.sys, "executable", str(tmp_path / "python"))
    (tmp_path / "hardlab").write_text("")
    with open(tmp_path / ".lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(HardlabError, match="Another process"):
            workflow.reproduce("smoke", out=tmp_path)


def test_a_missing_command_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(HardlabError, match="make install"):
        workflow.reproduce("smoke", out=tmp_path)


def test_when_the_engine_itself_stops_one_sentence_tells_why_and_where_its_log_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "Snakefile"
    broken.write_text("rule all:\n    input:\n        'nowhere'\n")
    monkeypatch.setattr(workflow, "SNAKEFILE", broken)
    monkeypatch.setattr(workflow.costs, "calibrate", lambda rung: None)
    assert workflow.reproduce("smoke", out=tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "MissingInputException" in said.err and str(tmp_path / "out" / workflow.LOG) in said.err
    assert len(said.err.splitlines()) == 1
    assert json.loads((tmp_path / "out" / "plan.json").read_text())[-1]["outputs"] == ["report.html"]
