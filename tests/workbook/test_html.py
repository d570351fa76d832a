"""Notebooks as HTML that loads nothing."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import nbformat
from markupsafe import Markup

from hardlab.workbook import html


def test_equations_become_pictures_and_what_mathtext_does_not_know_stays_readable() -> None:
    text = r"A $\mathcal{L}(q,t)$, $$\frac{1}{2}$$ and `$x$`, \$5 or $3 and $4, $\begin{aligned}a\end{aligned}$."
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    body = html.notebook_body(nb)
    assert body.count('class="math"') == 2
    assert "$x$" in body and "\\begin{aligned}" in body
    assert "http" not in body


def test_a_page_without_code_still_shows_the_outputs() -> None:
    cell = nbformat.v4.new_code_cell("secret = 1", outputs=[nbformat.v4.new_output("stream", text="shown\n")])
    body = html.notebook_body(nbformat.v4.new_notebook(cells=[cell]), code=False)
    assert "shown" in body and "secret" not in body


def test_a_page_is_light_or_dark_as_the_readers_system_and_light_on_paper() -> None:
    style = re.search(r"<style>(.*?)</style>", html.wrap("x", Markup("")), re.S)[1]  # type: ignore[index]
    dark = re.findall(r"@media ([^{]*prefers-color-scheme: dark[^{]*)\{", style)
    assert dark and all(condition.startswith("screen and") for condition in dark)
    light, night = (
        dict(re.findall(r"--(\w+): (#\w+)", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)
    )
    assert light.keys() == night.keys() and set(re.findall(r"var\(--(\w+)\)", style)) <= light.keys()
    for colours in (light, night):
        for name in ("ink", "muted", "link", "good", "bad"):  # WCAG 2.1, 1.4.3
            assert contrast(colours[name], colours["paper"]) >= 4.5, (name, colours)


def contrast(a: str, b: str) -> float:
    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        values = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_explorers_text_is_clear_on_its_light_and_on_its_dark_page() -> None:
    css = (Path(html.__file__).parent / "explorer.css").read_text(encoding="utf-8")
    pairs = {name: (light, dark) for name, light, dark in re.findall(r"--(\w+): light-dark\((#\w+), (#\w+)\)", css)}
    for side in (0, 1):
        for name in ("ink", "muted", "grey", "blue"):
            assert contrast(pairs[name][side], pairs["paper"][side]) >= 4.5, (name, side)


def test_a_sentence_in_a_table_may_break_into_lines_and_a_number_may_not() -> None:
    sentence, short = "of the pairs drawn for an image the selected one is the harder", "0.412 (one seed)"
    table = f"<table><tr><td>{sentence}</td><td>{short}</td></tr></table>"
    cell = nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("display_data", {"text/html": table})])
    body = html.notebook_body(nbformat.v4.new_notebook(cells=[cell]))
    assert f'<td class="long">{sentence}</td><td>{short}</td>' in body
    assert "td.long { white-space: normal" in html.STYLE and "white-space: nowrap" in html.STYLE


def test_an_equation_has_no_background_of_its_own_so_that_it_is_clear_on_a_dark_page() -> None:
    body = html.notebook_body(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("$$a + b$$")]))
    svg = base64.b64decode(body.partition("data:image/svg+xml;base64,")[2].partition('"')[0]).decode()
    assert "<svg" in svg and "#ffffff" not in svg
    assert '<p class="equation">' in body
