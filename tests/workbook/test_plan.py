"""The steps of a rung's workbook."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from hardlab import build, config, own_images, recipes
from hardlab.analysis import claims as ledger
from hardlab.cli import cli
from hardlab.figures import FIGURES
from hardlab.workbook import execute, parameters, plan
from hardlab.workbook.plan import Step


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


def test_a_step_needs_only_what_an_earlier_one_makes_and_the_source_of_its_notebook() -> None:
    made: set[str] = set()
    for step in plan.steps("smoke"):
        source = {str(execute.find(step.title))} if step.kind == "notebook" else set()
        assert source <= set(step.inputs) <= made | source, step.name
        made |= set(step.outputs)
    assert set(plan.steps("smoke")[-1].inputs) == {o for o in made if not o.startswith(("runs/", "report"))}


def test_what_a_run_is_for_names_figures_that_there_are() -> None:
    named = {n for names in plan.PURPOSES.values() for n in names if " " not in n}
    assert len(named) > 10 and named <= FIGURES.keys()
    purposes = {s.title: s.purpose for s in plan.steps("smoke")}
    assert purposes["simsiam-hvs"] == "HVS Figures 2, 3, 4, 9"
    assert purposes["simclr"] == "HVS Figure 3, Table 9, PPCL Table 1"


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
    expected = {c.measure.where.get("evaluated_on") for c in ledger.load() if c.testable_from in ("cpu", "gpu")}
    assert {words[words.index("--data") + 1] for words in commands} == expected - {None} != set()


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
    changes: dict[str, Any] = {"data.held_out": 0.3, "data.fraction": 0.13, "data.classes": ["disc", "ring"]}
    held = recipes.recipe("simsiam", "smoke", changes | {"batch_size": 8})
    assert plan.training_steps(held) == held.epochs * (len(build.images(held)) // 8)
    ppcl = next(s for s in plan.steps("smoke") if s.title == "ppcl")
    assert [t.recipe for t in ppcl.trains] == ["gan", "ppcl"]


def test_training_steps_on_a_folder_of_images_leave_out_what_is_held_out(tmp_path: Path) -> None:
    from hardlab import build

    folder = own_images.drawn(tmp_path / "pictures", count=47)
    (next(folder.iterdir()) / "notes.txt").write_text("no image")
    own = {"data": f"folder:{folder}", "batch_size": 2, "epochs": 3}
    for held_out in (0.0, 0.1, 0.45):
        for fraction in (1.0, 0.6):
            run = recipes.recipe("simsiam", "smoke", own | {"data.held_out": held_out, "data.fraction": fraction})
            assert plan.training_steps(run) == 3 * (len(build.images(run)) // 2) > 0
    gone = recipes.recipe("simsiam", "smoke", own | {"data": f"folder:{tmp_path / 'gone'}"})
    assert plan.training_steps(gone) == 0


def test_what_was_stopped_by_a_signal_or_saved_is_no_failure_and_what_failed_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line with a stand-in for hardlab that ends as its file says: with a status, or by a signal."""
    monkeypatch.setattr(plan.sys, "executable", str(tmp_path / "python"))
    (tmp_path / "hardlab").write_text('#!/bin/sh\necho . >> calls\nread how < how\neval "$how"\n')
    (tmp_path / "hardlab").chmod(0o755)
    (tmp_path / "logs").mkdir()
    step = Step("a", "run", "a", "a test", (("--help",),), (), ("a.txt",))

    def ends(how: str) -> tuple[int, int, str | None]:
        (tmp_path / "how").write_text(how + "\n")
        status = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", step.shell], cwd=tmp_path, check=False,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored by what runs in the background
        ).returncode  # fmt: skip
        failed = tmp_path / step.failed
        return (
            status,
            len((tmp_path / "calls").read_text().splitlines()),
            failed.read_text() if failed.exists() else None,
        )

    assert ends("exit 75") == (1, 1, None)
    for calls, name in enumerate(("TERM", "INT", "USR1"), 2):
        assert ends(f"kill -{name} $$") == (1, calls, None), name
    assert ends("exit 0") == (0, 5, None) and (tmp_path / "a.txt").exists()
    assert ends("kill -KILL $$") == (1, 6, "137\n")
    assert ends("exit 0") == (1, 6, "137\n")


def test_a_check_of_all_runs_reads_each_data_set_once_and_another_check_reads_them_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load, reads = build.data.load, []

    def counted(name: str, split: str, **options: Any) -> Any:
        reads.append((name, split))
        return load(name, split, **options)

    monkeypatch.setattr(build.data, "load", counted)
    plan.check("smoke", ["logs.monitor_every=1"])  # which reads the test images too
    assert sorted(reads) == [("shapes", "test"), ("shapes", "train")]
    plan.check("smoke", ["logs.monitor_every=1"])
    assert len(reads) == 4
