"""The report and the README's table: their numbers against numbers made here, and that they need nothing else."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from hardlab import recipes
from hardlab.analysis import claims, schema, tables
from hardlab.config import Run
from hardlab.types import HardlabError
from hardlab.workbook import report

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
    """Rows of the tables, everything that is loaded, and headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.loads: list[str] = []
        self.scripts = 0
        self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [v for k, v in attrs if k in ("src", "srcset", "data") and v]
        self.loads += [v for k, v in attrs if tag == "link" and k == "href" and v]
        self.scripts += tag == "script"
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            self.rows[-1][-1] += data.strip()


def test_the_report_is_one_file_that_loads_nothing(out: Path) -> None:
    page = Page(report.build(out).read_text())
    assert page.scripts == 0
    assert page.loads and all(source.startswith("data:") for source in page.loads)


def test_the_report_shows_every_run_and_the_interval_over_its_seeds(out: Path) -> None:
    page = Page(report.build(out).read_text())
    runs = [r for r in page.rows if r and r[0].startswith("simsiam") and "some processor" in r]
    assert len(runs) == 6 and all("1235" in "".join(r) and "0123456*" in r for r in runs)
    for name, values in VALUES.items():
        (row,) = [r for r in page.rows if r[0] == name and r[4:5] == ["backbone"]]
        mean = sum(values) / 3
        assert [float(v) for v in row[5:8]] == pytest.approx([mean, mean - HALF, mean + HALF], rel=1e-3)
        assert row[8] == "3"


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
    assert [r[1] for r in page.rows if r[0] == "x"] == ["iou first"]


def test_the_report_shows_figures_and_notebooks_without_their_code(out: Path) -> None:
    text = report.build(out).read_text()
    assert 'id="hvs_f3"' in text and "shown" in text and "hidden" not in text
    assert "<b>shown" not in text  # a cell's text is text
    assert 'href="notebooks/00_x.html"' in text and "3.25 s" in text


def test_the_report_shows_every_claim_with_its_verdict_and_links_to_the_runs(out: Path) -> None:
    assert "No tables were collected" in report.build(out).read_text()
    tables.collect(out / "runs", out / "data")
    text = report.build(out).read_text()
    rows = {r[0]: r for r in Page(text).rows if r}
    verdicts = claims.verdicts(out / "data")
    assert all(rows[v.id][7] == v.verdict and rows[v.id][3] == v.statement for v in verdicts.itertuples())
    linked = {name for runs in verdicts["runs"] for name in runs.split()}
    assert linked and all(
        f'<a href="#{name}">' in text and f'<a id="{name}" href="runs/{name}/manifest.json">' in text for name in linked
    )


def test_the_report_says_what_is_missing_and_a_folder_without_runs_is_refused(tmp_path: Path, out: Path) -> None:
    (out / "figures" / "hvs_f3.svg").unlink()
    for file in out.glob("runs/*/results.jsonl"):
        file.unlink()
    text = report.build(out).read_text()
    assert "No figure was drawn" in text and "No run was evaluated" in text
    with pytest.raises(HardlabError, match="empty"):
        report.build(tmp_path / "empty")
