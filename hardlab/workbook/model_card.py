"""The card of a run's network: data, recipe, results over seeds, claims, limits; loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from hardlab import config, files
from hardlab.analysis import arms, claims
from hardlab.analysis.catalog import Catalog, arm
from hardlab.analysis.intervals import interval
from hardlab.errors import HardlabError
from hardlab.recipes import RECIPES
from hardlab.workbook import citation, pages

_MEASURED = ["protocol", "metric", "evaluated_on", "split", "features", "options"]


def card(path: Path, data_dir: Path, usage: str = "") -> str:
    """The card of the run in the folder ``path``, in Markdown with the front matter of model hubs.

    data_dir: the collected tables, from which the claims come. usage: Markdown on how to load the weights. HardlabError
    for a folder that is no run.
    """
    about = files.read_manifest(path / "manifest.json", need=("id", "config", "state", "data"))
    with files.as_expected(path / "manifest.json"):
        ran = config.as_ran(about)
        parts = [
            _head(about, ran),
            usage,
            _section("Data", [_data(about, ran)]),
            _section("Training", [_table(("Setting", "Value"), _training(about, ran))]),
        ]
    parts += [
        _section("Results", _results(path)),
        _section("Claims", _claims(str(about["id"]), data_dir)),
        _section("Limits", [_limits(about, ran)]),
        _section("Citation", ["\n".join(f"- {line}" for line in citation.text().splitlines())]),
    ]
    return "\n".join(part.strip() + "\n" for part in parts if part.strip())


def _head(about: Mapping[str, Any], ran: Mapping[str, Any]) -> str:
    make = RECIPES.get(ran["recipe"])
    summary = (make.__doc__ or "").splitlines()[0].rstrip(".") if make else "a recipe of your own"
    tags = ["self-supervised-learning", ran["method"]["name"], *(s["name"] for s in ran["hard"])]
    front = f"---\nlibrary_name: hardlab\npipeline_tag: image-feature-extraction\ntags: [{', '.join(tags)}]\n---\n"
    return (
        f"{front}# {about['id']}\n\nA backbone that hardlab {about.get('versions', {}).get('hardlab', '')} trained by "
        f"self-supervision. Recipe `{ran['recipe']}`: {summary.removeprefix(ran['recipe'] + ': ')}."
    )


def _data(about: Mapping[str, Any], ran: Mapping[str, Any]) -> str:
    data, share = about["data"], ran["data"]["fraction"]
    # a folder's path is the trainer's own affair
    kind, _, path = str(data["name"]).partition(":")
    name = f"the {kind} {Path(path).name}" if path else kind
    part = f", {100 * share:g} % of the set" if share < 1 else ""
    return (
        f"{data['count']} images of {name}, split {data['split']}{part}, without their labels unless the method is "
        f"`supervised`. Digest of the images: `{data.get('digest', 'unknown')}`."
    )


def _training(about: Mapping[str, Any], ran: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    optim = ran["optim"]
    duration = minutes(about)
    yield "rung, seed", f"{ran['rung']}, {about['seed']}"
    yield "method", _spec(ran["method"])
    yield "hard examples", "; ".join(_spec(spec) for spec in ran["hard"]) or "none (standard training)"
    yield "backbone", _spec(ran["backbone"])
    yield "epochs, batch", f"{about.get('epochs_done', ran['epochs'])} of {ran['epochs']}, {ran['batch_size']}"
    yield (
        "optimiser",
        f"{optim['name']}, lr {optim['lr']:g}, weight decay {optim['weight_decay']:g}, {optim['schedule']}",
    )
    yield "arm", arm(ran)
    yield "precision, device", f"{about.get('precision', ran['precision'])}, {about.get('device', 'unknown')}"
    yield "cost", f"{duration:.1f} minutes" if duration is not None else "unknown"
    changed = " (with changes)" if about.get("dirty") else ""
    yield "commit of hardlab", f"{about.get('commit', 'unknown')}{changed}"
    yield "versions", ", ".join(f"{k} {v}" for k, v in about.get("versions", {}).items())
    alarms = [a["sentence"] for a in about.get("health", []) if isinstance(a, dict) and "sentence" in a]
    yield "health", " ".join(alarms) or "no alarm"


def minutes(about: Mapping[str, Any]) -> float | None:
    """Minutes from the start of a run to its end, pauses included; None if it has not ended."""
    try:
        ended, started = (datetime.fromisoformat(about[key]) for key in ("ended", "started"))
        return (ended - started).total_seconds() / 60
    except (KeyError, TypeError, ValueError):
        return None


def _spec(spec: Mapping[str, Any]) -> str:
    options = ", ".join(f"{k}={v}" for k, v in spec["options"].items())
    return f"{spec['name']} ({options})" if options else str(spec["name"])


def _results(path: Path) -> list[str]:
    try:
        catalog = Catalog(path.parent)
        runs, rows = catalog.runs, catalog.results
    except HardlabError as e:
        return [f"The runs beside this one cannot be read, so there is no interval over seeds: {e}"]
    (run_row,) = runs[runs["run"] == path.name].to_dict("records") or [{}]
    if not run_row or not len(measured := rows[rows["run"] == path.name]):
        return ["It was not evaluated: `hardlab evaluate RUN` does."]
    seeds = arms.same_arm(catalog.done, run_row)["run"]
    same = rows[rows["run"].isin(seeds)].groupby(_MEASURED)["value"]
    intervals = {key: interval(values) for key, values in same}
    twice = measured.duplicated(_MEASURED[:-1], keep=False)  # measured with several settings of a protocol
    lines = []
    for row, over_seeds in zip(measured.to_dict("records"), twice, strict=True):
        over = intervals.get(tuple(row[c] for c in _MEASURED))
        spread = f"{over.mean:.4f} ({over.lo:.4f} to {over.hi:.4f})" if over and over.n > 1 else "one seed"
        protocol = f"{row['protocol']} {row['options']}" if over_seeds else row["protocol"]
        lines.append((protocol, row["metric"], f"{row['evaluated_on']} ({row['split']})", row["features"],
                      f"{row['value']:.4f}", spread, over.n if over else 1))  # fmt: skip
    head = ("Protocol", "Metric", "Measured on", "Network", "This run", "Mean over seeds, 95 % interval", "Seeds")
    return [_table(head, lines)]


def _claims(run: str, data_dir: Path) -> list[str]:
    if not any(data_dir.glob("*.csv")):
        return [f"There are no collected tables in '{data_dir.name}', so no claim was judged."]
    judged = claims.verdicts(data_dir)
    taking = judged[[run in names.split() for names in judged["runs"]]]
    if not len(taking):
        return ["This run takes part in no claim of the collected tables."]
    head = ("Claim", "Paper", "Statement", "Published", "Ours", "Seeds", "Verdict")
    lines = [
        (f"`{r.id}`", pages.NAMES[r.paper], r.statement, r.published, claims.ours(r), r.n, r.verdict)
        for r in taking.itertuples()
    ]
    return ["Claims of the papers whose verdict counts this run:", _table(head, lines)]


def _limits(about: Mapping[str, Any], ran: Mapping[str, Any]) -> str:
    steps = about.get("steps_done")
    length = f"{steps} steps" if steps else f"{ran['epochs']} epochs"
    return (
        f"Trained for {length} at rung `{ran['rung']}` to study hard examples, not to be accurate: compare it "
        "with runs of the same rung, not with published networks. Results hold for these images and this seed; a "
        "single seed decides nothing."
    )


def _section(title: str, blocks: Sequence[str]) -> str:
    return f"## {title}\n\n" + "\n\n".join(blocks)


def _table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    rows = [list(head), ["---"] * len(head), *([_cell(v) for v in line] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float | np.floating) else str(value)
    return " ".join(text.replace("|", "\\|").split())
