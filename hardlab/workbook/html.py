"""Self-contained HTML of executed notebooks, with equations as pictures."""

from __future__ import annotations

import base64
import html
import io
import re

import nbformat
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

JINJA = Environment(autoescape=True, undefined=StrictUndefined)
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 0.85rem; margin: 0.6rem 0; display: block; overflow-x: auto; }
th, td { padding: 0.2rem 0.7rem; text-align: left; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { border-bottom: 2px solid #888; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; } img.math { max-width: none; }
figure { margin: 1.5rem 0; } figcaption { font-size: 0.85rem; color: #555; }
pre { overflow-x: auto; font-size: 0.8rem; line-height: 1.35; } code { font-size: 0.9em; }
.highlight pre { background: #f6f6f4; padding: 0.6rem; }
.output_stderr pre { color: #777; } .output_error pre, .failed { color: #a40000; }
details { border: 1px solid #ddd; padding: 0.4rem 1rem; margin: 0.6rem 0; } summary { cursor: pointer; }
"""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>{{ style }}</style></head><body>
{{ body }}
</body></html>
"""


def wrap(title: str, body: Markup) -> str:
    """A whole, self-contained page around a body."""
    from pygments.formatters import HtmlFormatter

    style = Markup(STYLE + HtmlFormatter().get_style_defs(".highlight"))
    return JINJA.from_string(PAGE).render(title=title, style=style, body=body)


def notebook_page(nb: nbformat.NotebookNode, name: str) -> str:
    """An executed notebook as a self-contained page, with its code."""
    return wrap(name, Markup(notebook_body(nb)))


def notebook_body(nb: nbformat.NotebookNode, code: bool = True) -> str:
    """An executed notebook as a piece of HTML without scripts and links to other files.

    code: whether to show the cells' source. nbconvert's full page would load scripts and equations from a network.
    """
    from nbconvert import HTMLExporter  # half a second to import

    shown = nbformat.from_dict({**nb, "cells": [_typeset(c) for c in nb.cells]})
    exporter = HTMLExporter(
        template_name="basic",
        exclude_input=not code,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        embed_images=True,
    )
    return exporter.from_notebook_node(shown)[0]


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
        with matplotlib.rc_context({"mathtext.fontset": "cm"}):
            depth = math_to_image(f"${tex}$", buffer, format="svg", dpi=72)
    except ValueError:  # mathtext knows less than TeX: show the source
        return f"<code>{html.escape(tex)}</code>"
    svg = buffer.getvalue().decode()
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
    # matplotlib typesets at 10 points; these are in em, so that they grow with the text around them
    width, height = (float(svg.partition(f' {side}="')[2].partition("pt")[0]) for side in ("width", "height"))
    style = f"width:{width / 10:.2f}em;height:{height / 10:.2f}em;vertical-align:{-depth / 10:.2f}em"
    image = f'<img class="math" alt="{html.escape(tex)}" style="{style}" src="{source}">'
    return f'\n\n<p style="text-align:center">{image}</p>\n\n' if match["block"] else image
