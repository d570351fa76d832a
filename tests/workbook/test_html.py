"""Notebooks as HTML that loads nothing."""

from __future__ import annotations

import nbformat

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
