"""The command line: help everywhere, checked input, documented exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hardlab import cli, run_folder

ROOT = Path(__file__).resolve().parents[1]

QUICK = ["data.name=digits", "backbone.width=8", "epochs=1", "batch_size=256", "method.dim=16"]


def call(*words):
    return CliRunner().invoke(cli.cli, list(words), catch_exceptions=True)


def process(*words):
    """The installed command as a shell would see it: (status, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-c", "from hardlab.cli import main; main()", *words], capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


def spoken(words, monkeypatch, capsys):
    """(status, stderr) of the installed command, in this process."""
    monkeypatch.setattr(sys, "argv", ["hardlab", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code, capsys.readouterr().err


def commands(group=cli.cli, path=()):
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_command_has_help_with_whole_summaries_of_its_subcommands(path):
    result = call(*path, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output
    _, _, subcommands = result.output.partition("\nCommands:\n")
    assert [line for line in subcommands.splitlines() if not line.endswith(".") or line.endswith("...")] == []


def test_every_option_is_explained():
    def unexplained(command, path):
        for option in command.params:
            if isinstance(option, click.Option) and not option.help:
                yield " ".join([*path, option.opts[0]])
        for name, subcommand in getattr(command, "commands", {}).items():
            yield from unexplained(subcommand, (*path, name))

    assert list(unexplained(cli.cli, ())) == []


def test_a_dry_run_tells_the_whole_configuration_and_writes_nothing(tmp_path):
    result = call("pretrain", "simsiam-hvs", "seed=3", "--dry-run", "--json", "--runs", str(tmp_path / "runs"))
    configuration = json.loads(result.output)
    assert configuration["seed"] == 3
    assert configuration["hard"][0]["name"] == "hvs"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrain", "simsam"], "Did you mean 'simsiam'"),
        (["pretrain", "simsiam", "--rung", "cp"], "Did you mean 'cpu'"),
        (["pretrain", "simsiam", "optim.lrr=1"], "Did you mean 'lr'"),
        (["pretrain", "simsiam", "data.fraction=0"], "data.fraction"),
        (["pretrain"], "--list"),
        (["pretrain", "simsiam", "optim.lr=[1"], "cannot be read"),
        (["pretrain", "simsiam", "optim.lr=.inf"], "optim.lr"),
        (["pretrain", "simsiam", "seed=true"], "is not a switch"),
        (["pretrain", "simsiam", "recipe=../../escape"], "cannot be overridden"),
        (["pretrain", "simsiam", "rung=paper"], "cannot be overridden"),
        (["pretrain", "simsiam", "hard.hvs.draws=8"], "no strategy"),
        (["pretrain", "simsiam-hvs", "hard.hvs.draws=1", "--dry-run"], "from 2 to 64"),
        (["pretrain", "simsiam", "augment.sclae=[0.1, 1]", "--dry-run"], "scale"),
        (["pretrain", "simsiam", "--device", "gpu"], "There is no device"),
        (["figures", "hvs_f3", "--data", "nowhere"], "no tables"),
        (["figures", "hvs_f3", "--add"], "give --from too"),
        (["figures", "HVS_F3"], "Did you mean 'hvs_f3'"),
        (["figures", "hvs"], "Did you mean 'hvs_f1'"),
        (["claims", "--paper", "HEXA"], "Did you mean 'hexa'"),
        (["evaluate", "x", "--protocol", "knnn"], "knn"),
        (["evaluate"], "--list"),
        (["evaluate", "x", "--protocol", "linear", "--set", "epoch=3"], "Did you mean 'epochs'"),
        (["evaluate", "x", "--protocol", "linear", "--set", "epochs=many"], "whole number"),
        (["evaluate", "x", "--data", "cifar11"], "Did you mean 'cifar10'"),
        (["evaluate", "x", "--checkpoint", "last"], "newest, all"),
        (["figures", "hvs_f33"], "hvs_f3"),
        (["figures"], "--list"),
        (["nb", "run", "01_pretrian"], "01_pretrain"),
        (["nb", "run", "01_pretrain", "sede=1"], "seed"),
        (["pretrain", "simsiam", "--rungs", "cpu"], "--rung"),
        (["pretrain", "simsiam", "backbone.width=0"], "width=0"),
        (["pretrain", "simsiam", "method.dim=0"], "from 1 to"),
        (["pretrain", "simsiam", "local={name: dino_local, count: 2, options: {size: 16}}"], "multi-crop"),
        (["nb", "run", "01_pretrain", "recipe=simsam"], "Did you mean 'simsiam'"),
        (["nb", "run", "01_pretrain", "rung=cp"], "Did you mean 'cpu'"),
        (["nb", "run", "03_view_iou", "rung=cp"], "Did you mean 'cpu'"),
        (["reproduce", "--rung", "cp"], "Did you mean 'cpu'"),
        (["reproduce", "epoch=3"], "Did you mean 'epochs'"),
        (["reproduce", "seed=3"], "'seed' labels the results"),
        (["report", "--rung", "cp"], "Did you mean 'cpu'"),
    ],
)
def test_wrong_input_exits_with_2_and_names_what_was_meant(words, message):
    result = call(*words)
    assert result.exit_code == 2, result.output
    assert message in result.output


@pytest.mark.parametrize("words", [["claims"], ["claims", "--json"], ["figures", "hvs_f3"]])
def test_a_folder_that_is_not_there_or_holds_no_tables_is_refused_and_named(words, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        result = call(*words, "--data", str(tmp_path / name))
        assert result.exit_code == 2
        assert f"There are no tables in '{tmp_path / name}'" in result.output
    assert [p.name for p in tmp_path.rglob("*")] == ["empty"]


DRAW, JUDGE = ["figures", "hvs_t1", "--out", "drawn"], ["claims", "hvs-dino-linear"]


@pytest.mark.parametrize(
    ("words", "file", "content", "message"),
    [
        (DRAW, "evaluation.csv", b"", "EmptyDataError"),
        (JUDGE, "evaluation.csv", b"", "EmptyDataError"),
        (DRAW, "evaluation.csv", b"\xff\xfe\x00\x80", "UnicodeDecodeError"),
        (JUDGE, "evaluation.csv", b"\xff\xfe\x00\x80", "UnicodeDecodeError"),
        (JUDGE, "evaluation.csv", b"PK\x03\x04\n", "no column 'run'"),
        (DRAW, "paper.csv", b"a\n1,2\n1,2,3\n", "ParserError"),
        (JUDGE, "manifests.jsonl", b'{"id": "cut of', "Line 1 of "),
        (JUDGE, "manifests.jsonl", b"\xff\n", "UnicodeDecodeError"),
        (JUDGE, "manifests.jsonl", b"[1]\n", "no table of names"),
    ],
)
def test_a_broken_table_is_told_in_one_sentence_that_names_it(
    words, file, content, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    before = {"costs.csv": b"what was collected", file: content}
    for name, held in before.items():
        (tmp_path / name).write_bytes(held)
    status, err = spoken([*words, "--data", str(tmp_path)], monkeypatch, capsys)
    assert status == 1
    assert err.startswith("hardlab: ") and err.count("\n") == 1 and str(tmp_path / file) in err and message in err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_told_in_one_sentence_and_a_file_in_its_place_stays(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "epochs.csv").write_text("x\n")
    (tmp_path / "file").write_text("a reader's own")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/x")):
        words = ["figures", "hvs_f1", "--data", str(tmp_path / "data"), "--out", str(out)]
        status, err = spoken(words, monkeypatch, capsys)
        assert status == 1
        assert err.startswith(f"hardlab: '{out}' cannot be created (") and err.count("\n") == 1
        if out != Path("/proc/x"):  # told before anything is collected
            assert "cannot be created" in spoken([*words, "--from", str(tmp_path)], monkeypatch, capsys)[1]
    assert (tmp_path / "file").read_text() == "a reader's own"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "file"]


def test_a_run_trains_is_evaluated_and_is_found_again_from_the_command_line(tmp_path):
    where = ["--runs", str(tmp_path)]
    first = call("pretrain", "simsiam-hvs", *QUICK, *where)
    assert first.exit_code == 0, first.output
    path = first.output.strip().splitlines()[-1]
    assert run_folder.manifest(tmp_path / path.rsplit("/", 1)[1])["state"] == "done"
    rows = json.loads(call("evaluate", path, "--protocol", "knn", "--pixels", "--json").output)
    assert {r["features"] for r in rows} == {"backbone", "pixels"}
    assert all(0 <= r["value"] <= 1 and r["run"] in path for r in rows)
    again = call("pretrain", "simsiam-hvs", *QUICK, *where, "--json")
    assert json.loads(again.output[again.output.index("{") :])["state"] == "done"


def test_the_protocols_are_listed_with_their_published_settings_and_users():
    from hardlab.evaluate.published import PROTOCOLS

    plain = call("evaluate", "--list").output
    for name, protocol in PROTOCOLS.items():
        assert f"{name}: {protocol.used_by}" in plain
    assert "optimizer=sgd, lr=30, batch_size=256, epochs=100" in plain
    assert json.loads(call("evaluate", "--list", "--json").output)["semi-hexa-1"]["head_lr"] == 1.0


def test_an_evaluation_takes_settings_data_and_checkpoints(tmp_path):
    path = call("pretrain", "simsiam", *QUICK, "--runs", str(tmp_path)).output.strip().splitlines()[-1]
    words = ["--protocol", "linear", "--set", "epochs=2", "--set", "lr=1e-1", "--data", "digits", "--checkpoint", "all"]
    rows = json.loads(call("evaluate", path, *words, "--json").output)
    assert rows[0]["options"]["epochs"] == 2 and rows[0]["options"]["lr"] == 0.1 and rows[0]["step"] == 2
    plain = call("evaluate", path, *words).output
    assert [r["metric"] for r in rows] == [line.split()[-2] for line in plain.splitlines()] and "digits" in plain


def test_a_folder_that_is_no_run_is_told_in_one_sentence_with_exit_2(tmp_path):
    status, _, err = process("evaluate", str(tmp_path))
    assert status == 2
    assert "is not a run" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_an_unfinished_run_is_not_evaluated(tmp_path):
    path = call("pretrain", "simsiam", *QUICK, "--runs", str(tmp_path)).output.strip().splitlines()[-1]
    manifest = tmp_path / path.rsplit("/", 1)[1] / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"done"', '"stopped"'))
    status, _, err = process("evaluate", path)
    assert status == 1
    assert "not finished" in err


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "simsiam", "data=digits", "batch_size=1e2", "optim.lr=1e-3"],
        ["nb", "run", "01_pretrain"],
        ["figures", "hvs_f3", "--data", str(ROOT / "figures" / "data")],
    ],
)
def test_a_dry_run_speaks_json_and_leaves_no_trace(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*words, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)
    assert list(tmp_path.iterdir()) == []


def test_a_setting_takes_a_bare_name_and_numbers_with_an_exponent():
    written = json.loads(call("pretrain", "simsiam", "data=digits", "batch_size=1e2", "--dry-run", "--json").output)
    assert written["data"]["name"] == "digits"
    assert written["batch_size"] == 100


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from hardlab.cli import cli; cli(['-h'], standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_lab_opens_jupyterlab_on_the_first_notebook_and_hands_options_on(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(cli.os, "execv", lambda program, words: started.append(words))
    assert call("lab", "--no-browser").exit_code == 0
    assert started[0][1:3] == ["-m", "jupyterlab"] and started[0][-1] == "--no-browser"
    assert f"--ServerApp.root_dir={ROOT}" in started[0]
    assert "--LabApp.default_url=/lab/tree/notebooks/00_quickstart.ipynb" in started[0]
    assert call("lab", f"--ServerApp.root_dir={tmp_path}").exit_code == 0
    assert [word for word in started[1] if "root_dir" in word] == [f"--ServerApp.root_dir={tmp_path}"]
    monkeypatch.setattr("hardlab.workbook.execute.NOTEBOOKS", tmp_path)
    outside = call("lab")
    assert outside.exit_code == 2 and "clone it first" in outside.output and len(started) == 2


def test_what_is_no_run_is_not_watched(tmp_path):
    refused = call("watch", str(tmp_path))
    assert refused.exit_code == 2 and "is not a run" in refused.output


def test_processes_that_cannot_share_a_batch_are_refused_and_nothing_is_written(tmp_path):
    words = ["pretrain", "moco", "batch_size=9", "method.groups=3", "method.queue=9", "--runs", str(tmp_path / "runs")]
    done = call(*words, "--devices", "2", "--device", "cpu")
    assert done.exit_code == 2 and "batch_size=9 does not split into equal parts for 2 processes" in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["--resume", "--every"])
def test_a_comparison_of_processes_needs_their_number(flag):
    done = call("doctor", flag)
    assert done.exit_code == 2 and f"{flag} needs --parallel N" in done.output
