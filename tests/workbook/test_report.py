"""The report and the README's table: their numbers against numbers made here, and that they need nothing else."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from hardlab import recipes
from hardlab.analysis import claims, schema, tables
from hardlab.config import Run
from hardlab.types import HardlabError
from hardlab.workbook import citation, report

VALUES = {"simsiam": (0.30, 0.40, 0.50), "simsiam-hvs": (0.35, 0.45, 0.55)}
HALF = 4.302653 * 0.1 / 3**0.5  # Student's t for 2 degrees of freedom, spread 0.1, 3 values


def add_run(runs: Path, run: Run, value: float, started: str = "2026-01-01T00:00:00+00:00") -> None:
    """The folder of a finished run with one accuracy."""
    folder = runs / run.id
    folder.mkdir(parents=True)
    about = {
        "id": run.id,
        "config": run.model_dump(mode="json"),
        "config_hash": run.hash,
        "commit": "0123456789",
        "dirty": True,
        "versions": {"torch": "2.0"},
        "python": "3.11",
        "device": "some processor",
        "seed": run.seed,
        "data": {"name": "shapes", "split": "train", "count": 321, "digest": "d", "skipped": 0},
        "started": started,
        "ended": "2026-01-01T00:01:00+00:00",
        "state": "done",
        "epochs_done": run.epochs,
        "images_per_s": 1234.5678,
        "peak_memory_mb": 99.0,
    }
    (folder / "manifest.json").write_text(json.dumps(about))
    row = {"protocol": "knn", "metric": "top1@k=20", "value": value, "features": "backbone", "data": "shapes"}
    row |= {"split": "test", "n_train": 9, "n_test": 9, "seed": run.seed, "run": run.id, "recipe": run.recipe}
    row |= {"rung": "smoke", "cost_s": 1.5, "options": {}}
    (folder / "results.jsonl").write_text(json.dumps(row) + "\n")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for name, values in VALUES.items():
        for seed, value in enumerate(values):
            add_run(tmp_path / "runs", recipes.recipe(name, "smoke", {"seed": seed}), value)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "hvs_f3.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0"/></svg>')
    (tmp_path / "notebooks").mkdir()
    cell = nbformat.v4.new_code_cell("hidden = 1", outputs=[nbformat.v4.new_output("stream", text="<b>shown</b>\n")])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "notebooks" / "00_x.ipynb")
    (tmp_path / "notebooks" / "00_x.done.json").write_text('{"state": "done", "seconds": 3.25}')
    return tmp_path


class Page(HTMLParser):
    """Rows of the tables, everything that is loaded, links, ids, texts of elements, and pictures."""

    VOID = ("img", "meta", "input", "br", "link", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []  # tag, attributes, text in it
        self.open: list[tuple[str, list[str]]] = []
        self.in_cell = False
        self.feed(text)
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.loads += [v for k, v in attrs if k in ("src", "srcset", "data", "action", "poster") and v]
        self.loads += [v for k, v in attrs if tag == "link" and k == "href" and v]
        self.links += [v for k, v in attrs if tag == "a" and k == "href" and v]
        self.ids += [v for k, v in attrs if k == "id" and v]
        if tag == "img":
            self.images.append(given)
        if tag not in self.VOID:
            text: list[str] = []
            self.elements.append((tag, given, text))
            self.open.append((tag, text))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")
        opened, _ = self.open.pop()
        assert opened == tag, f"<{opened}> is closed by </{tag}>"

    def handle_data(self, data: str) -> None:
        for _, text in self.open:
            text.append(data)
        if self.in_cell:
            self.rows[-1][-1] += data.strip()

    def classed(self, name: str) -> list[tuple[dict[str, str | None], str]]:
        """The attributes and the text of every element of a class."""
        every = [(given, " ".join("".join(text).split())) for _, given, text in self.elements]
        return [(given, text) for given, text in every if name in (given.get("class") or "").split()]


@pytest.mark.parametrize("single_file", [False, True], ids=["with its folder", "single file"])
def test_the_report_loads_its_folder_alone_or_nothing_and_its_links_all_resolve(out: Path, single_file: bool) -> None:
    tables.collect(out / "runs", out / "data")
    written = report.build(out, single_file=single_file)
    text = written.read_text()
    page = Page(text)
    assert page.loads and all(source.startswith("data:") if single_file else (out / source).exists()
                              for source in page.loads)  # fmt: skip
    outside = re.findall(r"https?://(?!www\.w3\.org/)[^\s\"'<]+", re.sub(r"data:[^\"]+", "", text))
    assert set(outside) <= {reference for line in citation.text().splitlines() for reference in line.split()}
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|\bimport\(", text)
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids, link
        elif not link.startswith("data:text/csv;base64,"):
            assert (out / link).exists() or link == "notebooks/00_x.html", link


def test_the_contents_name_every_section_in_order(out: Path) -> None:
    page = Page(report.build(out).read_text())
    sections = [given["id"] for tag, given, _ in page.elements if tag == "section"]
    assert sections == [
        "claims",
        "figures",
        "results",
        "explorer",
        "runs",
        "costs",
        "notebooks",
        "data",
        "versions",
        "citation",
    ]
    listed = [link[1:] for link in page.links if link.startswith("#") and link[1:] in sections]
    assert listed[: len(sections)] == sections


def test_the_report_shows_every_run_and_the_interval_over_its_seeds(out: Path) -> None:
    page = Page(report.build(out).read_text())
    runs = page.classed("run")
    assert len(runs) == 6 and all(
        "1235" in text and "0123456*" in text and "some processor" in text for _, text in runs
    )
    for given, text in runs:
        about = json.loads((out / "runs" / str(given["id"]) / "manifest.json").read_text())
        assert " ".join(json.dumps(about, indent=1).split()) in text
    for name, values in VALUES.items():
        (row,) = [r for r in page.rows if r[0] == name and r[4:5] == ["backbone"]]
        mean = sum(values) / 3
        assert [float(v) for v in row[5:8]] == pytest.approx([mean, mean - HALF, mean + HALF], rel=1e-3)
        assert row[8] == "3"


def test_costs_are_those_of_the_runs_of_each_recipe_and_device(out: Path) -> None:
    rows = [r for r in Page(report.build(out).read_text()).rows if r[1:2] == ["some processor"]]
    parameters = ""  # which these manifests lack
    assert rows == [
        [name, "some processor", "3", "3.0", "1.0", "1235.0", "99.0", parameters] for name in sorted(VALUES)
    ]


def test_runs_of_other_epochs_are_a_row_of_their_own_and_the_same_run_twice_counts_once(out: Path) -> None:
    short = recipes.recipe("simsiam", "smoke", {"epochs": 1})
    add_run(out / "runs", short, 0.9)
    again = recipes.recipe("simsiam", "smoke")
    folder = out / "runs" / again.id
    folder.rename(folder.with_name("simsiam-earlier"))
    add_run(out / "runs", again, VALUES["simsiam"][0], "2026-01-02T00:00:00+00:00")
    rows = [r for r in Page(report.build(out).read_text()).rows if r[0] == "simsiam" and r[4:5] == ["backbone"]]
    assert sorted((r[2], r[5], r[8]) for r in rows) == [("1", "0.9", "1"), (str(again.epochs), "0.4", "3")]


def test_the_reports_overlaps_are_the_quantities_of_views_whatever_data_are_called(out: Path) -> None:
    rows = [
        dict.fromkeys(schema.columns("hvs_summary"), "x") | {"quantity": quantity, "name": name, "n": 1}
        | {"mean": 0.5, "lo": "", "hi": ""}
        for quantity, name in (("iou_first", "iou_first"), ("knn top1 of backbone on iou-set {}: gain", ""))
    ]  # fmt: skip
    (out / "data").mkdir()
    pd.DataFrame(rows).to_csv(out / "data" / "hvs_summary.csv", index=False)
    page = Page(report.build(out).read_text())
    assert [r[1] for r in page.rows if r[0] == "x" and len(r) == 6] == ["iou first"]


def test_the_report_names_the_pages_of_the_notebooks_and_its_size_does_not_grow_with_pictures(out: Path) -> None:
    (out / "data").mkdir()
    pd.DataFrame({"x": range(10)}).to_csv(out / "data" / "long.csv", index=False)
    before = report.build(out).stat().st_size
    svg = out / "figures" / "hvs_f3.svg"
    svg.write_text(svg.read_text().replace("</svg>", f"<desc>{'x' * 10**6}</desc></svg>"))
    pd.DataFrame({"x": range(10**4)}).to_csv(out / "data" / "long.csv", index=False)
    text = report.build(out).read_text()
    assert len(text) < before + 100 and "&lt;b&gt;shown" not in text
    assert '<a href="notebooks/00_x.html">00_x</a>' in text and "3.25 s" in text
    assert 'src="figures/hvs_f3.svg"' in text and 'href="data/long.csv"' in text


def test_a_single_file_holds_figures_and_notebooks_without_their_code(out: Path) -> None:
    text = report.build(out, single_file=True).read_text()
    assert 'id="hvs_f3"' in text and "hidden = 1" not in text
    assert "&lt;b&gt;shown" in text and "<b>shown" not in text  # a cell's text is text
    assert 'href="notebooks/00_x.html"' in text and "3.25 s" in text


def test_every_claim_is_named_by_an_anchor_and_says_its_verdict_its_paper_and_its_runs(out: Path) -> None:
    assert "No tables were collected" in report.build(out).read_text()
    tables.collect(out / "runs", out / "data")
    text = report.build(out).read_text()
    page = Page(text)
    shown = {given["id"]: (given, output) for given, output in page.classed("claim")}
    verdicts = claims.verdicts(out / "data")
    assert shown.keys() == {f"claim-{name}" for name in verdicts["id"]}
    for row in verdicts.itertuples():
        given, output = shown[f"claim-{row.id}"]
        assert given["data-verdict"] == row.verdict and str(given["data-paper"]).lower() == row.paper
        for part in (row.statement, row.published, row.why, row.id, *row.commands.splitlines()):
            assert " ".join(part.split()) in output
        assert all(f'<a href="#{name}">' in text and name in page.ids for name in row.runs.split())
    options = {"".join(words) for tag, _, words in page.elements if tag == "option"}
    assert {given["data-verdict"] for given, _ in shown.values()} <= options
    assert {given["data-paper"] for given, _ in shown.values()} <= options


def test_a_figure_has_its_caption_in_words_its_size_and_its_tables(out: Path) -> None:
    tables.collect(out / "runs", out / "data")
    (out / "figures" / "hvs_t1.svg").write_text('<svg width="100pt" height="50.5pt" viewBox="0 0 100 50.5"/>')
    page = Page(report.build(out, single_file=True).read_text())
    by_name = {given["id"]: "".join(text) for tag, given, text in page.elements if tag == "figure"}
    assert "share of images whose selected pair has the lowest IoU" in by_name["hvs_f3"]
    assert "HVS, Table 1" in by_name["hvs_t1"]
    lazy = [image for image in page.images if image.get("loading") == "lazy"]
    assert {"180", "91"} == {value for i in lazy for value in (i.get("width"), i.get("height")) if value}
    assert len(lazy) == 2 and all(image["alt"] for image in lazy)
    assert "#data-evaluation" in page.links
    csv = next(link for link in page.links if link.startswith("data:text/csv"))
    kept = [base64.b64decode(link.partition(",")[2]) for link in page.links if link.startswith("data:text/csv")]
    assert csv and (out / "data" / "evaluation.csv").read_bytes() in kept


def test_alarms_and_false_negatives_are_told_beside_the_run(out: Path) -> None:
    tables.collect(out / "runs", out / "data")
    name = next(p.name for p in (out / "runs").iterdir())
    rows = [
        dict.fromkeys(schema.columns("negatives"), 1.0) | {"run": name, "step": step, "false_hardest": share}
        | {"false_all": 0.1} for step, share in ((5, 0.9), (9, 0.25))
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(out / "data" / "negatives.csv", index=False)
    about = json.loads((out / "runs" / name / "manifest.json").read_text())
    about["health"] = [{"step": 9, "rule": "collapse", "sentence": "At step 9 <all> is one."}]
    (out / "runs" / name / "manifest.json").write_text(json.dumps(about))
    (message,) = [output for given, output in Page(report.build(out).read_text()).classed("run") if given["id"] == name]
    assert (
        "At step 9 <all> is one." in message and "25 % of the hardest negatives" in message and "10 % of all" in message
    )


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.slow
def test_in_a_browser_the_filter_hides_claims_and_an_anchor_opens_one(out: Path, tmp_path: Path) -> None:
    tables.collect(out / "runs", out / "data")
    page = report.build(out)
    verdicts = claims.verdicts(out / "data")
    chosen = verdicts[verdicts["paper"] == "hvs"].iloc[3]
    act = f"""<script>addEventListener("load", () => {{
      location.hash = "claim-{chosen.id}";
      setTimeout(() => {{
        const opened = document.querySelectorAll(".claim[open]").length;
        const [search, paper] = document.querySelectorAll(".filter input, .filter select");
        paper.value = "HVS"; search.value = "SimSiam linear";
        document.querySelector(".filter").dispatchEvent(new Event("input"));
        const shown = [...document.querySelectorAll(".claim:not([hidden])")].map((c) => c.id);
        document.title = JSON.stringify([opened, shown, document.documentElement.scrollWidth, innerWidth]);
      }}, 100);
    }});</script></body>"""
    page.write_text(page.read_text().replace("</body>", act))
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    words += ["--window-size=500,900", "--virtual-time-budget=3000", "--dump-dom", page.as_uri()]
    dom = subprocess.run(words, capture_output=True, text=True, timeout=120).stdout
    opened, shown, wide, window = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dom)[1]))  # type: ignore[index]
    fits = [r.id for r in verdicts.itertuples() if r.paper == "hvs"]
    assert opened == 1 and wide <= window
    assert shown and {name.removeprefix("claim-") for name in shown} < set(fits)


def test_the_report_says_what_is_missing_and_a_folder_without_runs_is_refused(tmp_path: Path, out: Path) -> None:
    (out / "figures" / "hvs_f3.svg").unlink()
    for file in out.glob("runs/*/results.jsonl"):
        file.unlink()
    text = report.build(out).read_text()
    assert "No figure was drawn" in text and "No run was evaluated" in text
    with pytest.raises(HardlabError, match="empty"):
        report.build(tmp_path / "empty")
