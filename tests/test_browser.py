"""Notebooks in JupyterLab, and pages without a network, in headless Chromium: what a person sees and moves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import NAMES, Lab, chromium, jupyterlab

from hardlab import own_images, recipes, train
from hardlab.workbook import execute, explorer, report

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
RUNS = ("simsiam", "simsiam-hvs")  # that notebook 03 reads
SMALL = {"epochs": 2, "data.fraction": 0.1, "logs.views_every": 1}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = chromium()
    if program is None:
        pytest.skip(f"No Chromium is installed ({', '.join(NAMES)}): on Debian, `apt-get install chromium` adds it.")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: install the extra 'dev'")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def folder(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The notebooks, with small runs beside them; none without a browser."""
    root = tmp_path_factory.mktemp("lab")
    (root / "notebooks").mkdir()
    for path in execute.notebooks():
        shutil.copy(path, root / "notebooks")
    for name in RUNS:
        train.train(recipes.recipe(name, "smoke", SMALL), root / "runs", say=lambda line: None)
    own_images.drawn(root / "out" / "10_your_images" / "pictures")
    return root


@pytest.fixture(scope="module")
def lab(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with jupyterlab(folder, tmp_path_factory.mktemp("jupyter")) as running:
        yield running


class Page:
    """A tab, with the errors of its console and the addresses outside this machine that it asked for."""

    def __init__(self, browser: Any, width: int = 1400, offline: bool = False) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, offline=offline)
        self.tab = self.context.new_page()
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.tab.on("console", lambda m: self.errors.append(f"{m.text} {m.location}") if m.type == "error" else None)
        self.tab.on("pageerror", lambda e: self.errors.append(str(e)))
        self.context.route("**/*", self._local)

    def _local(self, route: Any) -> None:
        if route.request.url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "file:", "data:", "blob:")):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()


@pytest.fixture
def page(browser: Any) -> Iterator[Page]:
    opened = Page(browser)
    yield opened
    opened.context.close()


def parameters(folder: Path, name: str, **changes: Any) -> None:
    """Change parameters of a notebook, as a person does in its cell."""
    path = folder / "notebooks" / f"{name}.ipynb"
    nb = json.loads(path.read_text())
    cell = next(c for c in nb["cells"] if "parameters" in c["metadata"].get("tags", []))
    lines = "".join(cell["source"]).splitlines()
    for key, value in changes.items():
        (at,) = [i for i, line in enumerate(lines) if line.startswith(f"{key} = ")]
        lines[at] = f"{key} = {value!r}"
    cell["source"] = "\n".join(lines)
    path.write_text(json.dumps(nb))


def run_all(page: Page, lab: Lab, name: str) -> Any:
    """Open a notebook, run all its cells, and return its panel; a cell that raises fails the test."""
    tab = page.tab
    tab.goto(lab.notebook(f"notebooks/{name}.ipynb"))
    panel = tab.locator(".jp-NotebookPanel:has(.jp-Notebook):not(.lm-mod-hidden)")
    panel.locator(".jp-CodeCell").first.wait_for(timeout=60_000)
    tab.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=120_000)  # before that a cell asks for a kernel
    tab.get_by_role("menuitem", name="Run", exact=True).click()
    tab.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click()
    tab.wait_for_function(
        """() => { const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")].map(p => p.innerText);
                   return prompts.length && (prompts.every(p => /\\[\\d+\\]/.test(p))
                          || document.querySelector('[data-mime-type="application/vnd.jupyter.error"]')); }""",
        timeout=600_000,
    )
    failed = panel.locator('[data-mime-type="application/vnd.jupyter.error"]')
    assert failed.count() == 0, failed.first.inner_text()
    return panel


def pictures(panel: Any) -> int:
    """The number of pictures in the outputs, each of which has pixels."""
    shown = panel.locator(".jp-OutputArea-output img")
    sizes = shown.evaluate_all("all => all.map(i => i.naturalWidth)")
    assert all(size > 0 for size in sizes)
    return len(sizes)


def test_notebook_00_runs_in_jupyterlab_and_draws_its_training_live(folder: Path, lab: Lab, page: Page) -> None:
    parameters(folder, "00_quickstart", epochs=2)
    panel = run_all(page, lab, "00_quickstart")
    assert pictures(panel) == 3
    live = panel.locator('.jp-OutputArea-output svg[aria-label^="loss"]')
    assert live.count() == 1 and "done, step 6 of 6" in panel.inner_text()
    points = live.locator("polyline").get_attribute("points").split()
    assert len(points) == 6  # one a step
    assert "All settings" in panel.inner_text() and "selected after" in panel.inner_text()
    assert (page.errors, page.outside) == ([], [])


def test_notebook_03_runs_in_jupyterlab_without_a_hash_at_its_head_or_a_nan_at_its_end(lab: Lab, page: Page) -> None:
    panel = run_all(page, lab, "03_view_iou")
    text = panel.inner_text()
    assert "NaN" not in text and "simsiam-hvs-smoke" not in text
    assert pictures(panel) == 3
    assert "lowest_iou_share" in text
    assert (page.errors, page.outside) == ([], [])


def moved(where: Any) -> None:
    """Move each kind of slider of an explorer with the keyboard: what it says of itself and the picture change."""
    sliders = where.locator("input[type=range]:enabled:visible")
    assert sliders.count() >= 1
    first = sliders.first
    before = first.get_attribute("aria-valuetext"), where.inner_html()
    first.focus()
    first.press("ArrowRight")
    assert first.get_attribute("aria-valuetext") != before[0]
    assert where.inner_html() != before[1]


def test_notebook_10_shows_the_explorer_in_a_cell_whose_slider_moves(folder: Path, lab: Lab, page: Page) -> None:
    parameters(folder, "10_your_images", epochs=4)
    panel = run_all(page, lab, "10_your_images")
    explorer_ = panel.locator('.hl-ex section[data-panel="ledger"]')
    assert explorer_.locator(".hl-live").is_visible() and not explorer_.locator(".hl-static").first.is_visible()
    moved(explorer_)
    assert (page.errors, page.outside) == ([], [])


@pytest.mark.parametrize("width", [1400, 400])
def test_explorer_and_report_work_from_a_disk_without_a_network(folder: Path, browser: Any, width: int) -> None:
    run = next((folder / "runs").glob("simsiam-hvs-*"))
    for path in (explorer.explore(run).write(folder / "explorer.html"), report.build(folder)):
        opened = Page(browser, width, offline=True)
        opened.tab.goto(path.as_uri())
        ledger = opened.tab.locator('section[data-panel="ledger"]')
        ledger.scroll_into_view_if_needed()
        moved(ledger)
        # a picture's address is long: in the style of each thumbnail it would take a third of a second to show them
        assert ledger.locator(".hl-tile").count() and not ledger.locator('.hl-tile[style*="data:"]').count()
        wide = opened.tab.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{path.name} is {wide} pixels wide"
        assert (opened.errors, opened.outside) == ([], [])
        opened.context.close()


def test_an_explorer_is_dark_where_the_system_or_the_notebook_is_and_light_on_paper(folder: Path, page: Page) -> None:
    run = next((folder / "runs").glob("simsiam-hvs-*"))
    page.tab.emulate_media(color_scheme="light")
    page.tab.goto(explorer.explore(run).write(folder / "explorer.html").as_uri())
    look = """() => {
        const plot = document.querySelector("canvas.hl-plot");
        const pixels = plot.getContext("2d").getImageData(0, 0, plot.width, plot.height).data;
        const solid = [...pixels.keys()].filter((i) => i % 4 === 3 && pixels[i] === 255).map((i) => pixels[i - 3]);
        return [getComputedStyle(plot.closest(".hl-ex")).backgroundColor, Math.max(...solid.slice(0, 5000)) > 200];
    }"""
    light, dark = ["rgb(255, 255, 255)", False], ["rgb(23, 25, 27)", True]

    def shows(wanted: list[object]) -> None:  # what follows the theme is drawn again in the next frame
        page.tab.wait_for_function(f"JSON.stringify(({look})()) == '{json.dumps(wanted, separators=(',', ':'))}'")

    shows(light)
    page.tab.emulate_media(color_scheme="dark")
    shows(dark)
    page.tab.evaluate("document.body.dataset.jpThemeLight = 'true'")  # as JupyterLab says it, whatever the system is
    shows(light)
    page.tab.evaluate("document.body.dataset.jpThemeLight = 'false'")
    shows(dark)
    page.tab.emulate_media(media="print")
    assert page.tab.evaluate(look)[0] == light[0]
    assert (page.errors, page.outside) == ([], [])
