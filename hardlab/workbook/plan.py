"""The steps of the workbook at a rung: the purpose, inputs, outputs and commands of each.

`reproduce` writes the plan to ``plan.json`` in the rung's folder, and the Snakefile makes one rule of each step. So
values with quotes and spaces reach a command unchanged, here and on a cluster.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from hardlab import compatible, config, recipes
from hardlab import data as sets
from hardlab.analysis import claims
from hardlab.analysis.arms import reaches
from hardlab.analysis.schema import FILES
from hardlab.config import Run
from hardlab.errors import HardlabError
from hardlab.figures import FIGURES
from hardlab.stopping import SIGNALS, STOPPED
from hardlab.workbook import execute

Arm = tuple[str, tuple[str, ...]]  # a recipe with overrides
SEEDS = {"smoke": 1, "cpu": 3, "gpu": 3, "paper": 3}
# recipe -> its purposes in the workbook: names of figures, or words
PURPOSES: dict[str, tuple[str, ...]] = {
    "simsiam": ("hvs_f2", "hvs_f3", "hvs_f7"),
    "simsiam-hvs": ("hvs_f2", "hvs_f3", "hvs_f4", "hvs_f9"),
    "simsiam-hvs-static": ("hvs_f4",),
    "simclr": ("hvs_f3", "hvs_t9", "ppcl_t1"),
    "simclr-hvs": ("hvs_f3", "hvs_t9"),
    "untrained": ("what every trained network has to beat",),
    "adco-queue": ("adco_f1", "adco_f2", "adco_t1"),
    "adco": ("adco_f1", "adco_f2", "adco_t1"),
    "ppcl": ("ppcl_f1", "ppcl_f6", "ppcl_t1"),  # its parent, the GAN, is trained with it
    "moco": ("hexa_f1", "hexa_t1"),
    "hexa-moco": ("hexa_f1", "hexa_t1"),
    "hexa-plus-moco": ("hexa_f1", "hexa_t1"),
    "hnssl": ("hnssl_f2", "hnssl_f3"),
    "hnssl-unmined": ("hnssl_f3",),
    "hnssl-student-gradient": ("hnssl_f2",),
}
NEGATIVES = ("adco-queue", "adco")
HEXA = ("moco", "hexa-moco", "hexa-plus-moco")
HNSSL = ("hnssl", "hnssl-unmined", "hnssl-student-gradient")
# (protocol, data set or "" for the protocol's own)
ALWAYS = {("knn", ""), ("linear-lbfgs", ""), ("linear", "")}
# notebook -> recipes whose runs it reads, None = all; its parameters besides rung and runs_dir; its topic
NOTEBOOKS: dict[str, tuple[tuple[str, ...] | None, str]] = {
    "00_quickstart": ((), "what a hard pair is, on one batch"),
    "01_pretrain": (None, "the runs and their losses"),
    "02_evaluate": (None, "the evaluation protocols"),
    "03_view_iou": (None, "overlap of the selected views"),
    "04_fanova": (("simsiam-hvs",), "importance of the views' parameters"),
    "05_negatives_tsne": (NEGATIVES, "learned negatives against a queue"),
    "06_gan_evolution": (("ppcl",), "generated images over training"),
    "07_hexa": (HEXA, "adversarial and cut-mixed views"),
    "08_hnssl": (HNSSL, "mined negatives"),
    "09_results": (None, "all results beside the published ones"),
    "10_your_images": ((), "which images of a folder are hard"),
    "11_your_strategy": ((), "a strategy of one's own"),
}


class Training(NamedTuple):
    """A run that a step trains, and its number of training steps."""

    run: str
    recipe: str
    steps: int


@dataclass(frozen=True)
class Step:
    """One step: ``shell`` makes ``outputs`` from ``inputs``, paths relative to the rung's folder, or absolute.

    name: of the rule and the log.
    kind: run, notebook, figures or report.
    commands: argument lists after `hardlab`.
    trains: the runs that it trains, a parent before its child.
    """

    name: str
    kind: str
    title: str
    purpose: str
    commands: tuple[tuple[str, ...], ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    threads: int = 1
    gpu: int = 0
    trains: tuple[Training, ...] = ()

    @property
    def run(self) -> str | None:
        """The id of the run that the step makes."""
        return self.trains[-1].run if self.trains else None

    @property
    def log(self) -> str:
        return f"logs/{self.name}.log"

    @property
    def failed(self) -> str:
        """The file that records a failure of the step."""
        return f"logs/{self.name}.failed"

    @property
    def shell(self) -> str:
        """The command line; it records a failure in ``failed``, and creates an output that no command writes.

        A stop is no failure: an engine that retries goes on from there. What failed, it does not repeat.
        """
        program = shlex.quote(str(Path(sys.executable).with_name("hardlab")))
        lines = " && ".join(f"{program} {shlex.join(words)}" for words in self.commands)
        log, failed = shlex.quote(self.log), shlex.quote(self.failed)
        end = f"touch {shlex.quote(self.outputs[0])}" if self.kind == "run" else ":"
        asked = "|".join(map(str, (STOPPED, *(128 + number for number in SIGNALS))))  # the latter before it listens
        lasting = f"s=$?; case $s in {asked}) ;; *) echo $s > {failed} ;; esac; exit 1"
        return f"if [ -e {failed} ]; then exit 1; elif {{ {lines}; }} > {log} 2>&1; then {end}; else {lasting}; fi"


def steps(rung: str, overrides: Sequence[str] = (), with_claims: bool = False) -> list[Step]:
    """The steps of a rung, each after those that it needs.

    overrides: key=value for every run except the untrained one; an arm that sets the same key keeps its own value.
    with_claims: include the arms of all claims that this rung can test.
    """
    # on the small rungs two runs side by side get more done than two threads in one; the large ones wait for a GPU
    place = {"threads": 1} if rung in ("smoke", "cpu") else {"threads": 8, "gpu": 1}
    made = _runs(rung, overrides, with_claims, place)
    ready = tuple(s.outputs[0] for s in made)
    recipe_of = {s.outputs[0]: s.title.partition(",")[0] for s in made}
    tables = tuple(f"data/{name}.csv" for name in FILES)
    figures = Step(
        name="figures",
        kind="figures",
        title="figures",
        purpose=f"all {len(FIGURES)} figures and their tables",
        commands=(("figures", "--all", "--from", "runs", "--data", "data", "--out", "figures"),),
        inputs=ready,
        outputs=(*tables, *(f"figures/{f}.{kind}" for f in FIGURES for kind in ("svg", "png"))),
    )
    made.append(figures)
    for name, (reads, shows) in NOTEBOOKS.items():
        own = _parameters(name, rung)
        words = ("nb", "run", name, *(f"{k}={v}" for k, v in own.items()), "--out", "notebooks", "--force")
        needs = ready if reads is None else tuple(o for o in ready if recipe_of[o] in reads)
        if name == "09_results":
            needs = tables
        source = str(execute.NOTEBOOKS / f"{name}.ipynb")  # an edited notebook runs again
        inputs = (*needs, source)
        made.append(Step(f"nb_{name}", "notebook", name, shows, (words,), inputs, (f"notebooks/{name}.done.json",)))
    inputs = tuple(o for s in made if s.kind != "run" for o in s.outputs)
    words = ("report", "--rung", rung, "--out", ".")
    made.append(Step("report", "report", "report", "one page with all of it", (words,), inputs, ("report.html",)))
    return made


def check(rung: str, overrides: Sequence[str] = (), with_claims: bool = False) -> None:
    """Raise HardlabError for runs that cannot be trained, before the first one starts.

    Without overrides only their images are checked, since tests build every unchanged recipe.
    """
    runs = [
        recipes.recipe(name, rung, config.parse(_pairs(name, rung, 0, overrides, pairs)))
        for name, pairs in _arms(rung, with_claims)
    ]
    for run in runs:
        compatible.check(run)
    from hardlab import build

    checked: set[config.Data] = set()
    with build.reading_once():
        for run in sorted(runs, key=lambda run: run.data.model_dump_json()):
            if overrides:
                build.check(run)
                build.check_images(run)
            elif run.data not in checked and run.data.name not in sets.BUILT_IN:
                build.check_images(run)
            checked.add(run.data)


def _arms(rung: str, with_claims: bool) -> dict[Arm, set[tuple[str, str]]]:
    """The arms to train, each with its evaluations."""
    arms: dict[Arm, set[tuple[str, str]]] = {(name, ()): set(ALWAYS) for name in PURPOSES}
    for arm, measures in claims.needed(rung).items() if with_claims else ():
        arms[arm] = arms.get(arm, set(ALWAYS)) | measures
    return arms


def _runs(rung: str, overrides: Sequence[str], with_claims: bool, place: Mapping[str, int]) -> list[Step]:
    """One step per run, which is trained and then evaluated in the same process."""
    arms = _arms(rung, with_claims)
    wanted_by: dict[Arm, list[str]] = {}
    if with_claims:
        for claim in claims.load():
            for named in claim.arms if reaches(rung, claim.testable_from) else ():
                wanted_by.setdefault((named.recipe, claim.overrides(named, rung)), []).append(claim.id)
    # if several arms are the same run, as `ppcl` and `ppcl` with its own share, the first names it
    runs: dict[str, tuple[Run, Arm, list[str]]] = {}
    measured: dict[str, set[tuple[str, str]]] = {}
    purposes: dict[str, list[str]] = {}
    ids: dict[str, list[str]] = {}
    for (name, arm_pairs), measures in arms.items():
        for seed in range(SEEDS[rung]):
            pairs = _pairs(name, rung, seed, overrides, arm_pairs)
            # a changed recipe has another id, so its runs are missing and nothing else is
            run = recipes.recipe(name, rung, config.parse(pairs))
            runs.setdefault(run.id, (run, (name, arm_pairs), pairs))
            measured.setdefault(run.id, set()).update(measures)
            purposes.setdefault(run.id, []).extend(
                [_purpose(PURPOSES[name])] if name in PURPOSES and not arm_pairs else []
            )
            ids.setdefault(run.id, []).extend(wanted_by.get((name, arm_pairs), []))
    steps: list[Step] = []
    parents: set[str] = set()
    for key, (run, (name, arm_pairs), pairs) in runs.items():
        named_by = [f"claims {', '.join(dict.fromkeys(ids[key]))}"] if ids[key] else []
        trains = [Training(key, run.recipe, training_steps(run))]
        if run.parent is not None and run.parent.id not in parents:
            parents.add(run.parent.id)
            trains.insert(0, Training(run.parent.id, run.parent.recipe, training_steps(run.parent)))
        steps.append(
            Step(
                name=re.sub(r"\W", "_", key),
                kind="run",
                title=", ".join([name, *arm_pairs, *([f"seed {run.seed}"] if SEEDS[rung] > 1 else [])]),
                purpose="; ".join([*purposes[key], *named_by]),
                commands=_commands(run, pairs, rung, measured[key], place["threads"]),
                inputs=(),
                outputs=(f"runs/{key}/evaluated.txt",),
                trains=tuple(trains),
                **place,
            )
        )
    return steps


def _pairs(name: str, rung: str, seed: int, overrides: Sequence[str], own: Sequence[str]) -> list[str]:
    own_keys = {pair.partition("=")[0] for pair in own}
    trained = recipes.recipe(name, rung).epochs > 0
    applied = [o for o in overrides if trained and o.partition("=")[0] not in own_keys]
    return [f"seed={seed}", *applied, *own]


def _commands(
    run: Run, pairs: Sequence[str], rung: str, measures: Iterable[tuple[str, str]], threads: int
) -> tuple[tuple[str, ...], ...]:
    """The command that trains and evaluates on the run's own data, then one for each further data set."""
    on: dict[str, list[str]] = {}
    for protocol, data in sorted(measures):
        on.setdefault(data, []).extend(["--protocol", protocol])
    # raw pixels do not depend on the training: they are measured once per seed
    pixels = ["--pixels"] if run.recipe == "untrained" else []
    first = ["pretrain", run.recipe, *pairs, "--rung", rung, "--runs", "runs", "--threads", str(threads)]
    lines = [(*first, *on.pop("", []), *pixels)]
    lines += [("evaluate", f"runs/{run.id}", *words, "--data", data) for data, words in on.items()]
    return tuple(lines)


def _parameters(notebook: str, rung: str) -> dict[str, str]:
    """The parameters of a notebook; paths are relative to the rung's folder."""
    if notebook == "00_quickstart":
        return {"runs_dir": "quickstart"}
    if notebook == "09_results":
        return {"data_dir": "data", "runs_dir": "runs", "out_dir": "notebooks/09_results"}
    if notebook == "10_your_images":
        return {"images_dir": "own/pictures", "runs_dir": "own/runs"}
    if notebook == "11_your_strategy":
        return {"folder": "own/strategy"}
    parameters = {"rung": rung, "runs_dir": "runs"}
    if notebook == "03_view_iou":
        parameters["out_dir"] = "notebooks/03_view_iou"
    if notebook == "04_fanova":
        parameters["rows"] = "5000" if rung == "smoke" else "300000"  # as many as the paper
    return parameters


def _purpose(names: Iterable[str]) -> str:
    """``("hvs_f2", "hvs_f3", "hvs_t9")`` -> "HVS Figures 2, 3, Table 9"."""
    parts: list[str] = []
    last = ("", "")
    for name in names:
        match = re.fullmatch(r"(\w+)_([ft])(\d+)", name)
        if match is None:
            parts.append(name)
            continue
        paper, kind, number = match.groups()
        if (paper, kind) == last:
            parts[-1] = f"{parts[-1].replace('Figure ', 'Figures ').replace('Table ', 'Tables ')}, {number}"
        else:
            word = {"f": "Figure", "t": "Table"}[kind]
            parts.append(f"{word} {number}" if paper == last[0] else f"{paper.upper()} {word} {number}")
        last = (paper, kind)
    return ", ".join(parts)


def training_steps(run: Run) -> int:
    """The number of training steps of a run without its parent's; 0 if the size of its data is unknown beforehand."""
    return run.epochs * (training_images(run.data) // run.batch_size)


def training_images(chosen: config.Data) -> int:
    """The number of training images of a run's data, from the size of a set, the files of a folder or a pack's index.

    Loads no image; 0 if the number is unknown beforehand.
    """
    if (path := sets.path_of(chosen.name)) is not None:
        from hardlab.data import folders, packs

        try:
            read = folders.read_folder if chosen.name.startswith("folder:") else packs.read_pack
            source = read(Path(path), "train")
        except HardlabError:  # the run itself refuses it
            return 0
        named = Counter("" if label < 0 else source.classes[label] for label in source.targets)
        each = [n for name, n in named.items() if chosen.classes is None or name in chosen.classes]
    else:
        each = sets.per_class(chosen.name, chosen.classes) or []
    if chosen.held_out:
        each = [n - min(max(1, int(chosen.held_out * n + 0.5)), n - 1) for n in each if n]
    return sum(int(chosen.fraction * n + 0.5) for n in each)


def missing(plan: Sequence[Step], folder: Path) -> list[Step]:
    """The steps to run, because an output is missing or older than an input, or an earlier step must run."""
    due: dict[str, Step] = {}
    maker = {o: s.name for s in plan for o in s.outputs}
    for step in plan:
        times = [(folder / o).stat().st_mtime if (folder / o).exists() else None for o in step.outputs]
        before = [(folder / i).stat().st_mtime for i in step.inputs if (folder / i).exists()]
        stale = None in times or max(before, default=0) > min(t for t in times if t is not None)
        if stale or any(maker.get(i) in due for i in step.inputs):
            due[step.name] = step
    return list(due.values())


def write(plan: Sequence[Step], file: Path, limits: Mapping[str, Mapping[str, int]] | None = None) -> None:
    """Write a plan for the Snakefile. limits: step -> its resources besides threads and GPUs, by Snakemake's names."""
    limits = limits or {}
    rows = [asdict(s) | {"log": s.log, "shell": s.shell, "limits": dict(limits.get(s.name, {}))} for s in plan]
    file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
