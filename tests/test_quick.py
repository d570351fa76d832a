"""What answers at once: which command may not load which module, and options that are known without an import."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from refused import SETTINGS
from run_folders import folder_of

from hardlab import config, recipes

ROOT = Path(__file__).resolve().parents[1]
# each takes from a tenth of a second to several on a slow machine
HEAVY = ("torch", "torchvision", "numpy", "pandas", "scipy", "sklearn", "matplotlib", "pyarrow", "PIL",
         "nbformat", "papermill", "snakemake", "jinja2")  # fmt: skip
VERDICTS = ("numpy", "pandas", "pyarrow", "scipy")  # pandas loads pyarrow
REFUSED = 2

AT_ONCE = [
    ("--help", 0),
    ("--version", 0),
    *((f"{command} --help", 0) for command in (
        "pretrain", "evaluate", "nb", "nb list", "nb run", "figures", "claims", "report", "reproduce", "doctor",
        "campaign", "explore", "watch", "lab", "runs", "runs list", "runs show", "runs compare", "runs prune", "export",
        "bundle", "completion", "data", "data pack", "data check",
    )),
    ("pretrain --list", 0),
    ("pretrain --list --json", 0),
    ("pretrain", REFUSED),
    ("watch .", REFUSED),
    ("pretrain simsaim", REFUSED),
    ("pretrain simsiam --rung smoek", REFUSED),
    ("pretrain simsiam --device nonsense", REFUSED),
    ("pretrain simsiam --threads 0", REFUSED),
    ("pretrain simsiam seed", REFUSED),
    ("pretrain simsiam seed=true", REFUSED),
    ("pretrain simsiam optim.lr=-1", REFUSED),
    ("pretrain simsiam optim.larning=1", REFUSED),
    ("pretrain simsiam recipe=simclr", REFUSED),
    ("pretrain simsiam method=simsaim", REFUSED),
    ("pretrain simsiam method.temprature=0.1", REFUSED),
    ("pretrain simsiam method.layers=many", REFUSED),
    ("pretrain simsiam backbone=tinny", REFUSED),
    ("pretrain simsiam backbone.width=wide", REFUSED),
    ("pretrain simsiam hard=[hsv]", REFUSED),
    ("pretrain simsiam hard=[hvs,hvs]", REFUSED),
    ("pretrain simsiam hard.hvs.draws=3", REFUSED),
    ("pretrain simsiam hard=[adco]", REFUSED),
    ("pretrain dino-mochi --dry-run", REFUSED),
    ("pretrain simsiam hard=[hvs,iou]", REFUSED),
    ("pretrain moco hard=[adco,generated]", REFUSED),
    ("pretrain supervised hard=[iou]", REFUSED),
    ("pretrain simsiam batch_size=2001", REFUSED),
    ("pretrain simsiam augment.size=33", REFUSED),
    ("pretrain simsiam data=digits batch_size=1025 data.fraction=1 data.held_out=0.3", REFUSED),
    ("pretrain simsiam data=folder:nowhere", REFUSED),
    ("pretrain simsiam --data nowhere", REFUSED),
    ("pretrain simsiam --runs RUNS/DINO/manifest.json", REFUSED),
    ("pretrain simsiam --code nowhere.py", REFUSED),
    ("pretrain simsiam data.classes=[disk]", REFUSED),
    ("check nowhere.py", REFUSED),
    ("pretrain dino backbone=vit_micro --protocol detection", REFUSED),
    ("nb run 01_pretrain overrides=data=folder:nowhere", REFUSED),
    *((f"pretrain {words} --dry-run", REFUSED) for words in SETTINGS),
    ("nb run 01_pretrain recipe=moco overrides=batch_size=100", REFUSED),
    ("nb run 01_pretrain overrides=hard=[hcl]", REFUSED),
    ("reproduce hard=[adco] --dry-run", REFUSED),
    ("pretrain simsiam-hvs hard.hvs.viwes=3", REFUSED),
    ("pretrain simsiam-hvs hard.hvs.pick=soft", REFUSED),
    ("pretrain simsiam data.name=cifr10", REFUSED),
    ("pretrain simsiam augment=simclrr", REFUSED),
    ("pretrain simsiam augment.sise=3", REFUSED),
    ("pretrain simsiam augment.flip=2", REFUSED),
    ("race --help", 0),
    ("race --network tinny", REFUSED),
    ("race --peer solo", REFUSED),
    ("race --budget 60", REFUSED),
    ("race --device nonsense", REFUSED),
    ("race --out /proc/out", REFUSED),
    ("costs --help", 0),
    ("costs --rung paper", 0),
    ("costs --rung gpu --json", 0),
    ("costs --rung smoke", REFUSED),
    ("costs simsaim", REFUSED),
    ("costs simsiam hard=[adco]", REFUSED),
    ("bench --help", 0),
    ("bench", REFUSED),
    ("bench simsaim", REFUSED),
    ("bench untrained", REFUSED),
    ("bench simsiam execution=fast", REFUSED),
    ("bench simsiam --compare execution", REFUSED),
    ("bench simsiam --compare execution=eager,fast", REFUSED),
    ("bench simsiam --compare exection=eager,graphs", REFUSED),
    ("bench simsiam backbone.recompute=true execution=compile", REFUSED),
    ("bench simsiam --device nonsense", REFUSED),
    ("bench simsiam --steps 0", REFUSED),
    ("bench simsiam --out RUNS/DINO/manifest.json", REFUSED),
    ("bench simsiam --compare execution=eager,graphs --dry-run", 0),
    ("data pack nowhere out", REFUSED),
    ("data pack . /proc/out", REFUSED),
    ("data pack . out --threads 0", REFUSED),
    ("data check nowhere", REFUSED),
    ("pretrain simsiam data=pack:", REFUSED),
    ("evaluate --list", 0),
    ("evaluate", REFUSED),
    ("evaluate run --protocol knnn", REFUSED),
    ("evaluate run --protocol linear --set epoch=1", REFUSED),
    ("evaluate run --protocol linear --set epochs=a", REFUSED),
    ("evaluate run --checkpoint last", REFUSED),
    ("evaluate run --data cifr10", REFUSED),
    ("evaluate run --device nonsense", REFUSED),
    ("evaluate nowhere --dry-run", REFUSED),
    ("evaluate nowhere", REFUSED),
    ("evaluate RUNS/DINO --protocol detection", REFUSED),
    ("evaluate RUNS/DINO --data folder:nowhere", REFUSED),
    ("evaluate RUNS/DINO --set network=student --checkpoint 7", REFUSED),
    ("evaluate RUNS/DINO --set network=studnt", REFUSED),
    ("explore", REFUSED),
    ("explore nowhere", REFUSED),
    ("runs list --runs RUNS", 0),
    ("runs list --runs RUNS --json", 0),
    ("runs list --runs nowhere", REFUSED),
    ("runs list --runs RUNS --state runing", REFUSED),
    ("runs show simsiam --runs RUNS", 0),
    ("runs show simsam --runs RUNS", REFUSED),
    ("runs compare simsiam moco --runs RUNS", 0),
    ("runs compare simsiam --runs RUNS", REFUSED),
    ("runs prune --runs RUNS", REFUSED),
    ("runs prune simsiam --runs RUNS --dry-run", 0),
    ("runs prune simsiam --runs RUNS --weights --yes", 0),
    ("completion bash", 0),
    ("completion tcsh", REFUSED),
    ("export", REFUSED),
    ("export nowhere", REFUSED),
    ("export RUNS/DINO --network studnt", REFUSED),
    ("bundle", REFUSED),
    ("report --out nowhere", REFUSED),
    ("nb list", 0),
    ("nb run 99_nothing", REFUSED),
    ("nb run 01_pretrain seeds=1", REFUSED),
    ("nb run 01_pretrain seed=one", REFUSED),
    ("nb run 01_pretrain recipe=simsaim", REFUSED),
    ("nb run 01_pretrain overrides=optim.lr=-1", REFUSED),
    ("nb run 01_pretrain --dry-run", 0),
    ("figures --list", 0),
    ("figures", REFUSED),
    ("figures hvs_f99", REFUSED),
    ("figures hvs_f3 --add", REFUSED),
    ("figures hvs_f3 --data nowhere", REFUSED),
    ("figures hvs_f3 --from nowhere", REFUSED),
    ("report --rung smoek", REFUSED),
    ("report --out nowhere --dry-run", REFUSED),
    ("report --paper hsv", REFUSED),
    ("report --paper hvs --readme", REFUSED),
    ("report --paper hvs --dry-run", 0),
    ("reproduce bad=1", REFUSED),
    ("campaign", REFUSED),
    ("campaign cpu --budget 6", REFUSED),
    ("campaign cpu --jobs 0", REFUSED),
    ("campaign cpu --data nowhere", REFUSED),
    ("reproduce seed=1", REFUSED),
    ("reproduce data=folder:nowhere", REFUSED),
    ("reproduce --executor slrum --jobs 4", REFUSED),
    ("reproduce --jobs 4", REFUSED),
    ("reproduce --profile nowhere", REFUSED),
    ("reproduce --executor slurm", REFUSED),
    ("reproduce --executor slurm --jobs 0", REFUSED),
    ("reproduce --executor slurm --jobs 4 --cores 2", REFUSED),
    ("reproduce --executor slurm --jobs 4 --profile nowhere", REFUSED),
]  # fmt: skip
LEDGER = [
    ("claims", 0),
    ("claims hvs-simsiam-knn --why", 0),
    ("claims hvs-simsiam-k", REFUSED),
    ("claims --paper hsv", REFUSED),
    ("claims --verdict maybe", REFUSED),
    ("campaign cpuu", REFUSED),
    ("bundle simsiam --runs RUNS --out RUNS/b.tar.gz", 0),
    ("bundle simsiam --runs RUNS --out RUNS/b.tar.gz --dry-run", 0),
    ("bundle simsam --runs RUNS", REFUSED),
]


CODE = """
import contextlib, io, json, sys
from hardlab import cli
answers, seen = {}, set()
for command in json.loads(sys.argv.pop()):
    said = io.StringIO()
    sys.argv[1:] = command.split()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            cli.main()
        status = 0
    except SystemExit as e:
        status = e.code
    answers[command] = status, said.getvalue(), sorted(sys.modules.keys() - seen)
    seen |= sys.modules.keys()
print(json.dumps(answers))
"""


def answers(commands: Iterable[str]) -> dict[str, tuple[int, str, list[str]]]:
    """Commands one after the other in a process -> exit status, what it said, and the modules that came with it."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(list(commands))], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def runs(tmp_path: Path) -> str:
    """A folder of two runs, for RUNS in the commands."""
    for recipe in ("simsiam", "moco"):
        folder_of(tmp_path, recipe, 0, 0.5)
    vit = recipes.recipe("dino", "smoke", {"backbone": "vit_micro"})
    folder_of(tmp_path, "dino", 0, 0.5, config=vit.model_dump(mode="json")).rename(tmp_path / "DINO")
    return str(tmp_path)


def expected_of(commands: Iterable[tuple[str, int]], runs: str) -> dict[str, int]:
    return {command.replace("RUNS", runs): status for command, status in commands}


GPU = ("pretrain simsiam --device cuda", "evaluate RUNS --device cuda:1", "nb run 01_pretrain device=cuda")


def test_a_command_that_answers_at_once_loads_nothing_heavy(runs: str) -> None:
    expected = expected_of(AT_ONCE, runs)
    answered = answers(expected)
    assert {command: status for command, (status, _, _) in answered.items()} == expected
    assert {
        command: output for command, (status, output, _) in answered.items() if status and "Error: " not in output
    } == {}
    heavy = {command: set(modules) & set(HEAVY) for command, (_, _, modules) in answered.items()}
    assert {command: modules for command, modules in heavy.items() if modules} == {}


@pytest.mark.skipif(config.gpu_driver(), reason="with a driver, torch is asked")
def test_a_gpu_on_a_machine_without_its_driver_is_refused_without_torch(runs: str) -> None:
    for command, (status, output, modules) in answers(word.replace("RUNS", f"{runs}/DINO") for word in GPU).items():
        assert (status, "is not available" in output, set(modules) & set(HEAVY)) == (REFUSED, True, set()), command


def test_a_slurm_that_is_not_installed_is_missed_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    [(status, output, modules)] = answers(["reproduce --executor slurm --jobs 4"]).values()
    assert (status, set(modules) & set(HEAVY)) == (REFUSED, set())
    assert "needs the command 'sbatch'" in output or "pip install 'hardlab[cluster]'" in output


def test_the_ledger_of_claims_loads_tables_and_no_torch(runs: str) -> None:
    expected = expected_of(LEDGER, runs)
    answered = answers(expected)
    assert {command: status for command, (status, _, _) in answered.items()} == expected
    heavy = {command: set(modules) & set(HEAVY) - set(VERDICTS) for command, (*_, modules) in answered.items()}
    assert {command: modules for command, modules in heavy.items() if modules} == {}


def test_training_loads_no_library_of_the_workbook_or_the_analysis(tmp_path: Path) -> None:
    small = "backbone.width=8 epochs=1 batch_size=64 data.fraction=0.1 precision=fp32 --threads 1"
    [(status, output, modules)] = answers([f"pretrain simsiam-hvs {small} --runs {tmp_path}"]).values()
    assert status == 0, output
    unused = {"pandas", "scipy", "sklearn", "matplotlib", "nbformat", "papermill", "snakemake", "jinja2"}
    assert set(modules) & {*unused, "hardlab.evaluate.detection", "hardlab.evaluate.detectors"} == set()
