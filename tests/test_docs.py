"""Every command, script and plan in README, CONTRIBUTING and docs/, executed in a folder outside the checkout.

``ADDED`` names each command of the pages and the words that a test adds to it, so that it trains for a second or only
says what it would do. A command that a page adds, changes or drops makes the first test fail.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from run_folders import folder_of
from small_runs import small_run

import hardlab
from hardlab import build, cli, recipes, registry, train
from hardlab.errors import HardlabError
from hardlab.needs import Setting
from hardlab.workbook import campaign_plan, export

ROOT = Path(__file__).resolve().parents[1]
PAGES = {p.name: p.read_text(encoding="utf-8") for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")),
                                                         ROOT / "CONTRIBUTING.md")}  # fmt: skip
pytestmark = pytest.mark.usefixtures("registered")
TOOLS = ("hardlab", "python", "python3", "make", "pip", "conda")

TINY = "data=digits data.fraction=0.1 epochs=1 batch_size=32 backbone.width=4 precision=fp32"
HELP = "--help"  # a page names the command alone, or what it does is tested elsewhere and takes minutes
DRY = "--dry-run"  # all of it is checked, nothing is trained
DETECTION = "--set iterations=2 --set steps=[] --set train=2 --set test=2 --set side=48"
BY_MAKE = ("reproduce", "test", "test-fast", "test-browser", "install", "help", "bench", "lint", "format", "lock")

ADDED: dict[str, str] = {
    # README
    "hardlab doctor": "",
    "hardlab doctor --matrix": "",
    "hardlab pretrain --list": "",
    "hardlab pretrain simsiam-hvs --rung smoke seed=1": TINY,
    "hardlab pretrain simsiam-hvs hard.hvs.draws=8 --dry-run": "",
    "hardlab pretrain RECIPE --rung cpu epochs=10 seed=0": TINY,
    "hardlab pretrain simclr-hvs --data FOLDER": "epochs=1 backbone.width=4",
    "hardlab watch runs/<id>": "--tensorboard events",
    "hardlab watch --tensorboard": HELP,
    "hardlab evaluate --list": "",
    "hardlab evaluate runs/<id> --protocol knn --protocol svm": "",
    "hardlab evaluate runs/<id> --protocol detection": DETECTION,
    "hardlab evaluate RUN --protocol detection": DETECTION,
    "hardlab lab": "--version",
    "hardlab nb list": "",
    "hardlab nb run 01_pretrain recipe=simclr-hvs rung=smoke": DRY,
    "hardlab figures --list": "",
    "hardlab figures hvs_f3": "",
    "hardlab figures hardness transfer": "",
    "hardlab check my_strategy.py": "",
    "hardlab reproduce --dry-run": "",
    "hardlab reproduce --rung smoke": DRY,
    "hardlab reproduce --rung cpu --claims epochs=10": DRY,
    "HARDLAB_DATA=<folder with the archive> hardlab reproduce --rung cpu": DRY,
    "hardlab claims --why": "",
    "hardlab campaign cpu --budget 6h": DRY,
    "hardlab report --paper hvs": "",
    "hardlab runs list": "",
    "hardlab explore RUN": "",
    "hardlab export": HELP,
    "hardlab export --onnx": HELP,
    "hardlab export runs/<id>": "",
    "hardlab bundle runs/<id>": "",
    "pip install -e .": "--dry-run --no-deps --no-build-isolation --quiet",
    "conda env create -f environment.yml": "",
    "conda activate hardlab": "",
    # docs/adding.md
    "hardlab pretrain simsiam-confident --code my_strategy.py": TINY,
    "hardlab pretrain mymethod --code my_method.py": TINY,
    "hardlab pretrain simsiam hard=[hvs]": DRY,
    "hardlab pretrain moco-adversarial": DRY,
    "hardlab pretrain hexa-moco hard=[adversarial,hvs]": DRY,
    "hardlab pretrain simsiam-hvs method=byol": DRY,
    "hardlab pretrain simsiam-hvs hard.hvs.draws=3": DRY,
    "hardlab evaluate RUN --code my_strategy.py": "--protocol knn",
    "python tests/test_golden.py NAME": "",
    # docs/architecture.md
    "hardlab check": HELP,
    "hardlab watch": HELP,
    "hardlab reproduce": DRY,
    "hardlab runs": HELP,
    "hardlab figures": HELP,
    "hardlab claims": "",
    "python -m benchmarks reproduce": HELP,
    "python -m hardlab.process": HELP,
    # docs/campaign.md, docs/gpu.md
    "hardlab campaign": HELP,
    "hardlab campaign PLAN": DRY,
    "hardlab campaign cpu --dry-run": "",
    "hardlab campaign cpu --budget 6h --jobs 2": DRY,
    "hardlab claims --data out/campaign/data": "",
    "hardlab figures --all --from out/campaign/runs --add": DRY,
    "hardlab figures --all --from runs --add": DRY,
    "python -m benchmarks.lease": HELP,
    "python -m benchmarks.lease prepare --data PATH/cifar10-jpeg.tar.xz": HELP,
    "python3 -m benchmarks.lease run --out DIR": HELP,
    "python -m benchmarks.lease merge DIR/*.tar.gz": HELP,
    # docs/data.md, docs/explore.md
    "hardlab pretrain simclr-hvs --data ~/photos": "epochs=1 backbone.width=4",
    "hardlab pretrain simclr-hvs --data ~/photos epochs=50 augment.size=48": DRY,
    "hardlab explore runs/simclr-hvs-smoke-s0-...": "",
    "hardlab explore RUN [RUN ...]": "",
    # docs/runs.md
    "hardlab runs list --sort size": "",
    "hardlab runs show simsiam-hvs": "",
    "hardlab runs compare RUN OTHER": "",
    "hardlab runs prune --state failed": DRY,
    "hardlab runs prune RUN --weights": DRY,
    "hardlab export RUN": "",
    "hardlab export RUN --features parquet": "",
    "hardlab export RUN --onnx": DRY,
    "hardlab bundle RUN OTHER": "",
    # docs/tuning.md, docs/verdicts.md, docs/results.md
    "python -m benchmarks.tune RECIPE KEY=VALUE ...": HELP,
    "python -m benchmarks.tune --page": HELP,
    "hardlab claims --freeze REASON": HELP,
    "hardlab report --readme": DRY,
    # CONTRIBUTING
    "make lock UPGRADE=numpy": "",
    "make lock UPGRADE=all": "",
    **{f"make {target}": "" for target in BY_MAKE},
}
LEAVES = {  # what a command leaves behind, beside what it says
    "hardlab evaluate runs/<id> --protocol knn --protocol svm": "{run}/results.jsonl",
    "hardlab figures hvs_f3": "figures/hvs_f3.svg figures/hvs_f3.png",
    "hardlab report --paper hvs": "out/reports/report-hvs.html out/reports/report-hvs.tex",
    "hardlab explore RUN": "{run}/explorer.html",
    "hardlab export RUN": "{run}/export/README.md",
    "hardlab export RUN --features parquet": "{run}/export/features.parquet",
    "hardlab bundle RUN OTHER": "bundle.tar.gz",
}
SLOW = ("python tests/test_golden.py", "hardlab reproduce", "hardlab doctor --matrix", "hardlab figures hardness")


def spoken(page: str) -> set[str]:
    """The commands of a page, in blocks and in the text, without comments and with single spaces."""
    blocks = re.findall(r"```console\n(.*?)```", page, re.S)
    lines = [line.split(" #")[0] for block in blocks for line in block.splitlines()]
    text = re.sub(r"```.*?```", "", page, flags=re.S)
    spans = [s for s in re.findall(r"`([^`]+)`", text) if re.match(rf"(\w+=\S.* )?({'|'.join(TOOLS)})\s", s)]
    return {" ".join(command.split()) for command in lines + spans} - {""}


def test_the_table_names_every_command_of_the_pages_and_no_other() -> None:
    commands = set().union(*map(spoken, PAGES.values()))
    assert commands == set(ADDED)


def fences(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.S)


def named(page: str) -> dict[str, str]:
    """The files of a page: blocks of Python whose first line is a comment with their name."""
    blocks = [(block, re.match(r"# (\w+\.py)\n", block)) for block in fences(page, "python")]
    return {name[1]: block for block, name in blocks if name}


METHOD = """
from hardlab.methods.simsiam import SimSiam


class MyMethod(SimSiam):
    \"\"\"SimSiam under another name.\"\"\"
"""


class Desk(NamedTuple):
    """A reader's folder, a run in it that was trained, and one that was only made."""

    folder: Path
    run: Path
    other: Path


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """What the pages take for granted: two runs, photographs, files of code, and the results of a campaign."""
    folder = tmp_path_factory.mktemp("own")
    run = train.train(small_run("simsiam-hvs", epochs=1), folder / "runs")
    other = folder_of(folder / "runs", "simsiam", 0, 0.5)
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / "photos" / f"{i}.png")
    (folder / "my_strategy.py").write_text(named("adding.md")["my_strategy.py"])
    (folder / "my_method.py").write_text(METHOD)
    (folder / "plan.yaml").write_text(fences("campaign.md", "yaml")[0])
    (folder / "out" / "campaign").mkdir(parents=True)
    (folder / "out" / "campaign" / "data").symlink_to(ROOT / "figures" / "data")
    (folder / "out" / "campaign" / "runs").symlink_to(folder / "runs")
    return Desk(folder, run, other)


def command_of(spoken: str, desk: Desk) -> tuple[dict[str, str], list[str]]:
    """A command as a reader types it, with the words of ``ADDED``: its variables, and its words."""
    text = re.sub(r" \[.*?\]", "", spoken) if spoken.startswith("hardlab explore") else spoken
    text = text.replace("<folder with the archive>", "photos")
    put = {
        **dict.fromkeys(("RUN", "runs/<id>", "runs/simclr-hvs-smoke-s0-..."), str(desk.run)), "OTHER": str(desk.other),
        "FOLDER": "photos", "RECIPE": "simsiam", "NAME": "simsiam", "PLAN": "plan.yaml",
    }  # fmt: skip
    if spoken.startswith("hardlab runs"):
        put["simsiam-hvs"] = desk.run.name  # more runs of this recipe are there
    words = [put.get(word, word) for word in [*shlex.split(text), *shlex.split(ADDED[spoken])]]
    variables = [word for word in words if re.match("HARDLAB_[A-Z]+=", word)]
    return dict(v.split("=", 1) for v in variables), words[len(variables) :]


def answer(words: Sequence[str], folder: Path) -> tuple[int, str]:
    """The exit status and the output of a command: hardlab's in this process, others in one of their own."""
    tool, *rest = words
    if tool == "hardlab" and rest[0] != "lab":  # which replaces its process by JupyterLab
        result = CliRunner().invoke(cli.cli, rest)
        return result.exit_code, result.output
    if tool == "make":
        shown = subprocess.run(["make", "-n", *rest], cwd=ROOT, text=True, capture_output=True)
        return shown.returncode, shown.stdout + shown.stderr
    python = {"hardlab": ["-m", "hardlab"], "pip": ["-m", "pip"]}.get(tool, [])
    where = folder
    if tool == "pip" or "benchmarks" in rest[1]:
        where = ROOT
    if rest[0].startswith("tests/"):  # it writes beside itself
        shutil.copytree(ROOT / "tests", folder / "tests", dirs_exist_ok=True)
    env = os.environ | {"PYTHONPATH": str(ROOT / "tests" / "helpers")}
    done = subprocess.run([sys.executable, *python, *rest], cwd=where, env=env, text=True, capture_output=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "spoken",
    [pytest.param(c, marks=pytest.mark.slow if c.startswith(SLOW) else (), id=c) for c in ADDED],
)
def test_a_command_of_the_pages_works_outside_the_checkout(
    spoken: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    if spoken.startswith("conda "):
        about = yaml.safe_load((ROOT / "environment.yml").read_text())
        assert about["name"] == "hardlab" and spoken.split()[-1] in ("environment.yml", about["name"])
        return
    if "--onnx" in spoken:
        pytest.importorskip("onnxscript", reason="onnxscript, of the extra onnx, is not installed")
    variables, words = command_of(spoken, desk)
    monkeypatch.chdir(desk.folder)
    for name, value in ({"HOME": str(desk.folder)} | variables).items():
        monkeypatch.setenv(name, value)
    status, output = answer(words, desk.folder)
    assert status == 0, output
    for path in LEAVES.get(spoken, "").format(run=desk.run).split():
        assert (desk.folder / path).stat().st_size > 0
