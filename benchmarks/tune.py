"""Chooses the settings of a base method at rung ``cpu`` on images that it does not train on.

``python -m benchmarks.tune RECIPE [KEY=VALUE ...] [--runs DIR] [--threads N]`` trains one setting, or uses the
finished run, and keeps its row in ``benchmarks/tuning.jsonl``; ``python -m benchmarks.tune --page`` writes the rows
into docs/tuning.md. The network learns from the run's share of the training split, and so do the classifiers; they are
tested on every ninth of the other training images. The test split is not read. A recipe with a strategy is accepted
with ``--strategy`` alone, to find out why a strategy does not help; such rows choose no setting of a base method.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hardlab import build, config, recipes, run_folder, train
from hardlab.analysis import claims, evidence
from hardlab.analysis.arms import LINEAR, Arm, Measure
from hardlab.config import Run
from hardlab.data import Images
from hardlab.evaluate import features, protocols
from hardlab.recipes.bases import untrained
from hardlab.types import HardlabError
from hardlab.workbook import pages

ROWS = Path(__file__).with_name("tuning.jsonl")
PAGE = Path(__file__).parents[1] / "docs" / "tuning.md"
TABLES = PAGE.parents[1] / "figures" / "data"
PICTURE = PAGE.with_name("tuning_adco.svg")
EVERY = 9  # of nine tenths of CIFAR-10, as many images as the tenth used for training
PROBES = {"probe": ("linear-lbfgs", "top1"), "knn": ("knn", "top1@k=20")}
BASES = ("simsiam", "simclr", "moco", "byol", "deepcluster", "dino", "ibot", "hnssl-unmined")
# strategies that are part of a paper's method: HNSSL's loss is over all other images
PART_OF_THE_METHOD = ("hnssl-unmined",)


def held_out(run: Run, root: str | None = None) -> tuple[Images, Images, torch.Tensor]:
    """The images that a run trains on, all training images of its set, and the rows of these to test on."""
    own, every = build.images(run, root=root), build.images(run.with_({"data.fraction": 1.0}), root=root)
    seen = set(own.names)
    rows = [i for i, name in enumerate(every.names) if name not in seen]
    if not rows:
        raise HardlabError(f"{run.recipe} at rung {run.rung} trains on all images; nothing is left to choose on.")
    return own, every, torch.tensor(rows[::EVERY])


def measure(run: Run, net: nn.Module | None, root: str | None = None) -> dict[str, float]:
    """Accuracies, in %, of a frozen network, or of raw pixels, on the held-out images."""
    own, every, rows = held_out(run, root)
    look = build.look(run)
    if net is None:
        train_f, test_f = features.pixels(own, look)[0], features.pixels(every, look)[0][rows]
    else:
        train_f, test_f = features.extract(net, own, look)[0], features.extract(net, every, look, rows=rows)[0]
    task = protocols.given(train_f, own.targets, test_f, every.targets[rows])
    out = {}
    for name, (protocol, metric) in PROBES.items():
        values = {row["metric"]: row["value"] for row in protocols.run_protocol(protocol, task, run.seed).rows}
        out[name] = round(100 * values[metric], 2)
    return out | {"n_test": len(rows)}


def tuned(
    run: Run, overrides: Mapping[str, Any], runs: Path, strategy: bool = False, root: str | None = None
) -> dict[str, Any]:
    """Train a run, or use the finished one; returns its row."""
    if run.hard and not strategy and run.recipe not in PART_OF_THE_METHOD:
        raise HardlabError(f"{run.recipe} has a strategy: settings are chosen with the baseline alone.")
    folder = train.train(run, runs, root=root)
    about = json.loads((folder / "manifest.json").read_text())
    _, method, _ = run_folder.open_run(folder)
    net = next(iter(method.networks().values()))
    about = {key: about[key] for key in ("id", "commit", "dirty", "device", "precision", "images_per_s", "steps_done")}
    row = {"recipe": run.recipe, "rung": run.rung, "seed": run.seed, "overrides": dict(overrides)} | about
    row |= measure(run, net, root)
    try:
        from hardlab.analysis import negatives  # with pandas

        table = negatives.sides(folder).round(4)
        table = table[table["step"] % (row["steps_done"] // run.epochs) == 0]  # others are from stops of the run
        row["sides"] = json.loads(table.to_json(orient="records"))
    except HardlabError:  # the run has no negatives
        pass
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row per run, in the order of the trials; raw pixels and the untrained network first."""
    lines = ["| recipe | changed from the recipe of that day | seed | steps | converged probe, % | kNN, % | run |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        changed = ", ".join(f"`{key}={config.written(value)}`" for key, value in row["overrides"].items()) or "–"
        lines.append(
            f"| {row['recipe']} | {changed} | {row['seed']} | {row['steps_done']} | {row['probe']:.2f} "
            f"| {row['knn']:.2f} | `{row['id']}` |"
        )
    return "\n".join(lines)


def confirmed(names: Iterable[str], data_dir: Path = TABLES, rung: str = "cpu") -> str:
    """Markdown: what the collected runs of these recipes reach on the test split, and whether they beat the controls.

    A seed that was trained in two precisions counts once. A control is raw pixels, or the untrained network of the same
    backbone and data.
    """
    ledger = claims.Ledger(data_dir)
    probes = dict(itertools.islice(claims.PROBES.items(), 2))  # the primary one, and the one of kNN
    head = ["recipe", "epochs", *(part for name in probes for part in (f"{name}, %", "beats both"))]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in names:
        own = [run for run, changes in ledger.book.matching(Arm(name)).items() if changes.keys() <= {"precision"}]
        own = [run for run in own if ledger.book.runs[run]["rung"] == rung]
        measured = ledger.values(Measure(where=dict(zip(("protocol", "metric"), LINEAR, strict=True))), own)
        runs = {ledger.book.runs[run]["seed"]: run for run in measured}
        if not runs:
            continue
        level = claims.level_of(ledger, name, tuple(runs.values()))
        cells = [f"`{name}`", f"{level.epochs:g}"]
        for probe, (protocol, metric) in probes.items():
            where = {"protocol": protocol, "metric": metric}
            values = list(ledger.values(Measure(where=where), runs.values()).values())
            controls = ledger.controls(Measure(where=where), ledger.book.untrained(runs.values())).values()
            beaten = [evidence.surely_above(values, control) for control in controls]
            cells += [level.by[probe].in_words(), "yes" if all(beaten) else "no"] if values else ["–", "–"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def sides(rows: list[dict[str, Any]]) -> str:
    """Markdown: both sides of the distance of each run with negatives, a row per snapshot."""
    names = {
        "negative_nearest": "negative to its nearest query",
        "query_hardest": "query to its hardest negative",
        "query_middle": "query to the middle one",
        "norm": "norm",
        "decayed": "norm by decay alone",
        "mass": "mass of the learned ones",
    }
    lines = [f"| recipe | changed | seed | step | {' | '.join(names.values())} |", "|---" * (4 + len(names)) + "|"]
    for row in rows:
        changed = ", ".join(f"`{key}={config.written(value)}`" for key, value in row["overrides"].items()) or "–"
        for at in row.get("sides", []):
            numbers = " | ".join("–" if at[name] is None else f"{at[name]:.2f}" for name in names)
            lines.append(f"| {row['recipe']} | {changed} | {row['seed']} | {at['step']} | {numbers} |")
    return "\n".join(lines)


def picture(rows: list[dict[str, Any]]) -> bytes:
    """SVG: for runs with negatives, both sides of the distance over steps, norms and decay, accuracy over mass.

    Runs of the longest training alone, since accuracy grows with it; the seeds of a setting share a colour.
    """
    from hardlab.figures import style

    longest = max((row["steps_done"] for row in rows if row.get("sides")), default=0)
    shown: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row.get("sides") and row["steps_done"] == longest:
            changed = (f"{k}={config.written(v)}" for k, v in row["overrides"].items() if k != "seed")
            shown.setdefault(" ".join([row["recipe"], *changed]), []).append(row)
    colours = (style.BLUE, style.ORANGE, style.GREEN, style.RED, style.PURPLE, style.SKY)
    with style.applied():
        figure, (near, far, norms, masses) = style.new(4.4, 2, 2)
        near.set(title="query to its hardest negative", xlabel="step", ylabel="median cosine")
        far.set(title="negative to its nearest query", xlabel="step", ylabel="median cosine")
        norms.set(title="norm; dashed: by decay alone", xlabel="step", ylabel="median norm")
        masses.set(title="accuracy over mass", xlabel="mass of the learned negatives", ylabel="converged probe (%)")
        for colour, (setting, seeds) in zip(itertools.cycle(colours), shown.items()):
            for i, row in enumerate(seeds):
                steps, last = [at["step"] for at in row["sides"]], row["sides"][-1]
                hardest = [at["query_hardest"] for at in row["sides"]]
                near.plot(steps, hardest, color=colour, label=setting if i == 0 else None)
                far.plot(steps, [at["negative_nearest"] for at in row["sides"]], color=colour)
                if last["norm"] is not None:
                    norms.plot(steps, [at["norm"] for at in row["sides"]], color=colour)
                    norms.plot(steps, [at["decayed"] for at in row["sides"]], color=colour, linestyle="--")
                masses.plot(last["mass"] or 0.0, row["probe"], "o" if last["mass"] else "x", color=colour)
        figure.legend(loc="outside upper center", ncols=2)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def page(text: str, rows: list[dict[str, Any]]) -> str:
    """docs/tuning.md with the rows between its marks."""
    base = [row for row in rows if "adco" not in row["recipe"]]
    adco = [row for row in rows if "adco" in row["recipe"]]
    blocks = {"base": table(base), "test": confirmed(BASES), "adco": table(adco), "sides": sides(adco)}
    for mark, block in blocks.items():
        text = pages.between(text, mark, [block])
    return text


def known() -> list[dict[str, Any]]:
    """The recorded rows."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?", help="of a base method, or `pixels`")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--rung", default="cpu")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--strategy", action="store_true", help="accept a recipe with a strategy")
    parser.add_argument("--page", action="store_true", help="rewrite docs/tuning.md")
    given = parser.parse_intermixed_args(words)
    if given.threads:
        torch.set_num_threads(given.threads)
    if given.page:
        PAGE.write_text(page(PAGE.read_text(), known()))
        PICTURE.write_bytes(picture(known()))
        return 0
    overrides = config.parse(given.overrides)
    if given.recipe == "pixels":
        run = untrained(given.rung)
        row = {"recipe": "pixels", "rung": given.rung, "seed": 0, "overrides": {}, "id": "–", "steps_done": 0}
        row |= measure(run, None)
    else:
        row = tuned(recipes.recipe(given.recipe, given.rung, overrides), overrides, given.runs, given.strategy)
    rows = [each for each in known() if each["id"] != row["id"]] + [row]
    ROWS.write_text("".join(json.dumps(each) + "\n" for each in rows))
    print(table([row]))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except HardlabError as e:
        sys.exit(str(e))
