"""The rules behind `make reproduce`: what they would run, on the real command line."""

from __future__ import annotations

import fcntl
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from hardlab import config, recipes
from hardlab.analysis import claims as ledger
from hardlab.cli import cli
from hardlab.types import HardlabError
from hardlab.workbook import execute, workflow


def planned(out: Path, rung: str, *overrides: str, claims: bool = False) -> list[list[str]]:
    """The command lines of hardlab that a reproduction would run."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(workflow.SNAKEFILE), "--directory", str(out)),
            *("--config", *workflow.settings(rung, overrides, claims), "--dry-run", "--printshellcmds"),
            *("--cores", "2", "--quiet", "progress", "host"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    said = (done.stdout + done.stderr).splitlines()
    told = [line.removeprefix("Shell command: ") for line in said if line.startswith("Shell command: ")]
    lines = [shlex.split(part) for line in told for part in line.split(" && ")]
    lines.remove(["None"])  # the rule that only names what is wanted
    assert {Path(line[0]).name for line in lines} == {"hardlab"}
    return [line[1:] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("rung", ["smoke", "cpu"])
def test_every_step_is_a_command_line_that_hardlab_understands(tmp_path: Path, rung: str) -> None:
    lines = planned(tmp_path, rung)
    for line in lines:
        words, command = line[: line.index(">")], cli
        while isinstance(command, click.Group):
            name, words = words[0], words[1:]
            command = command.commands[name]
        command.make_context(name, list(words))
        if line[:2] == ["nb", "run"]:
            given = [w for w in words if "=" in w]
            execute.check(execute.find(words[0]), execute.split(given))
    names = [" ".join(line[:2]) for line in lines]
    trained = {(line[1], line[2]) for line in lines if line[0] == "pretrain"}
    seeds = workflow.SEEDS[rung]
    assert len(trained) == 15 * seeds and {recipe for recipe, _ in trained} <= set(recipes.RECIPES)
    assert sum(name.startswith("evaluate") for name in names) == 15 * seeds
    assert {line[2] for line in lines if line[:2] == ["nb", "run"]} == {p.stem for p in execute.notebooks()}
    assert names[-1] == "report --rung"


@pytest.mark.slow
def test_with_the_claims_every_arm_that_the_rung_can_test_is_trained_and_measured_by_its_protocol(tmp_path: Path):
    lines = planned(tmp_path, "cpu", "epochs=10", claims=True)
    trained = [line[1 : line.index("--rung")] for line in lines if line[0] == "pretrain"]
    ids = {recipes.recipe(name, "cpu", config.parse(given)).id for name, *given in trained}
    assert len(ids) == len(trained)
    for claim in ledger.load():
        for arm in claim.arms if claim.testable_from == "cpu" else ():
            for seed in range(3):
                assert recipes.recipe(arm.recipe, "cpu", {"seed": seed, "epochs": 10} | arm.set).id in ids
    assert ["untrained", "seed=0"] in trained  # which would be trained with epochs=10
    asked = {line[1].split("-cpu-")[0]: line for line in lines if line[0] == "evaluate"}
    assert "linear-ppcl" in asked["runs/ppcl"] and "linear-ppcl" not in asked["runs/simsiam"]


@pytest.mark.slow
def test_a_claim_of_transfer_is_evaluated_on_the_set_that_it_names(tmp_path: Path):
    lines = [line for line in planned(tmp_path, "gpu", claims=True) if line[0] == "evaluate"]
    wanted = {c.measure.where.get("evaluated_on") for c in ledger.load() if c.testable_from in ("cpu", "gpu")}
    assert {line[line.index("--data") + 1] for line in lines if "--data" in line} == wanted - {None} != set()
    written = [line[line.index(">") + 1] for line in lines if ">" in line]
    assert len(written) == len(set(written))  # a second command adds to what the first wrote


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
