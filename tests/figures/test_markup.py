"""The published tables as LaTeX and HTML: every number in its place, and well-formed."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from hardlab import figures
from hardlab.figures import markup
from hardlab.figures.typeset import Cell, Sheet

# one of each kind: gains, turned rows, settings, an evaluation, the widest, costs
TABLES = ("hvs_t1", "ppcl_t1", "hvs_t7", "hvs_t11", "hnssl_t5", "adco_t2")
SMALL = Sheet(
    "Accuracy & cost",
    [("50 % of A_1", "arm-a k=1", False), ("B <b>", "", True)],
    [("linear", "", False), ("only printed", "", False), ("kNN", "k = 20", False)],
    [
        [Cell("68.1", "46.2±0.6", 10), Cell("1", ""), Cell("", "···")],
        [Cell("+1.2", "+0.3", 1), Cell("", ""), Cell("", "1e-05")],
    ],
    "ours at CIFAR scale (blue; ± half the 95 % t-interval; ··· no row yet)\nrung cpu · 10 seeds",
)  # fmt: skip


def body(tex: str) -> list[list[str]]:
    """The cells of the lines between the rules of a tabular."""
    inner = tex.split(r"\midrule", 1)[1].split(r"\bottomrule")[0]
    lines = [line for line in inner.splitlines() if line.endswith(r"\\")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)&", line.removesuffix(r"\\"))] for line in lines]


def bare(cell: str) -> str:
    """A number of a LaTeX cell, as the drawn table has it, without its seeds."""
    number = re.sub(r"\s\(\d+\)$", "", cell).replace("$", "").replace(r" \pm ", "±")
    for mark, written in (("†", r"\dag{}"), ("‡", r"\ddag{}"), ("§", r"\S{}")):
        number = number.replace(written, mark)
    number = number.replace("\\", "")
    return "···" if number == "--" else number


def test_ours_stands_beside_the_published_value_with_its_interval_and_seeds() -> None:
    tex = markup.latex(SMALL, "small")
    assert body(tex) == [
        [r"50 \% of A\_1 \texttt{arm-a k=1}", "68.1", r"$46.2 \pm 0.6$ (10)", "1", "--"],
        [r"B \textless{}b\textgreater{}", "$+1.2$", "$+0.3$ (1)", "", "1e-05"],
    ]
    heads = tex.split(r"\toprule")[1].split(r"\midrule")[0]
    assert r" & \multicolumn{2}{c}{linear} & \multicolumn{1}{c}{only printed} & \multicolumn{1}{c}{kNN} \\" in heads
    assert " & published & ours & published & ours: k = 20" in heads
    assert r"\caption{Accuracy \& cost. Ours at CIFAR scale ($\pm$ half the 95 \% t-interval;" in tex
    assert tex.count(r"\midrule") == 2, "one below the heads, one above the second line"
    assert r"\resizebox" not in tex


@pytest.mark.parametrize("name", TABLES)
def test_every_cell_of_a_published_table_is_in_both_documents(name: str) -> None:
    sheet = figures.sheet(name, Path(__file__).resolve().parents[2] / "figures" / "data")
    shown = markup.columns(sheet)
    expected = [[cells[at].ours if ours else cells[at].printed for at, ours in shown] for cells in sheet.cells]
    assert {text for line in expected for text in line} >= {t for line in sheet.cells for c in line for t in c[:2] if t}

    tex = markup.latex(sheet, name)
    width = len(re.search(r"\\begin{tabular}{(l(r+))}", tex)[1])  # type: ignore[index]
    assert {len(line) for line in body(tex)} == {width} == {len(shown) + 1}
    numeric = re.compile(r"[+-]?[\d.]+(e-?\d+)?(±[\d.]+)?[†‡§]?|···")
    for line, cells in zip(body(tex), expected, strict=True):
        for cell, text in zip(line[1:], cells, strict=True):
            assert bare(cell) == text or not numeric.fullmatch(text), (cell, text)
    for name_of in ("table", "tabular"):
        assert tex.count(rf"\begin{{{name_of}}}") == tex.count(rf"\end{{{name_of}}}") == 1
    assert re.sub(r"\\[{}]", "", tex).count("{") == re.sub(r"\\[{}]", "", tex).count("}")
    assert re.sub(r"\\\$", "", tex).count("$") % 2 == 0
    assert tex.isascii(), "whatever the encoding that TeX is told"
    assert not re.search(r"(?<!\\)[#%_^](?!\n)", tex.split(r"\label")[0]), "letters that mean something to TeX"

    table = ET.fromstring(markup.fragment(sheet))
    rows = [[re.sub(r" \(\d+\)$", "", td.text or "") for td in tr.findall("td")] for tr in table.iter("tr")]
    assert [row for row in rows if row] == [["–" if t == "···" else t for t in line] for line in expected]
    assert markup.page(sheet).count("<table>") == 1
