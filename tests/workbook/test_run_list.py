"""The runs of a folder: listed, found by name, compared, and deleted only where nothing needs them."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from run_folders import folder_of

from hardlab import cli, recipes
from hardlab.types import HardlabError
from hardlab.workbook import run_list


def invoked(*words: str, answer: str = "") -> tuple[int, str]:
    result = CliRunner().invoke(cli.cli, ["runs", *words], input=answer)
    return result.exit_code, result.output


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A parent with a child, a run with an alarm, one that failed, and a damaged one."""
    runs = tmp_path / "runs"
    parent = folder_of(runs, "gan", 0, None)
    folder_of(runs, "ppcl", 0, 0.25, parent=parent.name)
    alarm = {"step": 9, "rule": "collapse", "sentence": "At step 9 all images get the same prediction."}
    folder_of(runs, "simsiam", 0, 0.5, health=[alarm])
    failed = folder_of(runs, "simsiam", 1, None, state="failed", error="The disk is full.")
    for part in ("checkpoints", "features"):
        (failed / part).mkdir()
        (failed / part / "x").write_bytes(bytes(5000))
    (runs / "simclr-smoke-s0-0123456789").mkdir()
    (runs / "simclr-smoke-s0-0123456789" / "manifest.json").write_text("{")
    return runs


def name_of(runs: Path, begins: str) -> str:
    (name,) = [p.name for p in runs.iterdir() if p.name.startswith(begins)]
    return name


def test_the_list_has_a_row_per_run_with_state_result_alarms_and_its_size(runs: Path) -> None:
    status, text = invoked("list", "--runs", str(runs), "--json")
    rows = {row["run"]: row for row in json.loads(text)}
    assert status == 0 and rows.keys() == {p.name for p in runs.iterdir()}
    for name, row in rows.items():
        assert row["bytes"] == sum(p.stat().st_size for p in (runs / name).rglob("*") if p.is_file())
    epochs = recipes.recipe("simsiam", "smoke").epochs
    assert rows[name_of(runs, "simsiam-smoke-s0")] | {"bytes": 0} == {
        "run": name_of(runs, "simsiam-smoke-s0"), "state": "done", "epochs": f"{epochs}/{epochs}",
        "data": "shapes", "started": "2026-01-01 00:00", "result": "50.0 % knn", "health": "1 alarm", "bytes": 0,
    }  # fmt: skip
    assert rows["simclr-smoke-s0-0123456789"]["state"] == "damaged"
    _, plain = invoked("list", "--runs", str(runs), "--state", "failed")
    assert name_of(runs, "simsiam-smoke-s1") in plain and "simsiam-smoke-s0" not in plain


def test_a_run_says_in_words_how_it_went_and_who_needs_it(runs: Path) -> None:
    _, healthy = invoked("show", "gan", "--runs", str(runs))
    assert "no alarm" in healthy and f"child    {name_of(runs, 'ppcl')}" in healthy
    _, ill = invoked("show", "simsiam-smoke-s0", "--runs", str(runs))
    assert "At step 9 all images get the same prediction." in ill and "knn top1@k=20 on shapes 0.5000" in ill
    assert "The disk is full." in invoked("show", name_of(runs, "simsiam-smoke-s1"), "--runs", str(runs))[1]
    assert "damaged" in invoked("show", "simclr", "--runs", str(runs))[1]


def test_an_unknown_or_ambiguous_name_is_refused_with_the_nearest(runs: Path, tmp_path: Path) -> None:
    assert "begins the names of 2 runs" in invoked("show", "simsiam", "--runs", str(runs))[1]
    status, output = invoked("show", "simsam-smoke-s0", "--runs", str(runs))
    assert status == 2 and "simsiam-smoke-s0" in output
    assert "no folder of runs" in invoked("list", "--runs", str(tmp_path / "none"))[1]


def test_runs_are_compared_by_the_settings_in_which_they_differ(runs: Path) -> None:
    pair = [run_list.find(runs, n) for n in ("simsiam-smoke-s0", "ppcl")]
    compared = run_list.compare(pair)
    a, b = (json.loads((e.path / "manifest.json").read_text())["config"] for e in pair)
    assert compared["settings"]["method.name"] == ["simsiam", "simclr"]
    assert compared["settings"]["hard.generated.every"] == [None, 10]
    assert "batch_size" not in compared["settings"] and a["batch_size"] == b["batch_size"]
    assert compared["results"] == {"knn top1@k=20 on shapes": [0.5, 0.25]}
    assert invoked("compare", "ppcl", "--runs", str(runs))[0] == 2


def test_a_parent_stays_as_long_as_a_child_does(runs: Path) -> None:
    parent, child = name_of(runs, "gan"), name_of(runs, "ppcl")
    status, output = invoked("prune", "gan", "--yes", "--runs", str(runs))
    assert status == 0 and f"stays: {child} needs it" in output and (runs / parent).exists()
    assert invoked("prune", "gan", "ppcl", "--yes", "--runs", str(runs))[0] == 0
    assert not (runs / parent).exists() and not (runs / child).exists()
    assert not (runs / run_list.PRUNED).exists()


def test_a_run_under_way_stays_and_one_whose_process_is_gone_counts_as_stopped(runs: Path) -> None:
    folder = runs / name_of(runs, "simsiam-smoke-s1")
    about = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(about | {"state": "running"}))
    assert run_list.entry(folder).state == "stopped"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run_list.entry(folder).state == "running"
        plan = run_list.plan_pruning(runs, [folder.name])
        assert plan.deleted == {} and plan.kept == {folder.name: "it is under way"}
        free = run_list.Pruning({folder.name: 1}, {}, False)
        assert run_list.prune(runs, free) == [] and folder.exists()  # started after the plan was made
    assert run_list.prune(runs, run_list.plan_pruning(runs, states=["stopped"])) == [folder.name]


def test_nothing_is_deleted_without_a_yes_nor_in_a_dry_run(runs: Path) -> None:
    before = sorted(runs.rglob("*"))
    assert "would delete" in invoked("prune", "--state", "failed", "--dry-run", "--runs", str(runs))[1]
    assert invoked("prune", "--state", "failed", "--runs", str(runs), answer="n\n")[0] == 1
    assert invoked("prune", "--runs", str(runs))[0] == 2
    assert invoked("prune", "--state", "runing", "--runs", str(runs))[0] == 2
    assert sorted(runs.rglob("*")) == before
    assert invoked("prune", "--state", "failed", "--runs", str(runs), answer="y\n")[0] == 0
    assert sorted(p.name for p in set(before) - set(runs.rglob("*")) if p.parent == runs) == [
        p.name for p in before if p.name.startswith("simsiam-smoke-s1")
    ]


def test_pruning_weights_leaves_the_rows_and_age_is_counted_in_days(runs: Path) -> None:
    failed = runs / name_of(runs, "simsiam-smoke-s1")
    assert run_list.plan_pruning(runs, states=["failed"], older_days=10**6).deleted == {}
    plan = run_list.plan_pruning(runs, states=["failed"], older_days=1, weights=True)
    assert plan.deleted == {failed.name: 10_000}
    run_list.prune(runs, plan)
    assert sorted(p.name for p in failed.iterdir()) == ["lock", "manifest.json"]


def test_a_run_elsewhere_of_the_same_name_is_not_mistaken_for_one_here(runs: Path, tmp_path: Path) -> None:
    other = folder_of(tmp_path / "other", "simsiam", 0, None)
    with pytest.raises(HardlabError, match="is not in"):
        run_list.plan_pruning(runs, [str(other)])


@pytest.mark.parametrize("size, text", [(0, "0 B"), (999, "999 B"), (12_345, "12.3 kB"), (5_000_000_000, "5 GB")])
def test_sizes_are_readable(size: int, text: str) -> None:
    assert run_list.readable(size) == text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands_recipes_and_runs(shell: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = CliRunner().invoke(cli.cli, ["completion", shell])
    assert script.exit_code == 0 and f"_HARDLAB_COMPLETE={shell}_complete" in script.output
    for words, begun, expected in (
        ("hardlab", "pret", "pretrain"),
        ("hardlab pretrain", "simsiam-hv", "simsiam-hvs"),
        (f"hardlab runs show --runs {runs}", "ppcl", name_of(runs, "ppcl")),
    ):
        line = f"{words} {begun}"
        env = {"_HARDLAB_COMPLETE": f"{shell}_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words.split()))}
        env["COMP_CWORD"] = begun if shell == "fish" else env["COMP_CWORD"]
        answered = CliRunner().invoke(cli.cli, [], prog_name="hardlab", env=env)
        assert expected in answered.output, answered.output
