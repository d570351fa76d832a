"""What a rung's output looks like to a reader: one self-contained page, and the README's table of results."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
from markupsafe import Markup

from hardlab.analysis import claims, tables
from hardlab.analysis.intervals import interval
from hardlab.errors import HardlabError
from hardlab.figures.style import METHODS
from hardlab.recipes import RUNGS
from hardlab.workbook import page

ROOT = Path(__file__).resolve().parents[2]
RESULTS, CLAIMS = "results", "claims"  # parts of the README that are written here, between marks
_NOTEBOOK = re.compile(r"^\| `(\w+)` \|(.*)\|[^|]*\|$", re.M)  # a row of the README's table of notebooks; time last

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
{% if claims %}<p>{{ claims_counted }}. A verdict is computed from one value per seed by the claim's
test, at the highest rung that has rows; <code>hardlab claims --why</code> gives the reason of each.</p>
{{ claims }}
{% else %}<p>No tables were collected.</p>
{% endif %}
<h2>Figures</h2>
{% for f in figures %}<figure id="{{ f.name }}"><img alt="{{ f.name }}" src="{{ f.source }}">
<figcaption>{{ f.name }}: drawn from {{ f.drawn_from }}</figcaption></figure>
{% else %}<p>No figure was drawn.</p>
{% endfor %}
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
    """Write ``out_dir/report.html`` from what lies in ``out_dir``: runs/, data/, figures/ and notebooks/.

    One file that needs no network: pictures are inline. Parts that are not there are said to be missing. Raises
    ``HardlabError`` where there are no runs at all.
    """
    out = Path(out_dir)
    manifests = _manifests(out / "runs")
    if not manifests:
        raise HardlabError(f"There is nothing to report in '{out}': no run was found in its folder runs/.")
    states = pd.Series([m["state"] for m in manifests]).value_counts()
    body = page.JINJA.from_string(_REPORT).render(
        title=title or f"hardlab workbook, rung {manifests[0]['config']['rung']}",
        states=f"{len(manifests)} runs: " + ", ".join(f"{n} {state}" for state, n in states.items()),
        runs=_table(map(_about_run, manifests)),
        results=_results(out),
        **_claims(out / "data"),
        figures=[
            {"name": f.stem, "source": _inline(f), "drawn_from": _drawn_from(f.stem, out / "data")}
            for f in sorted((out / "figures").glob("*.svg"))
        ],
        notebooks=[_about_notebook(n, out) for n in sorted((out / "notebooks").glob("*.ipynb"))],
        versions=_table(_versions(manifests)),
    )
    written = out / "report.html"
    _replace(written, page.wrap(title or "hardlab workbook", Markup(body)))
    return written


def readme_table(
    readme: str | Path = ROOT / "README.md",
    data_dir: str | Path = ROOT / "figures" / "data",
    executed: str | Path = ROOT / "out" / "smoke" / "notebooks",
) -> Path:
    """Rewrite what stands between the README's marks: rows of ``hvs_summary.csv``, and the claims that are decided.

    The times in its table of notebooks are those of ``executed``, where these notebooks were run. Returns the README.

    Published values stand beside ours, from ``paper.csv``; what a run cost is in ``manifests.jsonl``. Raises
    ``HardlabError`` where marks or tables are missing.
    """
    readme, source = Path(readme), Path(data_dir) / "hvs_summary.csv"
    if not source.exists():
        raise HardlabError(f"There is no table '{source}' yet; `hardlab figures --from runs --all` makes it.")
    text = readme.read_text(encoding="utf-8")
    for begin, end in map(marks, (RESULTS, CLAIMS)):
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise HardlabError(f"'{readme}' needs the lines '{begin}' and '{end}' once each, in this order.")
    summary = tables.read_csv(source, keep_default_na=False, na_values={"mean": "", "lo": "", "hi": ""})
    rung = max(summary["rung"], key=RUNGS.index, default="")
    summary = summary[summary["rung"] == rung]
    paper = tables.read_csv(Path(data_dir) / "paper.csv")
    paper["value"] = pd.to_numeric(paper["value"], errors="coerce")  # some published cells are words
    minutes = _minutes(Path(data_dir))
    # of trainings of several lengths, those that have the most seeds
    selected = summary[summary["arm"] == tables.HVS].sort_values("n", kind="stable")
    settings = set(selected.groupby(["method", "data"])["setting"].last())
    rows = []
    for (arm, pattern), (what, scale, published) in _README.items():
        found = summary[(summary["arm"] == arm) & summary["quantity"].str.fullmatch(pattern)]
        if arm in (tables.HVS, tables.STANDARD) and not pattern.startswith(("detection", "segmentation")):
            found = found[found["setting"].isin(settings)]  # with the baselines of these arms, nobody else's
        for r in found.sort_values(["method", "data"], ascending=[False, True]).itertuples():
            title = METHODS.get(r.method, r.method)
            who = title + (" + HVS" if arm == "hvs" else "") if arm != "untrained" else "untrained network"
            if " of pixels " in r.quantity:
                who = "raw pixels"
            cost = [minutes[run] for run in r.run.split() if minutes.get(run)]
            rows.append(
                f"| {what} | {who} | {published(paper, title)} | {_mean(r, scale)} | {r.seed} | {r.rung}, {r.data} | "
                f"{r.recipe} | {f'{np.mean(cost):.1f}' if cost else '–'} |"
            )
    head = [
        "| What | Of | Published | Ours: mean and 95 % interval | Seeds | Rung, data | Recipe | Minutes a run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    text = _between(text, RESULTS, [*head, *rows])
    text = _between(text, CLAIMS, _decided(claims.verdicts(data_dir)))
    _replace(readme, _NOTEBOOK.sub(lambda row: _timed(row, Path(executed)), text))
    return readme


def marks(part: str) -> tuple[str, str]:
    """The lines of a README before and after a part that is written here."""
    return f"<!-- {part}:begin -->", f"<!-- {part}:end -->"


def _between(text: str, part: str, lines: list[str]) -> str:
    begin, end = marks(part)
    return "\n".join([text[: text.index(begin)] + begin, *lines, text[text.index(end) :]])


def _decided(verdicts: pd.DataFrame) -> list[str]:
    """How often each verdict was given, and a row a claim that was reproduced or contradicted."""
    counts = verdicts["verdict"].value_counts()
    told = ", ".join(f"{counts[v]} {v}" for v in claims.VERDICTS if v in counts)
    lines = [f"Of {len(verdicts)} claims: {told}.", ""]
    decided = verdicts[verdicts["verdict"].isin([claims.REPRODUCED, claims.CONTRADICTED])]
    if not len(decided):
        return lines[:1]
    lines += ["| Paper | Statement | Published | Ours | Seeds, rung | Verdict |", "|---|---|---|---|---|---|"]
    for r in decided.itertuples():
        cells = (r.paper, r.statement, r.published, claims.ours(r), f"{r.n}, {r.rung}", r.verdict)
        lines.append(f"| {' | '.join(str(c).replace('|', '&#124;') for c in cells)} |")
    return lines


def _timed(row: re.Match[str], executed: Path) -> str:
    """A row of the table of notebooks with the seconds that its last finished run took, or as it was."""
    marker = executed / f"{row[1]}.done.json"
    if not marker.exists():
        return row[0]
    return f"| `{row[1]}` |{row[2]}| {json.loads(marker.read_text())['seconds']:.0f} s |"


def _minutes(data_dir: Path) -> dict[str, float]:
    """Minutes that the training of each run took, by its id: images seen over images a second."""
    return {
        name: m["steps_done"] * m["config"]["batch_size"] / m["images_per_s"] / 60
        for name, m in tables.manifests(data_dir).items()
        if m.get("images_per_s") and m.get("steps_done")
    }


def _nothing(paper: pd.DataFrame, title: str) -> str:
    return "–"


def _share(paper: pd.DataFrame, title: str) -> str:
    """The range of the published curve, after its first point."""
    curve = paper[(paper["item"] == "Figure 3 left") & (paper["row"] == "share")]
    curve = curve[curve["column"].astype(float) > 0]
    if title != "SimSiam" or not len(curve):
        return "–"
    return f"{100 * curve['value'].min():.1f} to {100 * curve['value'].max():.1f} (ImageNet)"


def _gain(protocol: str) -> Callable[[pd.DataFrame, str], str]:
    """The published difference of Table 1 at 100 epochs, from its two accuracies."""

    def published(paper: pd.DataFrame, title: str) -> str:
        table = paper[(paper["item"] == "Table 1") & (paper["column"] == f"{protocol} 100 epochs")]
        values = table.set_index("row")["value"]
        return f"{values[f'{title} RN50 + HVS'] - values[f'{title} RN50']:+.2f} (ImageNet)"

    return published


# (arm, quantity) -> (what the row says, factor, what the paper has): the lines of the README's table, in this order
_README: dict[tuple[str, str], tuple[str, float, Callable[[pd.DataFrame, str], str]]] = {
    ("hvs", "lowest_iou_share"): ("selected pair has the lowest IoU of six, % (chance 16.7)", 100, _share),
    ("hvs", "iou_selected - iou_standard"): ("mean IoU of the trained pair, difference to standard", 1, _nothing),
    ("hvs", "knn top1@k=20 of backbone on .*: gain"): ("kNN, k = 20: gain, points", 100, _gain("knn")),
    ("hvs", "linear-lbfgs top1 of backbone on .*: gain"): (
        "converged linear probe: gain, points",
        100,
        _gain("linear"),
    ),
    ("hvs", "knn top1@k=20 of backbone on [^:]*"): ("kNN, k = 20, top-1 %", 100, _nothing),
    ("standard", "knn top1@k=20 of backbone on [^:]*"): ("kNN, k = 20, top-1 %", 100, _nothing),
    ("untrained", "knn top1@k=20 of backbone on [^:]*"): ("kNN, k = 20, top-1 %", 100, _nothing),
    ("untrained", "knn top1@k=20 of pixels on [^:]*"): ("kNN, k = 20, top-1 %", 100, _nothing),
    ("hvs", "linear-lbfgs top1 of backbone on [^:]*"): ("converged linear probe, top-1 %", 100, _nothing),
    ("standard", "linear-lbfgs top1 of backbone on [^:]*"): ("converged linear probe, top-1 %", 100, _nothing),
    ("untrained", "linear-lbfgs top1 of backbone on [^:]*"): ("converged linear probe, top-1 %", 100, _nothing),
    ("untrained", "linear-lbfgs top1 of pixels on [^:]*"): ("converged linear probe, top-1 %", 100, _nothing),
    ("standard", "detection AP of backbone on [^:]*"): ("detection on built-in scenes, AP", 100, _nothing),
    ("untrained", "detection AP of backbone on [^:]*"): ("detection on built-in scenes, AP", 100, _nothing),
    ("standard", "segmentation mask-AP of backbone on [^:]*"): ("segmentation of them, mask AP", 100, _nothing),
    ("untrained", "segmentation mask-AP of backbone on [^:]*"): ("segmentation of them, mask AP", 100, _nothing),
}


def _table(rows: Iterable[dict[str, Any]]) -> Markup:
    rows = list(rows)
    columns = list(rows[0]) if rows else []
    return Markup(page.JINJA.from_string(_TABLE).render(columns=columns, rows=[list(r.values()) for r in rows]))


def _manifests(runs_dir: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(runs_dir.glob("*/manifest.json")):
        try:
            found.append(json.loads(path.read_text()))
        except ValueError as e:
            raise HardlabError(f"The manifest '{path}' cannot be read: {e}.") from e
    return found


def _about_run(m: dict[str, Any]) -> dict[str, Any]:
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
        "commit": m["commit"][:7] + ("*" if m["dirty"] else ""),
        "device": m["device"],
    }


def _results(out: Path) -> list[tuple[str, Markup]]:
    """A table per protocol and metric, and one of what is known of the selection."""
    found = []
    rows = tables.results(out / "runs")
    rows = rows[rows["state"] == "done"]
    what = ["protocol", "metric", "evaluated_on", "split", "options"]
    for (protocol, metric, data, split, options), of in rows.groupby(what, sort=True):
        lines = []
        for (features, recipe), values in of.groupby(["features", "recipe"], sort=True):
            lines.append(
                {"recipe": recipe, "features": features}
                | _interval_cells(interval(values["value"]))
                | {"seconds each": _number(values["cost_s"].mean())}
            )
        name = f"{protocol}, {metric} on {data} ({split}" + (f", {options})" if options != "{}" else ")")
        found.append((name, _table(lines)))
    source = out / "data" / "hvs_summary.csv"
    if source.exists():
        summary = tables.read_csv(source, keep_default_na=False, na_values={"mean": "", "lo": "", "hi": ""})
        selection = summary[summary["quantity"].str.contains("iou")]
        lines = [
            {"recipe": r.recipe, "quantity": _quantity(r.quantity)} | _interval_cells(r) for r in selection.itertuples()
        ]
        if lines:
            found.append(("The overlap of the selected pairs", _table(lines)))
    return found


def _claims(data_dir: Path) -> dict[str, Any]:
    """Every claim with its verdict on these tables, those with rows first; nothing where there are no tables."""
    if not any(data_dir.glob("*.csv")):
        return {"claims": None}
    found = claims.verdicts(data_dir)
    found = found.iloc[(found["runs"] == "").argsort(kind="stable")]
    counts = found["verdict"].value_counts(sort=False)
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
            "runs": Markup(" ").join(Markup('<a href="#{0}">{0}</a>').format(name) for name in r.runs.split()),
        }
        for r in found.itertuples()
    ]
    told = f"{len(found)} claims: " + ", ".join(f"{n} {v}" for v, n in counts.items())
    return {"claims": _table(rows), "claims_counted": told}


def _interval_cells(i: Any) -> dict[str, Any]:
    return {"mean": _number(i.mean), "95 % from": _number(i.lo), "to": _number(i.hi), "n": i.n}


def _about_notebook(path: Path, out: Path) -> dict[str, Any]:
    nb = nbformat.read(path, as_version=4)
    markers = [path.with_suffix(f".{kind}.json") for kind in ("done", "failed")]
    about = next((json.loads(m.read_text()) for m in markers if m.exists()), {"state": "unfinished", "seconds": "?"})
    link = os.path.relpath(path.with_suffix(".html"), out)
    body = Markup(page.notebook_body(nb, code=False))
    return {"name": path.stem, "state": about["state"], "seconds": about["seconds"], "link": link, "body": body}


def _versions(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per set of versions; several mean that the runs were not made alike."""
    seen = {json.dumps(m["versions"] | {"python": m["python"]}, sort_keys=True) for m in manifests}
    return [json.loads(s) for s in sorted(seen)]


def _drawn_from(name: str, data_dir: Path) -> str:
    rows = sorted(p.name for p in data_dir.glob("*.csv") if p.stem == name or p.stem.startswith(f"{name}_"))
    return ", ".join(rows) or "the tables in data/"


def _inline(path: Path) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _number(value: Any) -> Any:
    """Four significant digits; an empty cell for what is not there."""
    if value is None or (isinstance(value, float | np.floating) and not np.isfinite(value)):
        return ""
    return float(f"{value:.4g}") if isinstance(value, float | np.floating) else value


def _quantity(name: str) -> str:
    return name.replace("_", " ").removesuffix(" {}").replace(" {}:", ":")


def _mean(row: Any, scale: float = 1.0) -> str:
    if row.n > 1 and row.lo == row.hi:
        return f"{scale * row.mean:.4g} (the same for every seed)"
    inner = "" if np.isnan(row.lo) else f" ({scale * row.lo:.4g} to {scale * row.hi:.4g})"
    return f"{scale * row.mean:.4g}" + inner


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
