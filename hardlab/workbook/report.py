"""Builds the report of a rung: one self-contained page."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from markupsafe import Markup

from hardlab.analysis import claims, schema
from hardlab.analysis.catalog import Catalog
from hardlab.analysis.intervals import interval
from hardlab.errors import HardlabError
from hardlab.files import as_expected, damaged, read_json
from hardlab.workbook import html

ROOT = Path(__file__).resolve().parents[2]
_TABLE = """<table><thead><tr>{% for c in columns %}<th>{{ c }}</th>{% endfor %}</tr></thead><tbody>
{%- for row in rows %}<tr>{% for cell in row %}<td{% if cell is number %} class="number"{% endif %}>
{{- cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table>"""
_REPORT = """<h1>{{ title }}</h1>
<p>{{ states }}. Intervals are 95 % Student t-intervals over seeds; with one seed there is none.</p>
<h2>What was run</h2>
{{ runs }}
<h2>Results</h2>
{% for name, table in results %}<h3>{{ name }}</h3>
{{ table }}
{% else %}<p>No run was evaluated.</p>
{% endfor %}
<h2>Claims of the papers</h2>
{% if claims %}<p>{{ claims_counted }}. The claim's test computes the verdict from one value
per seed, at the highest rung that has rows; <code>hardlab claims --why</code> gives the reasons.</p>
{{ claims }}
{% else %}<p>No tables were collected.</p>
{% endif %}
<h2>Figures</h2>
{% for f in figures %}<figure id="{{ f.name }}"><img alt="{{ f.name }}" src="{{ f.source }}">
<figcaption>{{ f.name }}: drawn from {{ f.drawn_from }}</figcaption></figure>
{% else %}<p>No figure was drawn.</p>
{% endfor %}
<h2>Explorer</h2>
{{ explorer }}
<h2>Notebooks</h2>
{% for n in notebooks %}<details><summary>{{ n.name }}, <span class="{{ n.state }}">{{ n.state }}</span>,
{{ n.seconds }} s (<a href="{{ n.link }}">with its code</a>)</summary>
{{ n.body }}</details>
{% else %}<p>No notebook was run.</p>
{% endfor %}
<h2>Versions</h2>
{{ versions }}
"""


def build(out_dir: str | Path, title: str | None = None) -> Path:
    """Write ``out_dir/report.html`` from the folders runs/, data/, figures/ and notebooks/ in ``out_dir``.

    The file is self-contained, with inline pictures. It says which parts are missing. Raises ``HardlabError`` if there
    are no runs.
    """
    out = Path(out_dir)
    catalog = Catalog(out / "runs") if (out / "runs").is_dir() else None
    manifests = list(catalog.manifests.values()) if catalog else []
    if not catalog or not manifests:
        raise HardlabError(f"There is nothing to report in '{out}': its folder runs/ holds no run.")
    rung = catalog.runs["rung"].iloc[0]  # reading it also refuses damaged manifests
    states = catalog.runs["state"].value_counts()
    body = html.JINJA.from_string(_REPORT).render(
        title=title or f"hardlab workbook, rung {rung}",
        states=f"{len(manifests)} runs: " + ", ".join(f"{n} {state}" for state, n in states.items()),
        runs=_table(_about_run(out / "runs" / name / "manifest.json", m) for name, m in catalog.manifests.items()),
        results=_results(catalog, out / "data"),
        **_claims(out / "data"),
        figures=[
            {"name": f.stem, "source": _inline(f), "drawn_from": _drawn_from(f.stem, out / "data")}
            for f in sorted((out / "figures").glob("*.svg"))
        ],
        explorer=_explorer(catalog),
        notebooks=[_about_notebook(n, out) for n in sorted((out / "notebooks").glob("*.ipynb"))],
        versions=_table(_versions(manifests)),
    )
    written = out / "report.html"
    _replace(written, html.wrap(title or "hardlab workbook", Markup(body)))
    return written


def _explorer(catalog: Catalog) -> Markup:
    """The explorer of a few of the runs, or a sentence on why there is none."""
    from hardlab.workbook import explorer  # which loads torch

    chosen = explorer.choose(catalog)
    if not chosen:
        return Markup("<p>No run here kept candidates, negatives, generated pairs or attacks.</p>")
    try:
        return Markup(explorer.explore(*chosen).body)
    except HardlabError as e:
        return Markup("<p>{}</p>").format(e)


def _table(rows: Iterable[dict[str, Any]]) -> Markup:
    rows = list(rows)
    columns = list(rows[0]) if rows else []
    return Markup(html.JINJA.from_string(_TABLE).render(columns=columns, rows=[list(r.values()) for r in rows]))


def _about_run(path: Path, m: dict[str, Any]) -> dict[str, Any]:
    with as_expected(path):
        return _cells(m)


def _cells(m: dict[str, Any]) -> dict[str, Any]:
    c = m["config"]
    return {
        "run": Markup('<a id="{0}" href="runs/{0}/manifest.json">{0}</a>').format(m["id"]),
        "recipe": c["recipe"],
        "rung": c["rung"],
        "seed": m["seed"],
        "data": f"{m['data']['name']}, {m['data']['count']} images",
        "epochs": f"{m.get('epochs_done', 0)}/{c['epochs']}",
        "images/s": _number(m.get("images_per_s")),
        "peak memory, MB": _number(m.get("peak_memory_mb")),
        "state": m["state"],
        "health": _health(m.get("health")),
        "commit": m["commit"][:7] + ("*" if m["dirty"] else ""),
        "device": m["device"],
    }


def _health(alarms: Any) -> str:
    """The alarms of a run, in the sentences of its log; "" for runs from before there were alarms."""
    if not isinstance(alarms, list):
        return ""
    return " ".join(str(a["sentence"]) for a in alarms if isinstance(a, dict) and "sentence" in a) or "no alarm"


def _results(catalog: Catalog, data_dir: Path) -> list[tuple[str, Markup]]:
    """A table per protocol and metric, and one of the overlap of the selected pairs."""
    sections = []
    rows = catalog.results
    rows = rows[rows["run"].isin(catalog.done["run"])]
    epochs = catalog.done.set_index("run")["epochs"]
    what = ["protocol", "metric", "evaluated_on", "split", "options"]
    for (protocol, metric, data, split, options), group in rows.groupby(what, sort=True):
        lines = []
        # a mean is over one setting and arm: runs with other epochs, data or options have their own row
        arm_columns = ["features", "recipe", "setting", "arm"]
        for (features, recipe, setting, arm), values in group.groupby(arm_columns, sort=True):
            lines.append(
                {"recipe": recipe, "arm": arm, "epochs": epochs[values["run"].iloc[0]], "setting": setting}
                | {"features": features}
                | _interval_cells(interval(values["value"]))
                | {"seconds each": _number(values["cost_s"].mean())}
            )
        name = f"{protocol}, {metric} on {data} ({split}" + (f", {options})" if options != "{}" else ")")
        sections.append((name, _table(lines)))
    selection = schema.read(data_dir, "hvs_summary")
    selection = selection[selection["name"] != ""]  # of the views, not of an evaluation
    lines = [
        {"recipe": r.recipe, "quantity": r.name.replace("_", " ")} | _interval_cells(r) for r in selection.itertuples()
    ]
    if lines:
        sections.append(("The overlap of the selected pairs", _table(lines)))
    return sections


def _claims(data_dir: Path) -> dict[str, Any]:
    """Every claim with its verdict on these tables, those with runs first; empty without tables."""
    if not any(data_dir.glob("*.csv")):
        return {"claims": None}
    verdicts = claims.verdicts(data_dir)
    verdicts = verdicts.iloc[(verdicts["runs"] == "").argsort(kind="stable")]
    counts = verdicts["verdict"].value_counts(sort=False)
    rows = [
        {
            "claim": r.id,
            "paper": r.paper,
            "place": r.place,
            "statement": r.statement,
            "published": r.published,
            "ours": claims.ours(r),
            "rung": r.rung or f"from {r.testable_from}",
            "verdict": r.verdict,
            "why": r.why,
            "commands": Markup("<br>").join(Markup("<code>{}</code>").format(c) for c in r.commands.splitlines()),
            "runs": Markup(" ").join(Markup('<a href="#{0}">{0}</a>').format(name) for name in r.runs.split()),
        }
        for r in verdicts.itertuples()
    ]
    counted = f"{len(verdicts)} claims: " + ", ".join(f"{n} {v}" for v, n in counts.items())
    return {"claims": _table(rows), "claims_counted": counted}


def _interval_cells(i: Any) -> dict[str, Any]:
    return {"mean": _number(i.mean), "95 % from": _number(i.lo), "to": _number(i.hi), "n": i.n}


def _about_notebook(path: Path, out: Path) -> dict[str, Any]:
    link = os.path.relpath(path.with_suffix(".html"), out)
    markers = [m for m in (path.with_suffix(f".{kind}.json") for kind in ("done", "failed")) if m.exists()]
    about = {"state": "unfinished", "seconds": "?"}
    try:
        if markers:
            with as_expected(markers[0]):
                marker = read_json(markers[0])
                about = {"state": str(marker["state"]), "seconds": marker["seconds"]}
        body = Markup(html.notebook_body(nbformat.read(path, as_version=4), code=False))
    except HardlabError as e:
        about, body = {"state": "damaged", "seconds": "?"}, Markup("<p>{}</p>").format(e)
    except Exception as e:  # nbformat has no common base for what can be wrong in a file
        about, body = {"state": "damaged", "seconds": "?"}, Markup("<p>{}</p>").format(damaged(path, e))
    return {"name": path.stem, "state": about["state"], "seconds": about["seconds"], "link": link, "body": body}


def _versions(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per set of versions; several rows mean that the runs differ in their versions."""
    versions = {json.dumps(m.get("versions", {}) | {"python": m.get("python")}, sort_keys=True) for m in manifests}
    return [json.loads(s) for s in sorted(versions)]


def _drawn_from(name: str, data_dir: Path) -> str:
    rows = sorted(p.name for p in data_dir.glob("*.csv") if p.stem == name or p.stem.startswith(f"{name}_"))
    return ", ".join(rows) or "the tables in data/"


def _inline(path: Path) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _number(value: Any) -> Any:
    """Round to four significant digits; a missing value becomes an empty cell."""
    if value is None or (isinstance(value, float | np.floating) and not np.isfinite(value)):
        return ""
    return float(f"{value:.4g}") if isinstance(value, float | np.floating) else value


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
