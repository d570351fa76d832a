"""Notebooks as HTML that loads nothing."""

from __future__ import annotations

import re

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
