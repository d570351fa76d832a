"""How the cost of a step grows, on a GPU and on a page: measures, keeps what others measured, writes the page.

    python -m benchmarks.growth measure --device cuda --out FOLDER    # about 40 seconds, writes FOLDER/growth.json
    python -m benchmarks.growth page [FILE...]                        # keeps such files, writes docs/performance.md

`benchmarks.bench_growth` says what is measured, and how to measure all of it on a processor.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import bench_growth
from benchmarks.timing import Exponent
from hardlab import build, machine
from hardlab.types import HardlabError
from hardlab.workbook import pages

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "performance.md"
PARTS = ("growth", "together")  # of the page, between marks
PANELS = {  # quantities in one panel -> its title; each quantity -> its name there
    ("batch",): "images in a batch, B",
    ("views",): "views to choose from, N (HVS)",
    ("queue", "bank"): "negatives, K",
    ("pixels",): "pixels of a view",
    ("log read", "log written"): "rows of the view log",
    ("ranks", "ranks, ResNet-18"): "processes on all cores",
}
NAMES = {"queue": "MoCo's queue", "bank": "AdCo's bank", "log read": "read", "log written": "written"}
NAMES |= {"ranks": "tiny network", "ranks, ResNet-18": "ResNet-18"}
LIMITS = {"log read": "pyarrow reads", "log written": "pyarrow writes"}
LIMITS |= dict.fromkeys(bench_growth.RANKS, "one process")


def bytes_of(name: str, measured: dict[str, Any], what: str) -> Exponent | None:
    """How bytes grow: those that were ``bytes`` (measured), ``calculated``, or are ``unavoidable``; None if unknown."""
    values: list[int | None] = measured.get(what) or [None]
    if None in values:
        return None
    return Exponent(bench_growth.sizes(name, measured["values"]), [[v] for v in values if v])


# ----------------------------------------------------------------------------------------------------------- the page


def _range(e: Exponent) -> str:
    lo, hi = e.interval
    return f"{e:.2f}" + (f" ({lo:.2f} to {hi:.2f})" if hi > lo else "")


def table(book: dict[str, Any]) -> str:
    """Markdown of a kind's measurements: a row per quantity with its exponents, of seconds and of bytes."""
    lines = [
        "| what grows | from, to | seconds | last step | limit | memory | calculated | limit |",
        "|---" * 8 + "|",
    ]
    for panel, title in PANELS.items():
        for name in panel:
            if name not in book:
                continue
            measured = book[name]
            at = bench_growth.sizes(name, measured["values"])
            found = bench_growth.grown(name, measured)
            memory = [bytes_of(name, measured, what) for what in ("bytes", "calculated", "unavoidable")]
            cells = [
                title + (f", {NAMES[name]}" if name in NAMES else ""),
                f"{at[0]:,} to {at[-1]:,}",
                _range(found.all),
                _range(found.last) + ("" if bench_growth.as_expected(found) else " **faster**"),
                f"{found.alone:.2f}",
                *("–" if e is None else f"{e:.2f}" for e in memory),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def together(books: dict[str, Any]) -> str:
    """Markdown: images per second of two processes with half of the cores each, over those of one with all."""
    lines = ["| processor | network | norms | to as many images each | to as many in all | others |", "|---" * 6 + "|"]
    for kind, book in books.items():
        for name, own in itertools.product(bench_growth.RANKS, (False, True)):
            if name not in book:
                continue
            ratios = [bench_growth.efficiency(book[name], n, own) for n in (1, 2)]
            cells = [f"{r:.2f} ({r.interval[0]:.2f} to {r.interval[1]:.2f})" for r in ratios]
            norms = "of each process" if own else "synchronised"
            others = f"{100 * book[name]['others']:.0f} %"
            lines.append(f"| {' | '.join([kind, NAMES[name], norms, *cells, others])} |")
    return "\n".join(lines)


def page(text: str, books: dict[str, Any]) -> str:
    """docs/performance.md with the measurements between its marks."""
    parts = []
    for kind, book in books.items():
        shown = f"![The cost of a step on {kind}]({_picture(kind).name})"
        commits = {m["commit"][:8] + ", with changes" * m["dirty"]: m["date"][:10] for m in book.values()}
        when = "; ".join(f"{date} at {commit}" for commit, date in commits.items())
        parts.append("\n\n".join([f"### {kind}", shown, table(book), f"Measured {when}."]))
    for mark, block in zip(PARTS, ("\n\n".join(parts), together(books)), strict=True):
        text = pages.between(text, mark, [block])
    return text


def _picture(kind: str) -> Path:
    """The file of a kind's picture."""
    return DOCS / f"growth-{re.sub(r'[^a-z0-9]+', '-', kind.lower()).strip('-')}.svg"


# -------------------------------------------------------------------------------------------------------- the picture


def figure(book: dict[str, Any]) -> Any:
    """Seconds and bytes of a kind over each quantity: what was measured, the fitted line, and the limit."""
    from matplotlib.ticker import LogLocator, NullLocator

    from hardlab.figures import style

    panels = [p for p in PANELS if p[0] in book]
    columns = 3 if len(panels) > 4 else 2
    blocks = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    made, axes = style.new(3.5 * len(blocks), columns, 2 * len(blocks))
    for row, block in enumerate(blocks):
        for column in range(columns):
            above, below = (axes[(2 * row + i) * columns + column] for i in (0, 1))
            if column >= len(block):
                above.set_axis_off()
                below.set_axis_off()
                continue
            for name, colour in zip(block[column], (style.BLUE, style.RED)):
                measured = book[name]
                label = NAMES.get(name, "measured")
                limit = LIMITS.get(name, "the network alone")
                seconds, alone = ([statistics.median(s) for s in measured[key]] for key in ("seconds", "alone"))
                _curve(above, name, measured, seconds, alone, colour, label, limit)
                if None not in measured["bytes"]:
                    taken, least = ([b / 1e6 for b in measured[key]] for key in ("bytes", "unavoidable"))
                    limit = LIMITS[name] if name in bench_growth.RANKS else "unavoidable"
                    _curve(below, name, measured, taken, least, colour, label, limit)
                if measured.get("calculated"):
                    at = bench_growth.sizes(name, measured["values"])
                    calculated = [b / 1e6 for b in measured["calculated"]]
                    once = "calculated" if name == block[column][0] else None
                    below.plot(at, calculated, "o", color=colour, mfc="none", markersize=5, label=once)
            above.set_title(PANELS[block[column]])
            for ax, unit in ((above, "seconds"), (below, "MB at the peak")):
                ax.set(xscale="log", yscale="log", ylabel=unit if column == 0 else "")
                at = bench_growth.sizes(block[column][0], book[block[column][0]]["values"])
                ax.set_xticks(at, [f"{x / 1000:.0f}k" if x > 9999 else f"{x}" for x in at])
                ax.xaxis.set_minor_locator(NullLocator())
                ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
                ax.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
                ax.yaxis.set_minor_locator(NullLocator())
                lo, hi = ax.get_ylim()
                ax.set_ylim(lo, hi * (hi / lo) ** (0.15 + 0.35 * len(block[column])))  # room for the legend
                ax.legend(fontsize=5.5, handlelength=1.4, loc="upper left", borderaxespad=0)
    style.caption(made, "dots: measured; lines: fitted, with their exponents; dashed: the limit; dotted: proportional")
    return made


def _curve(
    ax: Any,
    name: str,
    measured: dict[str, Any],
    ours: list[float],
    limit: list[float],
    colour: str,
    label: str,
    limit_label: str,
) -> None:
    from hardlab.figures import style

    at = bench_growth.sizes(name, measured["values"])
    line = Exponent(at, [[y] for y in ours])
    ax.plot(at, ours, "o", color=colour, markersize=3.5)
    ends = [at[0], at[-1]]
    ax.plot(ends, [line.factor * x**line for x in ends], color=colour, linewidth=1, label=f"{label}: {line:.2f}")
    slower = Exponent(at, [[y] for y in limit])
    ax.plot(at, limit, "--", color=colour, linewidth=0.9, alpha=0.7, label=f"{limit_label}: {slower:.2f}")
    ax.plot(ends, [ours[-1] * at[0] / at[-1], ours[-1]], ":", color=style.GREY, linewidth=0.8)


def picture(book: dict[str, Any]) -> bytes:
    """The figure as SVG, the same bytes for the same measurements."""
    from hardlab.figures import style

    with style.applied():
        buffer = io.BytesIO()
        figure(book).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    measure = verbs.add_parser("measure", help="measure a step on a GPU")
    measure.add_argument("--device", default="cuda", help="cuda, or cpu for a rehearsal")
    measure.add_argument("--out", type=Path, required=True, help="folder for growth.json")
    measure.add_argument("--seconds", type=float, default=35.0, help="about how long")
    write = verbs.add_parser("page", help="write docs/performance.md")
    write.add_argument("files", nargs="*", type=Path, help="growth.json of other machines, to keep")
    given = parser.parse_args(words)
    if given.verb == "measure":
        torch.set_num_threads(1)
        machine.keep_pages()
        print(bench_growth.steps(str(build.device(given.device)), given.out, given.seconds))
        return 0
    for file in given.files:
        bench_growth.keep(json.loads(file.read_text()))
    books = bench_growth.known()
    PAGE.write_text(page(PAGE.read_text(), books))
    for kind, book in books.items():
        _picture(kind).write_bytes(picture(book))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except HardlabError as e:
        sys.exit(f"growth: {e}")
