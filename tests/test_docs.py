"""Every command, script and plan in README, CONTRIBUTING and docs/, executed in a folder outside the checkout.

``ADDED`` names each command of the pages and the words that a test adds to it, so that it trains for a second or only
says what it would do. A command that a page adds, changes or drops makes the first test fail.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import runpy
import shlex
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from run_folders import folder_of
from small_runs import small_run

from hardlab import build, cli, compatible, recipes, train
from hardlab.data import packs
from hardlab.errors import HardlabError
from hardlab.workbook import campaign_plan, costs, export

ROOT = Path(__file__).resolve().parents[1]
PAGES = {p.name: p.read_text(encoding="utf-8") for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")),
                                                         ROOT / "CONTRIBUTING.md")}  # fmt: skip
pytestmark = pytest.mark.usefixtures("registered")
TOOLS = ("hardlab", "python", "python3", "make", "pip", "conda")

TINY = "data=digits data.fraction=0.1 epochs=1 batch_size=32 backbone.width=4 precision=fp32"
HELP = "--help"  # a page names the command alone, or what it does is tested elsewhere and takes minutes
DRY = "--dry-run"  # all of it is checked, nothing is trained
DETECTION = "--set iterations=2 --set batch_size=2 --set steps=[] --set images=4 --set test_images=4 --set side=16"
BY_MAKE = ("reproduce", "test", "test-fast", "test-browser", "test-cluster", "test-faults", "install", "help",
           "bench", "lint", "format", "lock")  # fmt: skip

ADDED: dict[str, str] = {
    # README
    "hardlab doctor": "",
    "hardlab doctor --matrix": "",
    "hardlab pretrain --list": "",
    "hardlab pretrain simsiam-hvs --rung smoke seed=1": TINY,
    "hardlab pretrain simsiam-hvs hard.hvs.draws=8 --dry-run": "",
    "hardlab pretrain RECIPE --rung cpu seed=0": TINY,
    "hardlab pretrain simclr-hvs --data FOLDER": "epochs=1 backbone.width=4",
    "hardlab watch runs/<id>": "--tensorboard events",
    "hardlab watch --tensorboard": "events runs/<id>",
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
    "hardlab reproduce --rung cpu --claims epochs=10": f"data.fraction=1 {DRY}",  # of made sets of 5,000 images
    "HARDLAB_DATA=<folder with the archive> hardlab reproduce --rung cpu": f"data.fraction=1 {DRY}",
    "hardlab claims --why": "",
    "hardlab campaign cpu --budget 6h": DRY,
    "hardlab report --single-file": "",
    "hardlab report --paper hvs": DRY,  # tests/workbook/test_paper_report.py writes it
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
    "hardlab figures --from RUNS --add": HELP,
    # docs/campaign.md, docs/gpu.md
    "hardlab campaign": HELP,
    "hardlab campaign PLAN": DRY,
    "hardlab campaign cpu --dry-run": "",
    "hardlab claims --data out/campaign/data": "",
    "hardlab figures --all --from out/campaign/runs --add": DRY,
    "hardlab figures --all --from runs --add": DRY,
    "python -m benchmarks.lease": HELP,
    "python -m benchmarks.lease prepare --data PATH/cifar10-jpeg.tar.xz": HELP,
    "python3 -m benchmarks.lease run --out DIR": HELP,
    "python3 -m benchmarks.lease measure --out DIR": HELP,
    "python -m benchmarks.lease merge DIR/*.tar.gz": HELP,
    # docs/data.md, docs/explore.md
    "hardlab pretrain simclr-hvs --data ~/photos": "epochs=1 backbone.width=4",
    "hardlab pretrain simclr-hvs --data ~/photos epochs=50 augment.size=48": DRY,
    "hardlab explore runs/simclr-hvs-smoke-s0-...": "",
    "hardlab explore RUN [RUN ...]": "",
    "hardlab data pack IMAGENET OUT": "",
    "hardlab data check OUT": "",
    "hardlab pretrain moco --rung paper data=pack:OUT": f"augment.size=32 batch_size=16 method.queue=64 {DRY}",
    "hardlab evaluate --anew": HELP,
    "python -m benchmarks input": HELP,
    # docs/gpu.md
    "hardlab costs --rung paper": "",
    "hardlab costs adco --rung paper batch_size=512": "",
    "hardlab costs dino-resnet50 --rung paper": "batch_size=32",  # as the page says it: workbook/test_memory.py
    "hardlab costs dino-resnet50 --rung paper backbone.recompute=true": "batch_size=32",
    "hardlab bench": HELP,
    "hardlab bench simsiam-hvs --profile": DRY,
    "hardlab bench simsiam --compare execution=eager,compile,graphs": DRY,
    "hardlab bench moco --compare channels_last=true,false --out FOLDER": DRY,
    "python -m benchmarks.bench_execution --out FOLDER --seconds 60": HELP,
    "python -m benchmarks.bench_execution --page FOLDER/bench.jsonl": HELP,
    # docs/cluster.md, whose commands are read in test_docs_of_cluster.py, and docs/ranks.md
    "hardlab reproduce --executor slurm --jobs 4": HELP,
    "hardlab reproduce --rung smoke --executor slurm --jobs 4": HELP,
    "hardlab reproduce --rung smoke --executor slurm --jobs 4 --dry-run": HELP,
    "hardlab reproduce --rung gpu --executor slurm --jobs 20 --profile FOLDER": HELP,
    "hardlab doctor --parallel 2": HELP,  # tests/faults/test_14_ranks.py
    "hardlab doctor --parallel 2 --resume": HELP,
    "hardlab evaluate": HELP,
    "hardlab pretrain --devices": f"2 simclr {DRY}",
    # docs/race.md
    "hardlab race": DRY,
    "hardlab race --target 40 --budget 3m": DRY,
    "hardlab race --peer stable-pretraining": HELP,  # which is no part of the lock
    "python -m benchmarks.bench_race FOLDER": HELP,
    'python -c "from hardlab.cli import main; main()" race --seeds 1 --budget 13s --until 75s --out DIR': HELP,
    "hardlab race --out FOLDER": HELP,
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
    # docs/performance.md
    "python -m benchmarks growth": HELP,
    "python -m benchmarks processes": HELP,
    "python -m benchmarks.growth measure --device cuda --out FOLDER": HELP,
    "python -m benchmarks.growth page FOLDER/growth.json": HELP,
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
    "hardlab explore RUN": "{run}/explorer.html",
    "hardlab report --single-file": "out/smoke/report.html",
    "hardlab export RUN": "{run}/export/README.md",
    "hardlab export RUN --features parquet": "{run}/export/features.parquet",
    "hardlab bundle RUN OTHER": "bundle.tar.gz",
}
SLOW = ("python tests/test_golden.py", "hardlab reproduce", "hardlab doctor --matrix", "hardlab figures --all",
        "hardlab campaign", "HARDLAB_DATA")  # fmt: skip


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


def test_no_block_of_a_page_is_in_a_language_that_no_test_reads() -> None:
    languages = {name for page in PAGES.values() for name in re.findall(r"^ *```(\w+)", page, re.M)}
    assert languages == {"console", "python", "yaml", "bibtex"}


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
    (folder / "archive").mkdir()
    picture = (folder / "photos" / "0.png").read_bytes()
    with tarfile.open(folder / "archive" / "cifar10-jpeg.tar.xz", "w:xz", preset=0) as tar:
        for i in range(5000):
            about = tarfile.TarInfo(f"{'test' if i % 100 == 0 else 'train'}/{i % 10}/{i}.png")
            about.size = len(picture)
            tar.addfile(about, io.BytesIO(picture))
    raw = folder / "archive" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for split, count in (("train", 5000), ("t10k", 100)):
        for kind, magic, sizes in (("images-idx3", 2051, (28, 28)), ("labels-idx1", 2049, ())):
            head = struct.pack(f">{2 + len(sizes)}i", magic, count, *sizes)
            (raw / f"{split}-{kind}-ubyte").write_bytes(head + bytes(i % 10 for i in range(count * math.prod(sizes))))
    (folder / "my_strategy.py").write_text(named("adding.md")["my_strategy.py"])
    (folder / "my_method.py").write_text(METHOD)
    packs.write(folder / "photos", folder / "OUT")
    (folder / "plan.yaml").write_text(fences("campaign.md", "yaml")[0])
    (folder / "out" / "campaign").mkdir(parents=True)
    (folder / "out" / "campaign" / "data").symlink_to(ROOT / "figures" / "data")
    (folder / "out" / "smoke").mkdir()
    for place in ("campaign", "smoke"):
        (folder / "out" / place / "runs").symlink_to(folder / "runs")
    return Desk(folder, run, other)


def command_of(spoken: str, desk: Desk) -> tuple[dict[str, str], tuple[str, ...]]:
    """A command as a reader types it, with the words of ``ADDED``: its variables, and its words."""
    text = re.sub(r" \[.*?\]", "", spoken) if spoken.startswith("hardlab explore") else spoken
    text = text.replace("<folder with the archive>", "archive")
    put = {
        **dict.fromkeys(("RUN", "runs/<id>", "runs/simclr-hvs-smoke-s0-..."), str(desk.run)), "OTHER": str(desk.other),
        "FOLDER": "photos", "IMAGENET": "photos", "RECIPE": "simsiam", "NAME": "simsiam", "PLAN": "plan.yaml",
    }  # fmt: skip
    if spoken.startswith("hardlab runs"):
        put["simsiam-hvs"] = desk.run.name  # more runs of this recipe are there
    words = [put.get(word, word) for word in [*shlex.split(text), *shlex.split(ADDED[spoken])]]
    variables = [word for word in words if re.match("HARDLAB_[A-Z]+=", word)]
    return dict(v.split("=", 1) for v in variables), tuple(words[len(variables) :])


def helped(words: list[str]) -> tuple[int, str]:
    """The exit status and the help of a module that is run, in this process, where torch is loaded already."""
    module = words[0]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as text:
        patch.setattr(sys, "argv", words)
        patch.syspath_prepend(str(ROOT))
        patch.delitem(sys.modules, module, raising=False)  # as if nobody had imported it, of which runpy would warn
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as e:
            return int(e.code or 0), text.getvalue()
    return 0, text.getvalue()


@cache  # several pages have the same command in other words
def answer(words: tuple[str, ...], folder: Path) -> tuple[int, str]:
    """The exit status and the output of a command: hardlab's in this process, others in one of their own."""
    tool, *rest = words
    if tool == "hardlab" and rest[0] != "lab":  # which replaces its process by JupyterLab
        result = CliRunner().invoke(cli.cli, rest)
        return result.exit_code, f"{result.output}{result.exception or ''}"
    if tool == "make":
        shown = subprocess.run(["make", "-n", *rest], cwd=ROOT, text=True, capture_output=True)
        return shown.returncode, shown.stdout + shown.stderr
    if rest[0] == "-m" and rest[-1] == HELP:
        return helped(rest[1:])
    in_python = {
        "hardlab": ["-c", "from hardlab.cli import main; main()"],
        "pip": ["-m", "pip"],
        "python": [],
        "python3": [],
    }
    program = [sys.executable, *in_python[tool]] if tool in in_python else [shutil.which(tool) or ""]
    if program == [""]:
        pytest.skip(f"{tool} is not installed")
    where = ROOT if tool == "pip" or any("benchmarks" in word for word in rest) else folder
    if rest[0].startswith("tests/"):  # it writes beside itself
        shutil.copytree(ROOT / "tests", folder / "tests", dirs_exist_ok=True)
    env = os.environ | {"PYTHONPATH": str(ROOT / "tests" / "helpers")}
    done = subprocess.run([*program, *rest], cwd=where, env=env, text=True, capture_output=True)
    return done.returncode, done.stdout + done.stderr


@cache
def speed(calibrate: Callable[[str], costs.Rates | None] = costs.calibrate) -> costs.Rates | None:
    """The rates of this machine, measured once: at what rung makes no difference to what a page can say."""
    return calibrate("smoke")


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
    monkeypatch.setattr(costs, "calibrate", lambda rung: speed())
    variables, words = command_of(spoken, desk)
    monkeypatch.chdir(desk.folder)
    for name, value in ({"HOME": str(desk.folder), "HARDLAB_DATA": "archive"} | variables).items():
        monkeypatch.setenv(name, value)
    status, output = answer(words, desk.folder)
    assert status == 0, output
    for path in LEAVES.get(spoken, "").format(run=desk.run).split():
        assert (desk.folder / path).stat().st_size > 0


def run_script(text: str, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a script of a page defines, in the reader's folder, with the path of a run where it says ``runs/<id>``."""
    monkeypatch.chdir(desk.folder)
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(re.sub(r"runs/(<id>|[\w-]+-\.\.\.)", str(desk.run), text), space)
    return space


def test_the_scripts_of_the_pages_are_those_that_the_tests_below_run() -> None:
    counts = {page: len(fences(page, "python")) for page in PAGES if page != "architecture.md"}  # signatures alone
    assert {page: n for page, n in counts.items() if n} == {"README.md": 1, "adding.md": 4, "data.md": 1, "runs.md": 1}


def test_the_query_of_the_readme_gives_a_percentile_for_each_recipe(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text,) = fences("README.md", "python")
    *lines, last = text.strip().splitlines()
    space = run_script("\n".join([*lines, f"answer = {last}"]), desk, monkeypatch)
    assert 0 <= space["answer"]["simsiam-hvs"] <= 100


def test_the_log_of_the_page_on_data_has_file_names(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = fences("data.md", "python")
    *lines, last = text.strip().splitlines()
    space = run_script("\n".join([*lines, f"hardest = {last}"]), desk, monkeypatch)
    assert len(space["hardest"]) == 10 and space["hardest"].is_monotonic_decreasing


def test_the_network_of_the_page_on_runs_is_loaded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = fences("runs.md", "python")
    assert run_script(text, desk, monkeypatch)["net"].dim == 16


def test_the_page_on_runs_tells_of_every_file_that_is_written() -> None:
    assert all(f"`{name}`" in PAGES["runs.md"] for name in (export.WEIGHTS, export.TORCHVISION, export.ONNX))


def test_the_script_of_the_page_on_adding_trains_the_strategy_above_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The class and the lines that train it in one file; the run is then evaluated with that file as its code."""
    (below,) = [text for text in fences("adding.md", "python") if text.startswith("if __name__")]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    small = below.replace('"simsiam")', '"simsiam", "smoke", TINY)')
    assert small != below
    sizes = dict(pair.split("=") for pair in [*TINY.split(), "seed=7"])
    script = desk.folder / "my_script.py"
    script.write_text(f"import hardlab\n\n{named('adding.md')['my_strategy.py']}\n\nTINY = {sizes}\n{small}")
    done = subprocess.run([sys.executable, script], cwd=desk.folder, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    (run,) = (desk.folder / "runs").glob("simsiam-confident-smoke-s7-*")
    status, output = answer(("hardlab", "evaluate", str(run), "--protocol", "knn", "--code", str(script)), desk.folder)
    assert status == 0 and "knn" in output, output


def test_the_rule_of_the_page_on_adding_refuses_settings_of_the_run(tmp_path: Path) -> None:
    (method,) = [text for text in fences("adding.md", "python") if "check_run" in text]
    body = named("adding.md")["my_strategy.py"].replace(
        "from hardlab.hard.base import Hard",
        "from hardlab.errors import HardlabError\nfrom hardlab.hard.base import Hard",
    )
    (tmp_path / "rule_code.py").write_text(f"{body}\n{method}")
    build.load(tmp_path / "rule_code.py")
    run = recipes.recipe("simclr-confident", "smoke", {"batch_size": 16, "hard.confident.weight": 16})
    compatible.check(run)
    with pytest.raises(HardlabError, match="at most the batch size, 16"):
        compatible.check(run.with_({"hard.confident.weight": 17}))


def test_the_plan_of_the_page_on_campaigns_is_read_as_it_says(desk: Desk) -> None:
    (stage,) = campaign_plan.read(str(desk.folder / "plan.yaml"))
    said = yaml.safe_load(fences("campaign.md", "yaml")[0])
    assert (stage.rung, list(stage.claims), stage.seeds) == (said["rung"], said["claims"], said["seeds"])


@pytest.mark.slow
def test_a_wheel_brings_the_tables_that_claims_and_figures_start_from(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "installed")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = "import hardlab.cli; print(hardlab.cli._collected()); hardlab.cli.main()"
    claim = ["claims", "hvs-dino-linear", "--json"]
    env = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run([sys.executable, "-c", code, *claim], cwd=elsewhere, env=env, text=True, capture_output=True)
    where, _, answer = done.stdout.partition("\n")
    assert Path(where) == tmp_path / "installed" / "hardlab" / "tables", done.stderr
    here = CliRunner().invoke(cli.cli, [*claim, "--data", str(ROOT / "figures" / "data")])
    assert json.loads(answer) == json.loads(here.output)
