"""The published tables as LaTeX with booktabs and as HTML, with our numbers beside the printed ones."""

from __future__ import annotations

import html
import re
from typing import NamedTuple

from hardlab.analysis.arms import MARKS
from hardlab.figures.typeset import Cell, Sheet

GAP = "\N{MIDDLE DOT}\N{MIDDLE DOT}\N{MIDDLE DOT}"  # no row yet
WIDE = 7  # columns of numbers beyond which a table is shrunk to the width of the text
_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$", "\N{MULTIPLICATION SIGN}": r"$\times$", "\N{MIDDLE DOT}": r"$\cdot$",
    "\N{DAGGER}": r"\dag{}", "\N{DOUBLE DAGGER}": r"\ddag{}", "\N{SECTION SIGN}": r"\S{}", "\N{PILCROW SIGN}": r"\P{}",
    "\N{MINUS SIGN}": r"$-$", "\N{EN DASH}": "--", "\N{NO-BREAK SPACE}": "~",
}  # fmt: skip


class Column(NamedTuple):
    """A column of the document: the column of the table, and whether it shows the printed or our numbers."""

    at: int
    ours: bool


def columns(sheet: Sheet) -> list[Column]:
    """The printed and our columns for each column of a table, without empty ones."""
    out = []
    for at in range(len(sheet.heads)):
        cells = [line[at] for line in sheet.cells]
        kinds = [ours for ours in (False, True) if any(_text(cell, ours) for cell in cells)]
        out += [Column(at, ours) for ours in kinds or [False]]
    return out


def _text(cell: Cell, ours: bool) -> str:
    return cell.ours if ours else cell.printed


def seeds(cell: Cell) -> str:
    """The number of seeds behind our number, as text that follows it."""
    return f" ({cell.seeds})" if cell.seeds else ""


def tex(text: str) -> str:
    """Plain text for LaTeX."""
    return "".join(_TEX.get(letter, letter) for letter in text)


def _tex_number(text: str) -> str:
    """A number with its sign and half an interval in math mode, and a mark after it; other text unchanged."""
    number = r"[\d.]+(?:e[+-]?\d+)?"
    match = re.fullmatch(rf"([+-]?)({number})(?:\N{{PLUS-MINUS SIGN}}({number}))?([{''.join(MARKS)}]*)", text)
    if match is None:
        return "--" if text == GAP else tex(text)
    sign, number, half, mark = match.groups()
    if not sign and half is None:
        return number + tex(mark)
    return f"${sign}{number}" + (rf" \pm {half}$" if half is not None else "$") + tex(mark)


def latex(sheet: Sheet, label: str) -> str:
    """A float with caption and label; it needs the packages booktabs and, if it is wide, graphicx."""
    shown_columns = columns(sheet)
    spec = "l" + "r" * len(shown_columns)
    lines = [rf"\begin{{tabular}}{{{spec}}}", r"\toprule"]
    heads, rules, last = [], [], 2
    for at, (head, _, _) in enumerate(sheet.heads):
        span = sum(column.at == at for column in shown_columns)
        heads.append(rf"\multicolumn{{{span}}}{{c}}{{{tex(head)}}}")
        rules.append(rf"\cmidrule(lr){{{last}-{last + span - 1}}}")
        last += span
    lines += [" & ".join(["", *heads]) + r" \\", " ".join(rules)]
    under = [tex(_under(sheet, column)) for column in shown_columns]
    lines += [" & ".join(["", *under]) + r" \\", r"\midrule"]
    for (published, ours, rule), cells in zip(sheet.names, sheet.cells, strict=True):
        lines += [r"\midrule"] if rule else []
        name = tex(published) + (rf" \texttt{{{tex(ours)}}}" if ours else "")
        numbers = [
            _tex_number(_text(cells[at], ours_)) + (tex(seeds(cells[at])) if ours_ else "")
            for at, ours_ in shown_columns
        ]
        lines.append(" & ".join([name.strip(), *numbers]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if len(shown_columns) > WIDE:
        lines = [r"\resizebox{\textwidth}{!}{%", *lines[:-1], lines[-1] + "}"]
    caption = tex(f"{sheet.title}. {_caption(sheet)}")
    return "\n".join(
        [r"\begin{table}[t]", r"\centering", r"\small", rf"\caption{{{caption}}}", rf"\label{{tab:{label}}}",
         *lines, r"\end{table}", ""]
    )  # fmt: skip


def fragment(sheet: Sheet) -> str:
    """A ``<figure>`` with the caption and the table, for a page."""
    shown_columns = columns(sheet)
    spans = [sum(column.at == at for column in shown_columns) for at in range(len(sheet.heads))]
    heads = [f'<th colspan="{span}">{_html(head)}</th>' for span, (head, _, _) in zip(spans, sheet.heads, strict=True)]
    lines = ['<figure class="paper">']
    lines += [f"<figcaption><strong>{_html(sheet.title)}.</strong> {_html(_caption(sheet))}</figcaption>"]
    lines += [f"<table><thead><tr><th></th>{''.join(heads)}"]
    under = "".join(f"<th{_ours(column)}>{_html(_under(sheet, column))}</th>" for column in shown_columns)
    lines += [f"</tr><tr><th></th>{under}</tr></thead>", "<tbody>"]
    for (published, ours, rule), cells in zip(sheet.names, sheet.cells, strict=True):
        name = _html(published) + (f" <code>{_html(ours)}</code>" if ours else "")
        row = "".join(f"<td{_ours(column)}>{_number(cells[column.at], column.ours)}</td>" for column in shown_columns)
        lines.append(f"<tr{RULE if rule else ''}><th>{name.strip()}</th>{row}</tr>")
    return "\n".join([*lines, "</tbody></table></figure>", ""])


def page(sheet: Sheet) -> str:
    """The table as a whole page."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{_html(sheet.title)}</title><style>{STYLE}</style></head><body>\n{fragment(sheet)}</body></html>\n"
    )


RULE = ' class="rule"'
STYLE = """
.paper { font: 14px/1.4 system-ui, sans-serif; margin: 1rem 0 2rem; overflow-x: auto; }
.paper figcaption { padding-bottom: 0.5rem; max-width: 60rem; color: #222; }
.paper table { display: table; border-collapse: collapse; border-bottom: 2px solid #222; margin: 0; }
.paper thead { border-top: 2px solid #222; border-bottom: 1px solid #222; }
.paper tr.rule { border-top: 1px solid #222; }
.paper th { font-weight: normal; text-align: left; padding: 0.15rem 0.6rem; border: 0; }
.paper thead th { text-align: center; }
.paper td { text-align: right; padding: 0.15rem 0.6rem; border: 0; white-space: nowrap; }
.paper .ours { color: #0072b2; }
"""


def _under(sheet: Sheet, column: Column) -> str:
    """The second line of a column's head."""
    if not column.ours:
        return "published" if any(cell.printed for line in sheet.cells for cell in line) else ""
    below = sheet.heads[column.at][1]
    return f"ours: {below}" if below else "ours"


def _caption(sheet: Sheet) -> str:
    """The caption as sentences. In a document ours is beside the printed value, and its seeds behind it."""
    legend = "(\N{PLUS-MINUS SIGN} half the 95 % t-interval; number of seeds; -- no row yet)"
    sentences = [re.sub(r"\(blue; .*\)", lambda _: legend, line) for line in sheet.caption.split("\n")]
    return " ".join(f"{s[:1].upper()}{s[1:]}." for s in sentences if s)


def _ours(column: Column) -> str:
    return ' class="ours"' if column.ours else ""


def _number(cell: Cell, ours: bool) -> str:
    text = _text(cell, ours)
    return "\N{EN DASH}" if text == GAP else _html(text + (seeds(cell) if ours else ""))


def _html(text: str) -> str:
    return html.escape(text, quote=False)
