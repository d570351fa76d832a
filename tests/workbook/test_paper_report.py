"""The report of one paper: all of its claims, numbers and departures, in HTML and in LaTeX."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
import yaml

from hardlab.analysis import claims
from hardlab.errors import HardlabError
from hardlab.figures import markup
from hardlab.workbook import paper_report

ROOT = Path(__file__).resolve().parents[2]
OUTLINE = (
    "Summary", "Scope of reproducibility", "Methodology", "Results", "Negative results", "What was easy",
    "What was difficult", "Cost", "What was not done", "Communication with the authors",
)  # fmt: skip


def test_a_report_has_every_claim_every_departure_and_what_does_not_hold_in_both_documents(tmp_path: Path) -> None:
    data = ROOT / "figures" / "data"
    page, tex = (path.read_text() for path in paper_report.build("adco", data, tmp_path))
    assert re.findall(r"<h2>(.*?)</h2>", page) == list(OUTLINE)
    assert re.findall(r"\\section{(.*?)}", tex) == list(OUTLINE)
    text = html.unescape(page)
    parts = dict(zip(OUTLINE, page.split("<h2>")[1:], strict=True))
    judged = claims.verdicts(data)
    judged = judged[judged["paper"] == "adco"]
    assert parts["Scope of reproducibility"].count("<tr>") == 1 + len(judged)
    for row in judged.itertuples():
        assert row.statement in text and markup.tex(row.statement) in tex
        section = "What was not done" if row.n == 0 else "Results"
        assert html.escape(row.statement, quote=False) in parts[section]
        against = row.verdict.startswith("contradicted")
        assert (html.escape(row.statement, quote=False) in parts["Negative results"]) >= against
    lines = (ROOT / "docs" / "departures.md").read_text().split("\n## AdCo")[1].split("\n## ")[0].splitlines()
    departures = [line for line in lines if re.match(r"\| A\d", line)]
    assert parts["Methodology"].count("<li>") == len(departures) > 9
    hours = float(re.search(r"trained for ([\d.]+) hours", parts["Cost"])[1])  # type: ignore[index]
    cells = re.findall(r"<tr>(.*?)</tr>", parts["Cost"])[1:]
    each = [re.findall(r"<td>(.*?)</td>", line) for line in cells]
    assert sum(int(runs) * float(minutes) for *_, runs, minutes, _ in each if minutes) / 60 == pytest.approx(
        hours, abs=0.1
    )
    for n in range(1, claims.PAPERS["adco"][1] + 1):
        assert rf"\label{{tab:adco_t{n}}}" in tex
    assert tex.isascii()
    assert re.findall(r"\\begin{(\w+)}", tex).count("longtable") == tex.count(r"\end{longtable}") > 5


TESTS = {
    "arms: [moco, simclr]\ntest: greater": "moco above simclr",
    "arms: [moco, simclr]\ntest: {name: less, margin: 1}": "moco minus simclr below 1 points",
    "arms: [moco]\ntest: {name: above, value: 40}": "moco above 40 points",
    "arms: [moco, {recipe: simclr, set: {epochs: 9}}]\ntest: {name: below, value: 1.5, of: ratio}":
        "moco over simclr epochs=9 below 1.5 points",
    "arms: [moco, simclr, {recipe: moco, longer: 2}, simclr]\ntest: {name: above, value: 0, of: gain}":
        "(moco minus simclr) minus (moco trained 2 times as long minus simclr) above 0 points",
    "arms: [moco, {recipe: moco, over: first}]\ntest: {name: equal_within, value: 2, margin: 0.5, of: difference}":
        "moco minus moco [first] within 0.5 of 2 points",
    "arms: [moco, simclr, dino]\ntest: ordering": "moco above simclr above dino",
    "arms: [moco, simclr, dino]\ntest: largest": "moco above each of simclr, dino",
}  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), TESTS.items(), ids=TESTS.values())
def test_a_test_is_told_in_words(given: str, expected: str) -> None:
    about = {
        "id": "a", "paper": "adco", "place": "Table 1", "statement": "A statement that is long enough.",
        "published": {"value": None, "unit": "points", "of": "none"}, "testable_from": "cpu",
        "measure": {"where": {"protocol": "knn", "metric": "top1@k=20"}},
    }  # fmt: skip
    claim = claims.Claim.model_validate(about | yaml.safe_load(given))
    assert paper_report.in_words(claim) == f"{expected}; measured by the evaluation knn (top1@k=20)"


def test_a_report_of_no_paper_or_of_no_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HardlabError, match="Did you mean 'hvs'"):
        paper_report.build("hvss", tmp_path, tmp_path / "out")
    with pytest.raises(HardlabError, match=r"no table '.*evaluation\.csv'"):
        paper_report.build("hvs", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_paper_has_sentences_of_what_was_easy_and_what_was_hard() -> None:
    for paper in claims.PAPERS:
        notes = paper_report._notes(paper)
        assert len(notes["easy"]) > 2 and len(notes["hard"]) > 3 and notes["authors"]
        assert not [line for line in notes["hard"] + notes["easy"] if re.search(r"\d \%|points", line)]
        assert len(paper_report.departures(paper)) > 9


def test_every_measure_of_a_claim_has_words() -> None:
    told = {c.id: paper_report.in_words(c).partition("measured by ")[2] for c in claims.load()}
    assert all(text and "{" not in text and "_f4" not in text for text in told.values())
    assert told["hvs-iou-varies"] == "the IoU of pairs: the spread from epoch to epoch"
    assert told["hvs-cost-simsiam"] == "seconds of an epoch"
