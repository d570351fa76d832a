"""Writes a reproduction report of one paper, as HTML and LaTeX, in the outline of reproducibility tracks.

The sections are the scope (claim by claim), methodology, results, negative results, what was easy and difficult, cost,
and what was not done. Everything comes from the collected rows and the ledger, except the sentences of
``paper_notes.yaml``.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup

from hardlab import config, figures
from hardlab.analysis import claims, evidence, schema
from hardlab.analysis.arms import LINEAR, Measure, next_rung
from hardlab.analysis.claims import Claim, Side
from hardlab.errors import HardlabError
from hardlab.figures import markup
from hardlab.figures.typeset import Sheet
from hardlab.files import as_expected, make_folder, read_yaml, write_atomic
from hardlab.registry import unknown
from hardlab.workbook import html, pages

NOTES = Path(__file__).with_name("paper_notes.yaml")
DEPARTURES = pages.ROOT / "docs" / "departures.md"


_STYLE = """
table.text { display: table; margin: 0.6rem 0 1.4rem; }
table.text td, table.text th { white-space: normal; text-align: left; vertical-align: top; min-width: 3rem; }
"""


class Items(NamedTuple):
    """A list of sentences."""

    lines: Sequence[str]


class Rows(NamedTuple):
    """A table of text. wide: the share of the width of each column."""

    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    wide: Sequence[float]


class Printed(NamedTuple):
    """A published table with our numbers beside the printed ones."""

    sheet: Sheet
    label: str


Block = str | Items | Rows | Printed


class Section(NamedTuple):
    """A title and the blocks below it."""

    title: str
    blocks: list[Block]


def build(paper: str, data_dir: Path, out: Path) -> list[Path]:
    """Write ``report-<paper>.html`` and ``report-<paper>.tex`` into ``out``.

    Raises ``HardlabError`` for an unknown paper, and if no rows were collected.
    """
    if paper not in claims.PAPERS:
        raise unknown("paper", paper, claims.PAPERS)
    if not (data_dir / "evaluation.csv").exists():
        raise HardlabError(
            f"There is no table '{data_dir / 'evaluation.csv'}'; `hardlab figures --from runs` makes it."
        )
    title = f"A reproduction of {pages.NAMES[paper]} at small scale"
    parts = list(sections(paper, data_dir))
    make_folder(out)
    written = [out / f"report-{paper}.html", out / f"report-{paper}.tex"]
    style = Markup(f"<style>{markup.STYLE}{_STYLE}</style>")
    body = Markup("\n".join(_html(title, parts)))
    write_atomic(written[0], html.wrap(title, style + body).encode())
    write_atomic(written[1], "\n".join(_latex(title, parts)).encode())
    return written


def sections(paper: str, data_dir: Path) -> Iterator[Section]:
    """The sections of a report in order."""
    judged = claims.verdicts(data_dir)
    rows = judged[judged["paper"] == paper]
    ledger = {claim.id: claim for claim in claims.load()}
    manifests = schema.read_manifests(data_dir)
    names = [name for name in dict.fromkeys(run for runs in rows["runs"] for run in runs.split()) if name in manifests]
    runs = {name: manifests[name] for name in names}
    notes = _notes(paper)
    yield Section("Summary", [*_summary(paper, rows, data_dir)])
    yield Section("Scope of reproducibility", [*_scope([ledger[name] for name in rows["id"]])])
    yield Section("Methodology", [*_methodology(paper, runs)])
    yield Section("Results", [*_results(paper, rows, data_dir)])
    yield Section("Negative results", [*_negative(rows)])
    yield Section("What was easy", [Items(notes["easy"])])
    yield Section("What was difficult", [Items(notes["hard"])])
    yield Section("Cost", [*_cost(paper, rows, runs, data_dir)])
    yield Section("What was not done", [*_undone(rows)])
    yield Section("Communication with the authors", [notes["authors"]])


def _notes(paper: str) -> dict[str, Any]:
    """The handwritten notes on a paper and on all papers."""
    with as_expected(NOTES):
        tree = read_yaml(NOTES)
        shared, of_paper = tree["all"], tree[paper]
        return {"authors": of_paper.get("authors", shared["authors"])} | {
            key: [*map(str, of_paper[key]), *map(str, shared[key])] for key in ("easy", "hard")
        }


def _summary(paper: str, rows: pd.DataFrame, data_dir: Path) -> Iterator[Block]:
    yield f"Of {len(rows)} claims: {claims.counted(rows)}."
    yield from (re.sub(r"\s+", " ", line).strip() for line in pages.scale(rows, data_dir))
    headlines = rows[rows["headline"]]
    lines = [(r.statement, r.published, pages.with_seeds(r), r.verdict, pages.tells(r)) for r in headlines.itertuples()]
    yield Rows(("Headline", "Published", "Ours, 95 % interval", "Verdict", "Can this scale decide?"), lines,
               (0.3, 0.2, 0.2, 0.12, 0.18))  # fmt: skip


def _scope(paper_claims: Sequence[Claim]) -> Iterator[Block]:
    yield (
        "Each claim is a test with a dated digest; the results say which tests were set or changed after their runs. "
        "A claim is testable from the rung in the last column; below it, numbers are shown without a verdict."
    )
    lines = [
        (f"{claim.statement} ({claim.place})", str(claim.published), in_words(claim), claim.testable_from)
        for claim in paper_claims
    ]
    yield Rows(("Claim", "Published", "Test", "From rung"), lines, (0.36, 0.22, 0.34, 0.08))


def in_words(claim: Claim) -> str:
    """The condition of a claim's test and its measure, in words."""
    test, unit, arms = claim.test, claim.published.unit, [_arm(side) for side in claim.arms]
    quantity = {
        "value": arms[0],
        "difference": " minus ".join(arms[:2]),
        "ratio": " over ".join(arms[:2]),
        "gain": " minus ".join(f"({' minus '.join(pair)})" for pair in (arms[:2], arms[2:])),
    }[test.of]
    sentence = {
        "greater": _against(arms, "above", test.margin, unit),
        "less": _against(arms, "below", test.margin, unit),
        "ordering": " above ".join(arms),
        "largest": f"{arms[0]} above each of {', '.join(arms[1:])}",
    }.get(test.name)
    if sentence is None:
        assert test.value is not None
        comparison = f"within {test.margin:g} of" if test.name == "equal_within" else test.name
        sentence = f"{quantity} {comparison} {test.value:g} {unit}"
    return f"{sentence}; measured by {_measured(claim.measure)}"


# table of a measure -> what a run's rows of it are, with the columns of `where` by name
_ROWS = {
    "hvs_f4_right": "the share of images whose selected pair has the lowest IoU",
    "hvs_f4_left": "the IoU of pairs",
    "hvs_distance": "the distance of the centres of a pair's crops",
    "importance": "the share of the variance of the loss that a parameter explains",
    "predictability": "the share of selected pairs that are predicted",
    "epochs": "the log of {name}",
    "costs": "seconds of an epoch",
    "negatives": "the median distance of a query to its nearest other query",
    "adco_f2": "the distance of a {kind} to the nearest one of the other kind",
}
_OVER = {  # as `claims.OVER` defines them
    "first": "the first epoch",
    "last": "the last epoch",
    "rise": "the last fifth of the epochs less the first",
    "later": "the last fifth of the epochs less the second",
    "late": "the last fifth of the epochs",
    "early": "the first fifth of the epochs, but for the first one, less the rest",
    "spread": "the spread over the epochs",
    "jitter": "the spread from epoch to epoch",
    "tail": "the value that a tenth exceed",
}


def _measured(m: Measure) -> str:
    """What is measured, in words."""
    if m.table == "evaluation":
        on = f" on {m.where['evaluated_on']}" if "evaluated_on" in m.where else ""
        return f"the evaluation {m.where['protocol']} ({m.where['metric']}){on}"
    rows = _ROWS[m.table].format(**m.where)
    return f"{rows}: {_OVER[m.over]}" if m.over in _OVER else rows


def _against(arms: Sequence[str], how: str, margin: float, unit: str) -> str:
    return f"{arms[0]} minus {arms[-1]} {how} {margin:g} {unit}" if margin else f"{arms[0]} {how} {arms[-1]}"


def _arm(side: Side) -> str:
    """An arm as on the command line, with its own measure, if any, in brackets."""
    words = [side.recipe, *(f"{k}={v}" for k, v in side.set.items())]
    words += [f"trained {side.longer:g} times as long"] if side.longer != 1 else []
    details = [*side.where.values(), *filter(None, (side.value, side.over))]
    return " ".join([*words, *([f"[{', '.join(details)}]"] if details else [])])


def _methodology(paper: str, runs: Mapping[str, Mapping[str, Any]]) -> Iterator[Block]:
    yield (
        f"The primary probe of accuracies is {LINEAR[0]}, a logistic regression on frozen features that is run to its "
        "optimum; other probes are listed beside it. An accuracy counts only if every arm beats the untrained "
        "network and raw pixels under the same probe. The test is the 95 % Student t-interval of differences paired "
        f"by seed. A verdict needs {claims.SEEDS} seeds ({claims.HEADLINE_SEEDS} on a headline) and is corrected "
        f"for the number of claims (Benjamini-Hochberg, {evidence.LEVEL:g})."
    )
    sizes: dict[str, int] = {}  # of networks, which old manifests lack
    for m in runs.values():
        if size := m.get("parameters", {}).get("backbone"):
            sizes[json.dumps(m["config"]["backbone"], sort_keys=True)] = size
    each: dict[tuple[Any, ...], set[int]] = defaultdict(set)
    for m in runs.values():
        c = m["config"]
        share = f", {100 * c['data'].get('fraction', 1):g} %"
        data = f"{m['data']['name']}{share} ({m['data']['count']} images)"
        size = sizes.get(json.dumps(c["backbone"], sort_keys=True))
        network = c["backbone"]["name"] + (f" ({size / 1e6:.2g} million parameters)" if size else "")
        key = (
            c["recipe"],
            c["rung"],
            data,
            network,
            c["epochs"],
            c["batch_size"],
            config.precision_of(m),
        )
        each[key].add(m["seed"])
    lines = [(*map(str, key), str(len(seeds))) for key, seeds in sorted(each.items(), key=str)]
    head = ("Recipe", "Rung", "Data", "Network", "Epochs", "Batch", "Precision", "Seeds")
    yield Rows(head, lines, (0.2, 0.06, 0.22, 0.22, 0.07, 0.07, 0.09, 0.07))
    commits = sorted({str(m["commit"])[:7] + "*" * bool(m["dirty"]) for m in runs.values()})
    versions = sorted({m.get("versions", {}).get("torch", "") for m in runs.values()} - {""})
    yield f"Code: hardlab at the commits {', '.join(commits)} (*: with changes), torch {', '.join(versions)}."
    yield "Where the paper, its code and this reproduction differ (docs/departures.md lists the options):"
    yield Items([f"{place}: {difference}. Here: {choice}." for place, difference, choice in departures(paper)])


def departures(paper: str) -> list[tuple[str, str, str]]:
    """(place, what differs, here) of the rows of a paper's section of docs/departures.md."""
    if not DEPARTURES.exists():  # an installed package does not contain it
        return []
    parts = DEPARTURES.read_text(encoding="utf-8").split("\n## ")
    section = next((part for part in parts if part.split(maxsplit=1)[0] == pages.NAMES[paper]), "")
    cells = [[cell.strip().replace("`", "") for cell in line.strip("|").split(" | ")] for line in section.splitlines()
             if line.startswith("| ")]  # fmt: skip
    return [(line[1], line[2], line[3]) for line in cells if line[0] not in ("id",) and not line[0].startswith("--")]


def _results(paper: str, rows: pd.DataFrame, data_dir: Path) -> Iterator[Block]:
    for title, verdicts in pages.GROUPS.items():
        group = rows[rows["verdict"].str.startswith(verdicts) & rows["n"].gt(0)]
        if not len(group):
            continue
        yield f"{title}:"
        lines = [
            (
                r.statement,
                r.published,
                pages.with_seeds(r),
                r.verdict + (f", q = {r.q:.2g}" if np.isfinite(r.q) else ""),
                " ".join(
                    text for text in (r.beside and f"Other probes: {r.beside}.", claims.strength(r), r.why) if text
                ),
            )
            for r in group.itertuples()
        ]
        yield Rows(("Claim", "Published", "Ours", "Verdict", "Evidence"), lines, (0.26, 0.16, 0.16, 0.12, 0.3))
    yield "The tables of the paper, with our values beside the printed ones:"
    for n in range(1, claims.PAPERS[paper][1] + 1):
        name = f"{paper}_t{n}"
        yield Printed(figures.sheet(name, data_dir), name)


def _negative(rows: pd.DataFrame) -> Iterator[Block]:
    against = rows[rows["verdict"].str.startswith(claims.CONTRADICTED)]
    excluded = rows[rows["excluded"].eq("yes") & ~rows["verdict"].str.startswith(claims.CONTRADICTED)]
    if not len(against) and not len(excluded):
        yield "No claim is contradicted, and no published size is excluded."
    if len(against):
        yield "These claims do not hold at this scale:"
        yield Items(
            [f"{r.statement} Published: {r.published}; ours: {pages.with_seeds(r)}." for r in against.itertuples()]
        )
    if len(excluded):
        yield "The published size is excluded at this scale, whatever the verdict, for:"
        yield Items(
            [f"{r.statement} Published: {r.published}; ours: {pages.with_seeds(r)}." for r in excluded.itertuples()]
        )


def _cost(paper: str, rows: pd.DataFrame, runs: Mapping[str, Mapping[str, Any]], data_dir: Path) -> Iterator[Block]:
    minutes = pages.minutes(data_dir)
    run_names: dict[tuple[str, str, int, str, str], list[str]] = defaultdict(list)
    for name, m in runs.items():
        c = m["config"]
        run_names[c["recipe"], c["rung"], c["epochs"], config.precision_of(m), str(m.get("device"))].append(name)
    total = sum(minutes.get(name, 0.0) for name in runs)
    yield f"The verdicts rest on {len(runs)} runs, which trained for {total / 60:.1f} hours according to their logs."
    yield "A run that shares its machine with others takes longer; the README has the minutes of a quiet one."
    lines = []
    for (recipe, rung, epochs, precision, device), names in sorted(run_names.items()):
        durations = [minutes[name] for name in names if name in minutes]
        memory = max((float(runs[name].get("peak_memory_mb") or 0) for name in names), default=0.0)
        each = f"{np.median(durations):.1f}" if durations else ""
        lines.append((recipe, rung, str(epochs), precision, device, str(len(names)), each, f"{memory:.0f}"))
    head = ("Recipe", "Rung", "Epochs", "Precision", "Device", "Runs", "Minutes, median", "Peak memory, MB")
    yield Rows(head, lines, (0.2, 0.07, 0.08, 0.09, 0.26, 0.07, 0.1, 0.13))
    images = sum(m["config"]["batch_size"] * (m.get("steps_done") or 0) for m in runs.values())
    if images and (above := next_rung(rung for rung in rows["rung"] if rung)):
        sentence = pages.one_rung_up(paper, above, images).strip()
        yield re.sub(r"\[(.+?)\]\(.+?\)", r"docs/\1", sentence).replace("`", "")  # links of docs/results.md


def _undone(rows: pd.DataFrame) -> Iterator[Block]:
    left = rows[rows["n"].eq(0)]
    if not len(left):
        yield "Every claim was measured."
        return
    yield f"{len(left)} claims were not measured:"
    yield Items([f"{r.statement} ({r.place}; {r.verdict}, from rung {r.testable_from})" for r in left.itertuples()])


# ------------------------------------------------------------------------------------------------ HTML and LaTeX


def _html(title: str, parts: Iterable[Section]) -> Iterator[str]:
    yield f"<h1>{escape(title)}</h1>"
    for part in parts:
        yield f"<h2>{escape(part.title)}</h2>"
        for block in part.blocks:
            if isinstance(block, str):
                yield f"<p>{escape(block, quote=False)}</p>"
            elif isinstance(block, Items):
                yield "<ul>" + "".join(f"<li>{escape(line, quote=False)}</li>" for line in block.lines) + "</ul>"
            elif isinstance(block, Printed):
                yield markup.fragment(block.sheet)
            else:
                head = "".join(f"<th>{escape(cell)}</th>" for cell in block.head)
                lines = ("".join(f"<td>{escape(cell, quote=False)}</td>" for cell in line) for line in block.lines)
                yield f'<table class="text"><thead><tr>{head}</tr></thead><tbody>'
                yield from (f"<tr>{line}</tr>" for line in lines)
                yield "</tbody></table>"


_PREAMBLE = r"""\documentclass{article}
\usepackage[utf8]{inputenc}
\usepackage[T1]{fontenc}
\usepackage[margin=2.5cm]{geometry}
\usepackage{array,booktabs,graphicx,longtable}
\title{%s}
\date{}
\begin{document}
\maketitle
"""


def _latex(title: str, parts: Iterable[Section]) -> Iterator[str]:
    yield _PREAMBLE % markup.tex(title)
    for part in parts:
        yield rf"\section{{{markup.tex(part.title)}}}"
        for block in part.blocks:
            if isinstance(block, str):
                yield markup.tex(block) + "\n"
            elif isinstance(block, Items):
                lines = [rf"\item {markup.tex(line)}" for line in block.lines]
                yield "\n".join([r"\begin{itemize}", *lines, r"\end{itemize}"]) if lines else ""
            elif isinstance(block, Printed):
                yield markup.latex(block.sheet, block.label)
            else:
                yield from _long_table(block)
    yield r"\end{document}" + "\n"


def _long_table(block: Rows) -> Iterator[str]:
    spec = "".join(rf">{{\raggedright\arraybackslash}}p{{{0.9 * share:.3f}\textwidth}}" for share in block.wide)
    yield rf"{{\footnotesize\setlength{{\tabcolsep}}{{3pt}}\begin{{longtable}}{{{spec}}}"
    yield r"\toprule " + " & ".join(map(markup.tex, block.head)) + r" \\ \midrule \endhead \bottomrule \endfoot"
    yield from (" & ".join(map(markup.tex, line)) + r" \\" for line in block.lines)
    yield r"\end{longtable}}"
