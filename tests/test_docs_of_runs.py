"""Every command and every line of Python in docs/runs.md, executed on a small run and a made one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from run_folders import folder_of
from small_runs import small_run

from hardlab import cli, train

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "runs.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("#")[0].split()[1:]
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.S)
    for line in block.splitlines()
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    train.train(small_run("simsiam-hvs", epochs=1), folder / "runs")
    folder_of(folder / "runs", "simsiam", 0, 0.5)
    return folder


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_of_the_page_does_what_it_says(
    words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    first, second = sorted((folder / "runs").iterdir())  # simsiam-hvs was trained, simsiam was not
    names = {"RUN": str(first), "OTHER": str(second), "simsiam-hvs": first.name}
    if "--onnx" in words:
        pytest.importorskip("onnxscript", reason="onnxscript, of the extra onnx, is not installed")
    # the other commands need the runs, and test_pretrained exports to ONNX
    extra = ["--dry-run"] if {"prune", "--onnx"} & set(words) else []
    answer = CliRunner().invoke(cli.cli, [*(names.get(word, word) for word in words), *extra])
    assert answer.exit_code == 0, answer.output
    assert words[0] != "export" or (first / "export" / "README.md").exists()
    assert words[0] != "bundle" or (folder / "bundle.tar.gz").exists()


def test_the_python_of_the_page_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    run = min(path.name for path in (folder / "runs").iterdir())
    space: dict[str, object] = {}
    exec(code.replace("<id>", run), space)
    assert space["net"].dim == 16  # type: ignore[attr-defined]


def test_the_page_tells_of_every_file_that_is_written() -> None:
    from hardlab.workbook import export

    assert all(f"`{name}`" in PAGE for name in (export.WEIGHTS, export.TORCHVISION, export.ONNX))
