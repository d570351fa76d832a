"""Writes the README's generated blocks and docs/results.md from the collected rows, so no number is typed by hand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hardlab import config
from hardlab.analysis import claims, schema
from hardlab.analysis.arms import next_rung, reaches
from hardlab.errors import HardlabError
from hardlab.files import as_expected, read_json, write_atomic
from hardlab.recipes import recipe
from hardlab.workbook import recipe_costs
from hardlab.workbook.plan import training_steps

ROOT = Path(__file__).resolve().parents[2]
TIMES, HEADLINES, RESULTS, CLAIMS = "times", "headlines", "results", "claims"  # blocks of the README, between marks
NAMES = {"hexa": "HEXA", "hvs": "HVS", "hnssl": "HNSSL", "adco": "AdCo", "ppcl": "PPCL"}
_NOTEBOOK = re.compile(r"^\| `(\w+)` \|(.*)\|[^|]*\|$", re.M)  # a row of the README's table of notebooks; time last
IMAGENET = 1_281_167  # images of its training set
ALONE = "training of "  # with which rows of benchmarks/results.json begin: a recipe, its rung, the kind of machine


def write(
    readme: str | Path = ROOT / "README.md",
    results: str | Path = ROOT / "docs" / "results.md",
    data_dir: str | Path = ROOT / "figures" / "data",
    executed: str | Path = ROOT / "out" / "smoke" / "notebooks",
    benchmarks: str | Path = ROOT / "benchmarks" / "results.json",
) -> list[Path]:
    """Rewrite the README's blocks and docs/results.md from the tables in ``data_dir``.

    executed: folder of executed notebooks, whose times go into the README's table of notebooks. benchmarks: file with
    the minutes of `make reproduce` and of training. Returns the paths of both files. Raises ``HardlabError`` if marks
    or tables are missing.
    """
    readme, results, data_dir = Path(readme), Path(results), Path(data_dir)
    if not (data_dir / "evaluation.csv").exists():
        raise HardlabError(
            f"There is no table '{data_dir / 'evaluation.csv'}' yet; `hardlab figures --from runs --all` creates it."
        )
    text = readme.read_text(encoding="utf-8")
    for begin, end in map(marks, (TIMES, HEADLINES, RESULTS, CLAIMS)):
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise HardlabError(f"'{readme}' needs the lines '{begin}' and '{end}' once each, in this order.")
    judged = claims.verdicts(data_dir)
    text = between(text, TIMES, _times(Path(benchmarks)))
    text = between(text, HEADLINES, [*scale(judged, data_dir), *_headlines(judged)])
    text = between(text, RESULTS, levels(claims.levels(data_dir, judged), data_dir, Path(benchmarks)))
    text = between(text, CLAIMS, _decided(judged))
    text = _NOTEBOOK.sub(lambda row: _timed(row, Path(executed)), text)
    write_atomic(results, ("\n".join(_results(judged, data_dir)) + "\n").encode())
    write_atomic(readme, text.encode())
    return [readme, results]


def marks(part: str) -> tuple[str, str]:
    """The lines of a page that enclose a generated block."""
    return f"<!-- {part}:begin -->", f"<!-- {part}:end -->"


def between(text: str, part: str, lines: Iterable[str]) -> str:
    """The text with other lines in a generated block."""
    begin, end = marks(part)
    return "\n".join([text[: text.index(begin)] + begin, *lines, text[text.index(end) :]])


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """A table in Markdown."""
    head = list(head)
    cells = [[str(cell).replace("|", "&#124;") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *cells]]


def _times(benchmarks: Path) -> Iterator[str]:
    """The time of `make reproduce` on each kind of machine that has been measured."""
    with as_expected(benchmarks):
        for row in read_json(benchmarks)["reproduce"]["rows"]:
            if row["name"].startswith(race := "make reproduce, "):
                machine = row["name"].removeprefix(race)
                yield f"In a fresh clone, set-up included, it took {row['value']:.1f} minutes on: {machine}.\n"


def _headlines(judged: pd.DataFrame) -> list[str]:
    """A row per paper: its first headline claim measured at a rung that can test it, else its first headline."""
    rows = []
    for paper, name in NAMES.items():
        headlines = judged[(judged["paper"] == paper) & judged["headline"]]
        measured = headlines[(headlines["n"] > 0) & ~headlines["verdict"].str.startswith("needs rung")]
        for r in (measured if len(measured) else headlines).head(1).itertuples():
            rows.append((name, r.statement, r.published, with_seeds(r), r.beside, r.verdict, tells(r)))
    ours = ("Ours, 95 % interval", "By other probes")
    return table(("Paper", "Headline", "Published", *ours, "Verdict", "Can this scale decide?"), rows)


def scale(judged: pd.DataFrame, data_dir: Path) -> list[str]:
    """One sentence on the size of the runs behind the headlines; "" if there are none."""
    manifests = schema.read_manifests(data_dir)
    names = {run for runs in judged.loc[judged["headline"], "runs"] for run in runs.split()}
    steps = [manifests[name].get("steps_done") or 0 for name in names]
    images = [manifests[name]["config"]["batch_size"] * n for name, n in zip(names, steps, strict=True)]
    sizes = [size for name in names if (size := manifests[name].get("parameters", {}).get("backbone"))]
    if not any(steps) or not sizes:
        return []
    rungs = sorted({manifests[name]["config"]["rung"] for name in names})
    return [
        f"The runs behind the table (rung {' and '.join(rungs)}) trained networks of "
        f"{_range(sizes, 1e6, '.1f')} million parameters for {_range(steps, 1, ',.0f')} steps, on as many images as "
        f"{_range(images, IMAGENET / 100, '.2g')} % of one epoch of ImageNet.\n"
    ]


def _range(values: Sequence[float], unit: float, form: str) -> str:
    lowest, highest = (f"{value / unit:{form}}" for value in (min(values), max(values)))
    return lowest if lowest == highest else f"{lowest} to {highest}"


def tells(row: Any) -> str:
    """Whether the scale of a row of ``claims.verdicts`` can decide its claim and, if not, which would."""
    size = {"yes": "; the published size is excluded", "no": "; the published size is not excluded"}
    if row.verdict in claims.DECIDED:
        return "yes" + size.get(row.excluded, "")
    if row.verdict == claims.NOT_LEARNED:
        return "no, a network has to learn first"
    if row.verdict in (claims.INCONCLUSIVE, claims.NO_SEEDS):
        needed = [
            f"{claims.seeds_in_words(seeds)} for the {of}"
            for seeds, of in ((row.more_seeds, "size seen"), (row.more_seeds_published, "published size"))
            if np.isfinite(seeds)
        ]
        more = f", seeds still needed: {', '.join(needed)}" if needed else ""
        return "not yet" + more + size.get(row.excluded, "")
    if row.verdict == claims.CANNOT:
        return "no"
    return ("no, " if row.verdict.startswith("needs rung") else "not yet, ") + row.verdict


def with_seeds(row: Any) -> str:
    seeds = f", {row.n} seeds" if row.n > 1 else ""
    return f"{claims.ours(row)}{seeds}, rung {row.rung}" if row.n else "–"


def levels(arms: Iterable[claims.Level], data_dir: Path, benchmarks: Path) -> list[str]:
    """The accuracy of each arm of a headline under every probe, and how long its training takes by itself."""
    manifests, rates = schema.read_manifests(data_dir), _rates(benchmarks)
    rows, arms = [], list(arms)
    probes = [probe for probe in claims.PROBES if any(probe in level.by for level in arms)]
    for level in arms:
        images = np.mean([m["steps_done"] * m["config"]["batch_size"] for m in map(manifests.get, level.runs) if m])
        alone = [of_kind.get((level.name, level.rung)) for of_kind in rates.values()]
        rows.append(
            (
                f"`{level.name}`" if " " not in level.name else level.name,
                *(value.in_words() if (value := level.by.get(probe)) else "–" for probe in probes),
                f"{level.rung}, {level.data}",
                f"{level.epochs:g}" if level.epochs else "–",
                *(f"{images / rate / 60:.1f}" if rate and level.epochs else "–" for rate in alone),
            )
        )
    costs = [f"Minutes a run, alone on: {kind}" for kind in rates]
    return table(("Arm", *(f"{probe}, %" for probe in probes), "Rung, data", "Epochs", *costs), rows)


def _rates(benchmarks: Path) -> dict[str, dict[tuple[str, str], float]]:
    """Kind of machine -> recipe and rung -> images per second of a run that has the machine for itself."""
    rates: dict[str, dict[tuple[str, str], float]] = {}
    with as_expected(benchmarks):
        for row in read_json(benchmarks).get("minutes", {}).get("rows", []):
            recipe, rung, kind = row["name"].removeprefix(ALONE).split(", ", 2)
            if row["value"] is not None:
                rates.setdefault(kind, {})[recipe, rung.removeprefix("rung ")] = row["value"]
    for path in sorted((benchmarks.parent / "gpu").glob("*.json")):
        with as_expected(path):
            book = read_json(path)
            found = {(r["recipe"], r["rate"].split("/")[0]): r["images_per_s"] for r in book["rows"]}
            rates[book["device"]] = found
    return rates


def _decided(judged: pd.DataFrame) -> list[str]:
    """The number of claims with each verdict, then a row for each reproduced or contradicted claim."""
    lines = [f"Of {len(judged)} claims: {claims.counted(judged)}."]
    decided = judged[judged["verdict"].isin(claims.DECIDED)]
    if not len(decided):
        return lines
    rows = []
    for r in decided.itertuples():
        of = ", ".join(filter(None, (f"{r.n}, {r.rung}", r.settings)))
        rows.append((NAMES[r.paper], r.statement, r.published, claims.ours(r), of, f"{r.q:.2g}", r.verdict))
    head = ("Paper", "Statement", "Published", "Ours", "Seeds, rung, other settings", "q", "Verdict")
    folded = "<details>", f"<summary>The {len(decided)} that are decided, one by one</summary>"
    return [*lines, "", *folded, "", *table(head, rows), "", "</details>"]


GROUPS = {  # of docs/results.md, in this order
    "Holds": (claims.REPRODUCED, claims.WEAKLY[claims.REPRODUCED]),
    "Does not hold": (claims.CONTRADICTED, claims.WEAKLY[claims.CONTRADICTED]),
    "Undecided": (claims.INCONCLUSIVE, claims.NOT_LEARNED, claims.NO_SEEDS, claims.NO_EVALUATION),
    "Measured below the rung that can decide": ("needs rung",),
    "Not run": (claims.NO_RUN,),
    "Cannot be judged": (claims.CANNOT,),
}


def _results(judged: pd.DataFrame, data_dir: Path) -> Iterator[str]:
    """The lines of docs/results.md, one section per paper."""
    duration, manifests = minutes(data_dir), schema.read_manifests(data_dir)
    yield "# Results, claim by claim\n"
    yield "`hardlab report --readme` writes this page from `figures/data`."
    yield "[verdicts.md](verdicts.md) explains how a verdict is computed.\n"
    yield f"Of {len(judged)} claims: {claims.counted(judged)}.\n"
    for paper, name in NAMES.items():
        rows = judged[judged["paper"] == paper]
        runs = dict.fromkeys(run for names in rows["runs"] for run in names.split())
        hours = sum(duration.get(run, 0) for run in runs) / 60
        yield f"## {name}\n"
        yield f"{len(rows)} claims, judged by {len(runs)} runs that took {hours:.1f} hours: {claims.counted(rows)}.\n"
        if runs:
            yield _was_run(runs, manifests)
        images = sum(manifests[run]["config"]["batch_size"] * (manifests[run].get("steps_done") or 0) for run in runs)
        if images and (above := next_rung(rung for rung in rows["rung"] if rung)):
            yield one_rung_up(paper, above, images)
        for title, verdicts in GROUPS.items():
            group = rows[rows["verdict"].str.startswith(verdicts)]
            if not len(group):
                continue
            yield f"### {title}\n"
            yield from _section(group)
            yield ""


def _strength(row: Any) -> Iterator[str]:
    """p by the t-test and by changes of sign, and q, as far as they exist."""
    for name, value in (("p", row.p), ("by changes of sign", row.p_sign), ("q", row.q)):
        if np.isfinite(value):
            yield f"{name} = {value:.2g}" if len(name) == 1 else f"{value:.2g} {name}"


def _was_run(runs: Iterable[str], manifests: Mapping[str, Mapping[str, Any]]) -> str:
    """The arms of these runs by rung, each with its epochs and seeds."""
    seeds: dict[tuple[str, int, str], set[int]] = {}
    for run in runs:
        ran = manifests[run]["config"]
        seeds.setdefault((ran["rung"], ran["epochs"], ran["recipe"]), set()).add(ran["seed"])
    arms: dict[tuple[str, int], list[str]] = {}
    for (rung, epochs, name), own in sorted(seeds.items()):
        arms.setdefault((rung, epochs), []).append(f"`{name}` {len(own)}")
    lines = [f"rung {rung}, {epochs} epochs: {', '.join(names)}" for (rung, epochs), names in arms.items()]
    return f"What was run, with the number of seeds: {'; '.join(lines)}.\n"


def one_rung_up(paper: str, rung: str, trained: int) -> str:
    """The cost of a paper's claims at ``rung``, with as many seeds as their verdicts need.

    trained: images that the runs so far were trained on.
    """
    known = recipe_costs.calculated()
    flops = {name: row["flops"] for name, row in known["rungs"].get(rung, {}).items()}
    seen: dict[str, int] = {}
    hours: dict[str, float] = {}
    for claim in claims.load():
        if claim.paper == paper and reaches(rung, claim.testable_from):
            for side in claim.arms:
                for seed in range(claim.seeds):
                    run = recipe(side.recipe, rung, config.parse([*claim.overrides(side, rung), f"seed={seed}"]))
                    for run_ in (run, *([run.parent] if run.parent is not None else [])):
                        seen[run_.id] = training_steps(run_) * run_.batch_size
                        if run_.recipe in flops:
                            hours[run_.id] = recipe_costs.gpu_hours(run_, seen[run_.id], flops[run_.recipe])
    images = sum(seen.values())
    if not images:
        return f"One rung up, at `{rung}`, these claims need {len(seen)} runs.\n"
    cost = f", about {sum(hours.values()):,.0f} hours of one {known['device']} ([gpu.md](gpu.md))" * bool(hours)
    return (
        f"One rung up, at `{rung}`, these claims need {len(seen)} runs that see {images / 1e6:,.0f} million images, "
        f"{images / trained:,.0f} times as many as so far{cost}.\n"
    )


def _section(rows: pd.DataFrame) -> Iterator[str]:
    if not (rows["n"] > 0).any():
        yield from table(
            ("Claim", "Statement", "Published", "From rung"),
            ((f"`{r.id}`", r.statement, f"{r.place}: {r.published}", r.testable_from) for r in rows.itertuples()),
        )
        return
    yield from table(
        ("Claim", "Statement", "Published", "Ours", "Verdict", "Can this scale decide?", "Other probes, remarks"),
        (
            (
                f"`{r.id}`",
                r.statement,
                f"{r.place}: {r.published}",
                with_seeds(r)
                + ("; pooled {1} to {2}".format(*claims.written(r.mean, r.pooled_lo, r.pooled_hi)))
                * bool(np.isfinite(r.pooled_lo)),
                ", ".join([r.verdict, *_strength(r)]),
                tells(r),
                " ".join(text for text in (r.beside and f"{r.beside}.", r.why) if text),
            )
            for r in rows.itertuples()
        ),
    )


def _timed(row: re.Match[str], executed: Path) -> str:
    """The row with the seconds of the notebook's last finished run, or the row unchanged."""
    marker = executed / f"{row[1]}.done.json"
    if not marker.exists():
        return row[0]
    with as_expected(marker):
        return f"| `{row[1]}` |{row[2]}| {read_json(marker)['seconds']:.0f} s |"


def minutes(data_dir: Path) -> dict[str, float]:
    """Run id -> minutes of training: images seen over images per second."""
    return {
        name: m["steps_done"] * m["config"].get("batch_size", 0) / m["images_per_s"] / 60
        for name, m in schema.read_manifests(data_dir).items()
        if m.get("images_per_s") and m.get("steps_done")
    }
