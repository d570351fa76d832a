"""The explorer of hardness: what its page holds against the files of the runs, and that it needs nothing else."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pyarrow.parquet
import pytest
import torch
from click.testing import CliRunner
from made_runs import draw_log, write_run
from PIL import Image

import hardlab
from hardlab import build, cli, recipes, run_folder, train
from hardlab.analysis import hardness
from hardlab.errors import HardlabError
from hardlab.workbook import explorer, html, report

TINY = {"data.fraction": 0.04, "backbone.width": 4, "epochs": 2, "batch_size": 32, "logs.views_every": 1}
TINY |= {"logs.checkpoint_every": 1, "logs.views_rows": 16}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two trained runs, and one with a made view log and made generated pairs, without images."""
    root = tmp_path_factory.mktemp("runs")
    made = {}
    for name in ("simsiam-hvs", "hexa-moco"):
        run = recipes.recipe(name, "smoke", TINY)
        made[name] = train.train(run, root, device="cpu", say=lambda line: None)
    write_run(root, "ppcl", 0, draw_log(20, 3, 0))
    made["ppcl"] = next(root.glob("ppcl-*"))
    about = json.loads((made["hexa-moco"] / "manifest.json").read_text())
    about |= json.loads((made["ppcl"] / "manifest.json").read_text())
    (made["ppcl"] / "manifest.json").write_text(json.dumps(about))
    (made["ppcl"] / "snapshots").mkdir()
    rng = np.random.default_rng(0)
    for step in (10, 20, 30):
        pair = {k: rng.integers(0, 255, (16, 3, 8, 8), np.uint8).repeat(2, 2).repeat(2, 3) for k in ("g", "g_ema")}
        np.savez(made["ppcl"] / "snapshots" / f"generated-{step:08d}.npz", **pair, g_frechet=np.float32(step / 4))
    return made


@pytest.fixture(scope="module")
def one(runs: dict[str, Path]) -> explorer.Explorer:
    return hardlab.explore(runs["simsiam-hvs"])


@pytest.fixture(scope="module")
def both(runs: dict[str, Path]) -> explorer.Explorer:
    return hardlab.explore(runs["simsiam-hvs"], runs["hexa-moco"])


def in_page(made: explorer.Explorer) -> dict:
    """The values in the page, read from its text."""
    (text,) = re.findall(r'<script type="application/json">(.*?)</script>', made.page, re.DOTALL)
    return json.loads(text)


def pixels(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB"), dtype=int)


def four(value: float) -> object:
    return pytest.approx(value, rel=1e-3, abs=1e-6)


def test_the_ledger_in_the_page_is_the_view_log_pair_by_pair(runs, both):
    files = sorted((runs["simsiam-hvs"] / "views").glob("*.parquet"))
    rows = [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]
    by_step: dict[int, list[float]] = {}
    for row in rows:
        by_step.setdefault(row["step"], []).append(row["loss"])
    for row in rows:
        others = by_step[row["step"]]
        below, equal = (sum(test(x, row["loss"]) for x in others) for test in (float.__lt__, float.__eq__))
        row["percentile"] = 100 * (below + equal / 2) / len(others)
    panel = in_page(both)["ledger"][runs["simsiam-hvs"].name]
    assert panel["pairs"] == 6 and len(panel["images"]) > 20
    hardest = [image["percentile"] for image in panel["images"]]
    assert hardest == sorted(hardest, reverse=True)
    for image in panel["images"]:
        own = [row for row in rows if row["index"] == image["row"]]
        assert image["seen"] == len({row["step"] for row in own})
        assert image["percentile"] == four(sum(row["percentile"] for row in own) / len(own))
        for at in image["at"]:
            logged = sorted((r for r in own if r["step"] == at["step"]), key=lambda r: -r["loss"])
            views = {slot: box for slot, *box in at["views"]}
            assert len(logged) == len(at["pairs"]) == 6 and sum(pair[6] for pair in at["pairs"]) == 1
            for row, (a, b, loss, percentile, iou, colour, chosen) in zip(logged, at["pairs"], strict=True):
                assert (a, b, loss, percentile) == (row["a"], row["b"], four(row["loss"]), four(row["percentile"]))
                assert bool(chosen) == row["chosen"] and at["epoch"] == row["epoch"]
                boxes = [[row[f"{s}_{k}"] for k in ("top", "left", "height", "width")] for s in "ab"]
                assert [views[a], views[b]] == [[four(x) for x in box] for box in boxes]
                (t, x, h, w), (t2, x2, h2, w2) = boxes
                shared = max(0, min(t + h, t2 + h2) - max(t, t2)) * max(0, min(x + w, x2 + w2) - max(x, x2))
                assert iou == four(shared / (h * w + h2 * w2 - shared))
                apart = [row[f"a_{k}"] - row[f"b_{k}"] for k in ("brightness", "contrast", "saturation", "hue")]
                assert colour == four(math.hypot(*apart))


def test_a_thumbnail_is_the_image_of_its_row(runs, both):
    panel = in_page(both)["ledger"][runs["simsiam-hvs"].name]
    images = build.images(recipes.recipe("simsiam-hvs", "smoke", TINY))
    sheet, side, columns = pixels(panel["atlas"]["src"]), panel["atlas"]["side"], panel["atlas"]["columns"]
    for i, image in enumerate(panel["images"][:8]):
        assert image["name"] == images.names[image["row"]]
        assert image["label"] == images.classes[images.targets[image["row"]]]
        y, x, (w, h) = i // columns * side, i % columns * side, panel["atlas"]["sizes"][i]
        shown = sheet[y : y + h, x : x + w].mean((0, 1))
        assert shown == pytest.approx(images.pixels[image["row"]].double().mean((1, 2)).numpy(), abs=4)


def test_a_negative_shows_the_query_that_is_nearest_to_it(runs, both):
    panel = in_page(both)["negatives"][runs["hexa-moco"].name]
    files = sorted((runs["hexa-moco"] / "snapshots").glob("method-*.npz"))
    assert [at["step"] for at in panel["at"]] == [int(f.stem[-8:]) for f in files]
    held = dict(np.load(files[-1]))
    points = panel["at"][-1]["points"]
    kinds = [point[2] for point in points]
    n = sum(kinds)
    assert kinds == sorted(kinds, reverse=True) and 0 < n < len(points)
    kept = np.linspace(0, len(held["negatives"]) - 1, n).round().astype(int)
    for point, row in zip(points, kept, strict=False):
        cosines = [float(held["negatives"][row] @ query) for query in held["queries"]]
        assert point[3] == pytest.approx(max(cosines), abs=2e-3)
        assert panel["rows"][point[4]] == held["query_rows"][int(np.argmax(cosines))]
    assert all(0 <= value <= 1 for at in panel["at"] for point in at["points"] for value in point[:2])


def test_an_attack_grows_with_its_size_and_raises_the_loss(runs, both):
    panel = in_page(both)["attack"][runs["hexa-moco"].name]
    own, n, s = panel["own"], len(panel["sizes"]), panel["side"]
    assert panel["sizes"][0] == 0 and panel["sizes"][own] == pytest.approx(1, abs=1e-3)
    assert panel["sizes"] == sorted(panel["sizes"]) and panel["mean"][own] > panel["mean"][0]
    tiles = pixels(panel["tiles"]).reshape(len(panel["loss"]), s, 2 * n, s, 3)
    for k, size in enumerate(panel["sizes"]):
        change = tiles[:, :, k] - tiles[:, :, 0]
        assert abs(change).max() <= size + 1
        assert abs(tiles[:, :, n + k] - 127.5 - panel["amplify"] * change).max() <= panel["amplify"] + 2
    session = train.reopen(runs["hexa-moco"])
    batch = next(session.batches())
    session.generator.manual_seed(0)
    torch.manual_seed(0)
    assert panel["mean"][own] == four(train.begin(session, batch).means()["adversarial"].item())


def test_methods_are_compared_by_ranks_of_the_same_images(runs, both):
    panel = in_page(both)["methods"]["all"]
    rows = sorted(image["row"] for image in panel["images"])
    for k, name in enumerate(panel["runs"]):
        losses = hardness.losses(runs["simsiam-hvs"].parent / name, rows, draws=8)
        for image in panel["images"][:5]:
            at = rows.index(image["row"])
            share = [(np.sum(d < d[at]) + np.sum(d == d[at]) / 2) / len(rows) for d in losses]
            assert image["percentiles"][k] == four(100 * float(np.mean(share)))


def test_generated_pairs_stand_one_above_the_other_at_every_snapshot(runs):
    panel = in_page(hardlab.explore(runs["ppcl"]))["generated"][runs["ppcl"].name]
    assert [(at["step"], at["scores"]) for at in panel["at"]] == [(s, {"g_frechet": s / 4}) for s in (10, 20, 30)]
    held = np.load(runs["ppcl"] / "snapshots" / "generated-00000020.npz")
    strip = pixels(panel["at"][1]["strip"])
    for line, name in enumerate(("g", "g_ema")):
        for i in range(panel["count"]):
            shown = strip[16 * line : 16 * line + 16, 16 * i : 16 * i + 16].mean()
            assert shown == pytest.approx(held[name][i].mean(), abs=5)


VOID = ("meta", "img", "br", "link", "input")


class Page(HTMLParser):
    """What a page loads, its open tags, and its text outside of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [v for k, v in attrs if k in ("src", "srcset", "data", "href", "action") and v]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += "" if self.open and self.open[-1] in ("script", "style") else data


def test_the_page_is_one_small_file_that_loads_nothing(runs, both, tmp_path):
    written = both.write(tmp_path / "deep" / "page.html")
    text = written.read_text(encoding="utf-8")
    page = Page(text)
    assert len(text.encode()) < 3_000_000 and page.open == []
    assert page.loads and all(source.startswith("data:image/") for source in page.loads)
    assert set(re.findall(r"https?://[^\s\"'`)]*", text)) <= {"http://www.w3.org/2000/svg"}
    for name in ("ledger", "negatives", "attack", "methods"):  # a picture and a text form beside each
        section = text.split(f'data-panel="{name}"')[1].split("</section>")[0]
        assert section.count("<img") == section.count("<details") >= 1 and "<table" in section
    assert "@media print" in text


def test_a_name_cannot_end_the_script_that_holds_it(runs, monkeypatch):
    monkeypatch.setattr("hardlab.workbook.explorer_data.Opened.name_of", lambda self, row: "</script><b>'\"&")
    made = hardlab.explore(runs["simsiam-hvs"])
    assert Page(made.page).open == [] and "<b>" not in made.page
    panel = in_page(made)["ledger"][runs["simsiam-hvs"].name]
    assert panel["images"][0]["name"] == "</script><b>'\"&"


ABSENT = {
    "negatives": ("kept no negatives", "hardlab pretrain adco --rung smoke"),
    "generated": ("kept no generated images", "hardlab pretrain ppcl --rung smoke"),
    "attack": ("attacks nothing", "hardlab pretrain hexa-moco --rung smoke"),
    "methods": ("need two runs or more", "hardlab explore RUN RUN ..."),
}


@pytest.mark.parametrize("panel", ABSENT)
def test_a_panel_without_data_says_what_is_missing_and_which_command_makes_it(one, panel):
    section = one.page.split(f'data-panel="{panel}"')[1].split("</section>")[0]
    what, command = ABSENT[panel]
    assert panel not in one.data and what in section and f"<code>{command}</code>" in section
    assert "<img" not in section and "hl-live" not in section


def test_without_a_view_log_or_images_it_shows_what_there_is(runs, tmp_path):
    bare = tmp_path / runs["hexa-moco"].name
    shutil.copytree(runs["hexa-moco"], bare, ignore=shutil.ignore_patterns("views", "checkpoints"))
    made = hardlab.explore(bare)
    assert set(made.data) == {"negatives"}
    assert "logged no candidates: <code>hardlab pretrain hexa-moco --rung smoke logs.views_every=2</code>" in made.page
    other = hardlab.explore(runs["ppcl"])  # its images have another digest
    assert other.data["ledger"][runs["ppcl"].name]["atlas"] is None and "cannot be shown" in other.page
    shutil.rmtree(bare / "snapshots")
    with pytest.raises(HardlabError, match=r"nothing to explore.*logged no candidates"):
        hardlab.explore(bare)


def test_why_is_the_mean_rank_correlation_within_images(runs, both):
    from scipy import stats

    log = hardness.scored(runs["simsiam-hvs"])
    each = [stats.spearmanr(part["loss"], part["iou"])[0] for _, part in log.groupby(["step", "index"])]
    shown = in_page(both)["ledger"][runs["simsiam-hvs"].name]["why"]["iou"]
    assert shown == pytest.approx(np.nanmean(each)) and f"{shown:+.2f} with overlap" in both.page


def test_the_table_and_the_named_log_say_which_file_an_index_is(runs, both):
    names = list(build.images(recipes.recipe("simsiam-hvs", "smoke", TINY)).names)
    log = hardness.named(runs["simsiam-hvs"])
    assert all(names[index] == name for index, name in zip(log["index"], log["name"], strict=True))
    assert list(run_folder.image_names(runs["simsiam-hvs"])) == names
    assert all(names[row] == name for row, name in zip(both.images["row"], both.images["name"], strict=True))


def test_the_command_writes_the_page_and_refuses_what_is_no_run(runs, tmp_path):
    runner, target = CliRunner(), tmp_path / "x.html"
    result = runner.invoke(cli.cli, ["explore", str(runs["ppcl"]), "--out", str(target)])
    assert result.exit_code == 0 and result.stdout.strip() == str(target), result.output
    assert target.read_text(encoding="utf-8") == hardlab.explore(runs["ppcl"]).page
    result = runner.invoke(cli.cli, ["explore", str(tmp_path)])
    assert result.exit_code == 2 and "is not a run" in result.output
    with pytest.raises(HardlabError, match="given twice"):
        hardlab.explore(runs["ppcl"], runs["ppcl"])


def test_a_cell_shows_it_and_it_survives_the_export_of_the_notebook(runs):
    made = hardlab.explore(runs["ppcl"])
    output = nbformat.v4.new_output("display_data", {"text/html": made._repr_html_(), "text/plain": repr(made)})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("hardlab.explore(run)", outputs=[output])])
    page = html.notebook_page(notebook, "x")
    scripts = [re.findall(r"<script.*?>(.*?)</script>", text, re.DOTALL) for text in (made.body, page)]
    assert scripts[0] == scripts[1] and len(scripts[0]) == 2 and Page(page).open == []


def test_the_report_of_a_rung_holds_the_explorer_of_a_few_of_its_runs(runs, tmp_path):
    (tmp_path / "runs").symlink_to(runs["ppcl"].parent)
    page = report.build(tmp_path).read_text(encoding="utf-8")
    data = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)[0])
    assert {name: set(some) for name, some in data.items() if name != "methods"} == {
        "ledger": {path.name for path in runs.values()},
        "negatives": {runs["hexa-moco"].name},
        "attack": {runs["hexa-moco"].name},
        "generated": {runs["ppcl"].name},
    }
    assert all(source.startswith(("data:image/", "#", "runs/")) for source in Page(page).loads)


DRIVE = """<pre id="told"></pre><script>
const told = {errors: []}, q = (s) => document.querySelector(s);
const text = () => q("[data-panel=ledger] .hl-status").textContent;
const shown = () => document.querySelectorAll(".hl-thumbs button:not([hidden])").length;
const key = (node, name) => node.dispatchEvent(new KeyboardEvent("keydown", {key: name, bubbles: true}));
const slide = (panel, name, value) => {
  const s = q(`[data-panel=${panel}] [aria-label='${name}']`), before = s.closest("section").textContent;
  s.value = value;
  s.dispatchEvent(new Event("input"));
  return before !== s.closest("section").textContent;
};
window.addEventListener("error", (e) => told.errors.push(e.message));
told.thumbs = shown();
told.rank = slide("ledger", "rank of pair", 3);
told.checkpoint = slide("negatives", "checkpoint", 0);
told.size = slide("attack", "size", 6);
key(q(".hl-plot"), "Enter");
for (let i = 0; i < 9; i++) key(q(".hl-plot"), "ArrowUp");
told.brushed = shown();
key(q(".hl-plot"), "Escape");
told.cleared = shown();
const first = text();
key(q(".hl-thumbs"), "ArrowRight");
told.next = text() !== first;
told.live = [...document.querySelectorAll("section")].map((s) => s.querySelector(".hl-live:not([hidden])") !== null);
q("#told").textContent = JSON.stringify(told);
</script>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_in_a_browser_sliders_keys_and_brushes_change_what_is_shown(both, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(both.page.replace("</body>", f"{DRIVE}</body>"), encoding="utf-8")
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    result = subprocess.run([*words, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    shown = json.loads(re.findall(r'<pre id="told">(.*?)</pre>', result.stdout)[0])
    assert shown["errors"] == [] and shown["rank"] and shown["checkpoint"] and shown["size"] and shown["next"]
    assert shown["live"] == [True, True, False, True, True]
    images = next(iter(both.data["ledger"].values()))["images"]
    assert shown["brushed"] < shown["thumbs"] == shown["cleared"] == len(images)
