"""What the collected rows say, in Markdown: the README's blocks and docs/results.md; no number is typed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hardlab import config
from hardlab.analysis import claims, schema
from hardlab.analysis.arms import next_rung, reaches
from hardlab.analysis.intervals import Interval
from hardlab.errors import HardlabError
from hardlab.files import as_expected, read_json, write_atomic
from hardlab.recipes import recipe
from hardlab.workbook.plan import training_steps

ROOT = Path(__file__).resolve().parents[2]
HEADLINES, RESULTS, CLAIMS = "headlines", "results", "claims"  # blocks of the README, between marks
NAMES = {"hexa": "HEXA", "hvs": "HVS", "hnssl": "HNSSL", "adco": "AdCo", "ppcl": "PPCL"}
_NOTEBOOK = re.compile(r"^\| `(\w+)` \|(.*)\|[^|]*\|$", re.M)  # a row of the README's table of notebooks; time last
IMAGENET = 1_281_167  # images of its training set
_MANY = 190  # seeds beyond which their number says nothing but "too many"


def write(
    readme: str | Path = ROOT / "README.md",
    results: str | Path = ROOT / "docs" / "results.md",
    data_dir: str | Path = ROOT / "figures" / "data",
    executed: str | Path = ROOT / "out" / "smoke" / "notebooks",
) -> list[Path]:
    """Rewrite what stands between the README's marks, and docs/results.md, from the tables in ``data_dir``.

    The times in the README's table of notebooks are those of ``executed``, where these notebooks were run. Returns both
    files. Raises ``HardlabError`` where marks or tables are missing.
    """
    readme, results, data_dir = Path(readme), Path(results), Path(data_dir)
    if not (data_dir / "evaluation.csv").exists():
        raise HardlabError(
            f"There is no table '{data_dir / 'evaluation.csv'}' yet; `hardlab figures --from runs --all` makes it."
        )
    text = readme.read_text(encoding="utf-8")
    for begin, end in map(marks, (HEADLINES, RESULTS, CLAIMS)):
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise HardlabError(f"'{readme}' needs the lines '{begin}' and '{end}' once each, in this order.")
    found = claims.verdicts(data_dir)
    text = _between(text, HEADLINES, [*_scale(found, data_dir), *_headlines(found)])
    text = _between(text, RESULTS, _levels(claims.levels(data_dir, found), _minutes(data_dir)))
    text = _between(text, CLAIMS, _decided(found))
    text = _NOTEBOOK.sub(lambda row: _timed(row, Path(executed)), text)
    write_atomic(results, ("\n".join(_results(found, data_dir)) + "\n").encode())
    write_atomic(readme, text.encode())
    return [readme, results]


def marks(part: str) -> tuple[str, str]:
    """The lines of a README before and after a part that is written here."""
    return f"<!-- {part}:begin -->", f"<!-- {part}:end -->"


def _between(text: str, part: str, lines: Iterable[str]) -> str:
    begin, end = marks(part)
    return "\n".join([text[: text.index(begin)] + begin, *lines, text[text.index(end) :]])


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """A table in Markdown."""
    head = list(head)
    cells = [[str(cell).replace("|", "&#124;") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *cells]]


def _headlines(found: pd.DataFrame) -> list[str]:
    """The first headline of every paper that has rows of a rung which can test it, else its first one."""
    rows = []
    for paper, name in NAMES.items():
        known = found[(found["paper"] == paper) & found["headline"]]
        measured = known[(known["n"] > 0) & ~known["verdict"].str.startswith("needs rung")]
        for r in (measured if len(measured) else known).head(1).itertuples():
            rows.append((name, r.statement, r.published, _with_seeds(r), r.verdict, tells(r)))
    return table(("Paper", "Headline", "Published", "Ours, 95 % interval", "Verdict", "Can this scale tell?"), rows)


def _scale(found: pd.DataFrame, data_dir: Path) -> list[str]:
    """One sentence on the size of the runs behind the headlines; nothing where there are none."""
    manifests = schema.read_manifests(data_dir)
    names = {run for runs in found.loc[found["headline"], "runs"] for run in runs.split()}
    steps = [manifests[name].get("steps_done") or 0 for name in names]
    images = [manifests[name]["config"]["batch_size"] * n for name, n in zip(names, steps, strict=True)]
    sizes = [size for name in names if (size := manifests[name].get("parameters", {}).get("backbone"))]
    if not any(steps) or not sizes:
        return []
    rungs = sorted({manifests[name]["config"]["rung"] for name in names})
    return [
        f"The runs behind it, of rung {' and '.join(rungs)}, are networks of {_range(sizes, 1e6, '.1f')} million "
        f"parameters that were trained for {_range(steps, 1, ',.0f')} steps, on as many images as "
        f"{_range(images, IMAGENET / 100, '.2g')} % of one epoch of ImageNet.\n"
    ]


def _range(values: Sequence[float], unit: float, form: str) -> str:
    least, most = (f"{value / unit:{form}}" for value in (min(values), max(values)))
    return least if least == most else f"{least} to {most}"


def tells(row: Any) -> str:
    """Whether the scale of a row of ``claims.verdicts`` can tell its claim, and what that takes."""
    if row.verdict in claims.DECIDED:
        size = {"yes": "; the published size is excluded", "no": "; the published size is not excluded"}
        return "yes" + size.get(row.excluded, "")
    if row.verdict == claims.NOT_LEARNED:
        return "no, a network has to learn first"
    if row.verdict in (claims.INCONCLUSIVE, claims.NO_SEEDS):
        wanted = [
            f"{'over ' + str(_MANY) if seeds > _MANY else int(seeds)} for the {size}"
            for seeds, size in ((row.more_seeds, "size seen"), (row.more_seeds_published, "published size"))
            if np.isfinite(seeds)
        ]
        return "not yet" + (f", seeds still needed: {', '.join(wanted)}" if wanted else "")
    return ("no, " if row.verdict.startswith("needs rung") else "not yet, ") + row.verdict


def _with_seeds(row: Any) -> str:
    seeds = f", {row.n} seeds" if row.n > 1 else ""
    return f"{claims.ours(row)}{seeds}, rung {row.rung}" if row.n else "–"


def _levels(levels: Iterable[claims.Level], minutes: dict[str, float]) -> list[str]:
    """How good each arm of a headline is by every probe."""
    rows = []
    for level in levels:
        cost = [minutes[run] for run in level.runs if minutes.get(run)]
        rows.append(
            (
                f"`{level.name}`" if " " not in level.name else level.name,
                *(_mean(level.by.get(probe)) for probe in claims.PROBES),
                f"{level.rung}, {level.data}",
                f"{level.epochs:g}" if level.epochs else "–",
                f"{np.mean(cost):.1f}" if cost else "–",
            )
        )
    probes = [f"{probe}, %" for probe in claims.PROBES]
    return table(("Arm", *probes, "Rung, data", "Epochs", "Minutes a run"), rows)


def _mean(value: Interval | None) -> str:
    if value is None:
        return "–"
    if value.n == 1:
        return f"{value.mean:.4g} (one seed)"
    if f"{value.lo:.4g}" == f"{value.hi:.4g}":
        return f"{value.mean:.4g} (the same for every seed)"
    return f"{value.mean:.4g} ({value.lo:.4g} to {value.hi:.4g}; {value.n} seeds)"


def _counted(found: pd.DataFrame) -> str:
    counts = found["verdict"].value_counts()
    return ", ".join(f"{counts[v]} {v}" for v in claims.VERDICTS if v in counts)


def _decided(found: pd.DataFrame) -> list[str]:
    """How often each verdict was given, and a row a claim that was reproduced or contradicted."""
    lines = [f"Of {len(found)} claims: {_counted(found)}."]
    decided = found[found["verdict"].isin(claims.DECIDED)]
    if not len(decided):
        return lines
    rows = (
        (NAMES[r.paper], r.statement, r.published, claims.ours(r), f"{r.n}, {r.rung}", f"{r.q:.2g}", r.verdict)
        for r in decided.itertuples()
    )
    return [*lines, "", *table(("Paper", "Statement", "Published", "Ours", "Seeds, rung", "q", "Verdict"), rows)]


_GROUPS = {  # of docs/results.md, in this order
    "Holds": (claims.REPRODUCED, claims.WEAKLY[claims.REPRODUCED]),
    "Does not hold": (claims.CONTRADICTED, claims.WEAKLY[claims.CONTRADICTED]),
    "Cannot be told yet": (claims.INCONCLUSIVE, claims.NOT_LEARNED, claims.NO_SEEDS, claims.NO_EVALUATION),
    "Was seen below the rung that can tell": ("needs rung",),
    "Was not run": (claims.NO_RUN,),
    "Cannot be judged": (claims.CANNOT,),
}


def _results(found: pd.DataFrame, data_dir: Path) -> Iterator[str]:
    """The lines of docs/results.md: a section a paper."""
    minutes, manifests = _minutes(data_dir), schema.read_manifests(data_dir)
    yield "# Results, claim by claim\n"
    yield "`hardlab report --readme` writes this page from `figures/data`; `verdicts.md` has the rules of a verdict.\n"
    yield f"Of {len(found)} claims: {_counted(found)}.\n"
    for paper, name in NAMES.items():
        of = found[found["paper"] == paper]
        runs = dict.fromkeys(run for names in of["runs"] for run in names.split())
        hours = sum(minutes.get(run, 0) for run in runs) / 60
        yield f"## {name}\n"
        yield f"{len(of)} claims, judged by {len(runs)} runs that took {hours:.1f} hours: {_counted(of)}.\n"
        seen = sum(manifests[run]["config"]["batch_size"] * (manifests[run].get("steps_done") or 0) for run in runs)
        if seen and (above := next_rung(rung for rung in of["rung"] if rung)):
            yield _one_rung_up(paper, above, seen)
        for title, verdicts in _GROUPS.items():
            rows = of[of["verdict"].str.startswith(verdicts)]
            if not len(rows):
                continue
            yield f"### {title}\n"
            yield from _section(rows)
            yield ""


def _one_rung_up(paper: str, rung: str, seen: int) -> str:
    """What the claims of a paper cost at a rung, with as many seeds as their verdicts take; seen: images so far."""
    runs: dict[str, int] = {}
    for claim in claims.load():
        if claim.paper == paper and reaches(rung, claim.testable_from):
            for side in claim.arms:
                for seed in range(claim.seeds):
                    run = recipe(side.recipe, rung, config.parse([*claim.overrides(side, rung), f"seed={seed}"]))
                    for one in (run, *([run.parent] if run.parent is not None else [])):
                        runs[one.id] = training_steps(one) * one.batch_size
    images = sum(runs.values())
    if not images:
        return f"One rung up, `{rung}`, they take {len(runs)} runs.\n"
    return (
        f"One rung up, `{rung}`, they take {len(runs)} runs that see {images / 1e6:,.0f} million images, "
        f"{images / seen:,.0f} times as many as these did.\n"
    )


def _section(rows: pd.DataFrame) -> Iterator[str]:
    if not (rows["n"] > 0).any():
        yield from table(
            ("Claim", "Statement", "Published", "From rung"),
            ((f"`{r.id}`", r.statement, f"{r.place}: {r.published}", r.testable_from) for r in rows.itertuples()),
        )
        return
    yield from table(
        ("Claim", "Statement", "Published", "Ours", "Verdict", "Can this scale tell?", "Other probes, remarks"),
        (
            (
                f"`{r.id}`",
                r.statement,
                f"{r.place}: {r.published}",
                _with_seeds(r)
                + (f"; pooled {r.pooled_lo:.3g} to {r.pooled_hi:.3g}" if np.isfinite(r.pooled_lo) else ""),
                r.verdict + (f", q = {r.q:.2g}" if np.isfinite(r.q) else ""),
                tells(r),
                " ".join(text for text in (r.beside and f"{r.beside}.", r.why) if text),
            )
            for r in rows.itertuples()
        ),
    )


def _timed(row: re.Match[str], executed: Path) -> str:
    """A row of the table of notebooks with the seconds that its last finished run took, or as it was."""
    marker = executed / f"{row[1]}.done.json"
    if not marker.exists():
        return row[0]
    with as_expected(marker):
        return f"| `{row[1]}` |{row[2]}| {read_json(marker)['seconds']:.0f} s |"


def _minutes(data_dir: Path) -> dict[str, float]:
    """Minutes that the training of each run took, by its id: images seen over images a second."""
    return {
        name: m["steps_done"] * m["config"].get("batch_size", 0) / m["images_per_s"] / 60
        for name, m in schema.read_manifests(data_dir).items()
        if m.get("images_per_s") and m.get("steps_done")
    }
