"""Self-contained HTML of executed notebooks, with equations as pictures."""

from __future__ import annotations

import base64
import html
import io
import re
from functools import cache
from typing import Any

import nbformat
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

JINJA = Environment(autoescape=True, undefined=StrictUndefined)
STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --line: #ddd; --soft: #f6f6f4; --muted: #555;
  --link: #0b57a4; --good: #0a6b3d; --bad: #a40000; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e2e2e0; --paper: #17191b; --line: #44484c; --soft: #24272a; --muted: #a6abb0;
    --link: #8ab8f0; --good: #5cc48f; --bad: #ff8a80; }
  img { background: #fff; } img.math { background: none; filter: invert(1); }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
a { color: var(--link); }
table { border-collapse: collapse; font-size: 0.85rem; margin: 0.6rem 0; display: block; overflow-x: auto; }
th, td { padding: 0.2rem 0.7rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { border-bottom: 2px solid #888; }
td.long { white-space: normal; min-width: 18rem; }
table.dataframe thead th { text-align: left !important; } /* above their cells: pandas has them right */
td.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; } img.math { max-width: none; } p.equation { text-align: center; overflow: auto hidden; }
figure { margin: 1.5rem 0; } figcaption { font-size: 0.85rem; color: var(--muted); }
pre { overflow-x: auto; font-size: 0.8rem; line-height: 1.35; }
.output_stream pre { white-space: pre-wrap; } code { font-size: 0.9em; }
.highlight pre { background: var(--soft); padding: 0.6rem; }
.output_stderr pre { color: var(--muted); } .output_error pre, .failed { color: var(--bad); }
details { border: 1px solid var(--line); padding: 0.4rem 1rem; margin: 0.6rem 0; } summary { cursor: pointer; }
"""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>{{ style }}</style></head><body>
{{ body }}
</body></html>
"""


def wrap(title: str, body: Markup, extra: str = "") -> str:
    """A whole, self-contained page around a body, light or dark as the reader's system is. extra: more CSS."""
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("default", "github-dark"))
    # on paper and on a screen in the light, else in the dark
    style = Markup(f"{STYLE}{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n{extra}")
    return JINJA.from_string(PAGE).render(title=title, style=style, body=body)


def notebook_page(nb: nbformat.NotebookNode, name: str) -> str:
    """An executed notebook as a self-contained page, with its code."""
    return wrap(name, Markup(notebook_body(nb)))


def notebook_body(nb: nbformat.NotebookNode, code: bool = True) -> str:
    """An executed notebook as a piece of HTML without scripts and links to other files.

    code: whether to show the cells' source. nbconvert's full page would load scripts and equations from a network.
    """
    typeset = nbformat.from_dict({**nb, "cells": [_typeset(c) for c in nb.cells]})
    body: str = _exporter(code).from_notebook_node(typeset)[0]
    return _LONG.sub('<td class="long">', body)


@cache
def _exporter(code: bool) -> Any:
    from nbconvert import HTMLExporter  # half a second to import

    return HTMLExporter(
        template_name="basic",
        exclude_input=not code,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        embed_images=True,
    )


_LONG = re.compile(r"<td>(?=[^<]{41})")  # a sentence in a table, which may break into lines; numbers and names may not
_MATH = re.compile(
    r"`[^`]*`|\$\$(?P<block>.+?)\$\$|(?<![\\$\w])\$(?P<inline>(?!\s)[^$\n]+?(?<!\s))\$(?![\d$])", re.DOTALL
)


def _typeset(cell: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A markdown cell with its equations as pictures, because MathJax would come from a network."""
    if cell.cell_type != "markdown" or "$" not in cell.source:
        return cell
    return nbformat.from_dict({**cell, "source": _MATH.sub(_picture, cell.source)})


def _picture(match: re.Match[str]) -> str:
    tex = match["block"] or match["inline"]
    if tex is None:  # code
        return match[0]
    import matplotlib
    from matplotlib.mathtext import math_to_image

    tex = " ".join(tex.split())
    buffer = io.BytesIO()
    try:
        with matplotlib.rc_context({"mathtext.fontset": "cm", "savefig.transparent": True}):
            depth = math_to_image(f"${tex}$", buffer, format="svg", dpi=72)
    except ValueError:  # mathtext knows less than TeX: show the source
        return f"<code>{html.escape(tex)}</code>"
    svg = buffer.getvalue().decode()
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
    # matplotlib typesets at 10 points; these are in em, so that they grow with the text around them
    width, height = (float(svg.partition(f' {side}="')[2].partition("pt")[0]) for side in ("width", "height"))
    style = f"width:{width / 10:.2f}em;height:{height / 10:.2f}em;vertical-align:{-depth / 10:.2f}em"
    image = f'<img class="math" alt="{html.escape(tex)}" style="{style}" src="{source}">'
    return f'\n\n<p class="equation">{image}</p>\n\n' if match["block"] else image
