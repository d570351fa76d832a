"""What a rung's output looks like to a reader: one self-contained page, and the README's table of results."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import numpy as np
import pandas as pd
from markupsafe import Markup

from hardlab.analysis import arms, claims, schema
from hardlab.analysis.arms import HVS, STANDARD, UNTRAINED
from hardlab.analysis.catalog import Catalog
from hardlab.analysis.intervals import interval
from hardlab.analysis.summary import GAIN, VALUE, in_words
from hardlab.errors import HardlabError
from hardlab.figures.style import METHODS
from hardlab.files import as_expected, damaged, read_json
from hardlab.workbook import html

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
    catalog = Catalog(out / "runs") if (out / "runs").is_dir() else None
    manifests = list(catalog.manifests.values()) if catalog else []
    if not catalog or not manifests:
        raise HardlabError(f"There is nothing to report in '{out}': no run was found in its folder runs/.")
    rung = catalog.runs["rung"].iloc[0]  # which also refuses a manifest that is none
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
        notebooks=[_about_notebook(n, out) for n in sorted((out / "notebooks").glob("*.ipynb"))],
        versions=_table(_versions(manifests)),
    )
    written = out / "report.html"
    _replace(written, html.wrap(title or "hardlab workbook", Markup(body)))
    return written


def readme_table(
    readme: str | Path = ROOT / "README.md",
    data_dir: str | Path = ROOT / "figures" / "data",
    executed: str | Path = ROOT / "out" / "smoke" / "notebooks",
) -> Path:
    """Rewrite what stands between the README's marks: what the runs of HVS and their baselines reach and gain, from
    ``hvs_summary.csv``, and the claims that are decided.

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
    paper = schema.read(data_dir, schema.PAPER)
    paper["value"] = pd.to_numeric(paper["value"], errors="coerce")  # some published cells are words
    minutes = _minutes(Path(data_dir))
    rows = []
    for line, r in _summarised(Path(data_dir)):
        title = METHODS.get(r.method, r.method)
        who = title + (" + HVS" if r.arm == HVS else "") if r.arm != UNTRAINED else "untrained network"
        if line.features == "pixels":
            who = "raw pixels"
        cost = [minutes[run] for run in r.run.split() if minutes.get(run)]
        rows.append(
            f"| {line.says} | {who} | {line.published(paper, title)} | {_mean(r, line.scale)} | {r.seed} | {r.rung}, "
            f"{r.data} | {r.recipe} | {f'{np.mean(cost):.1f}' if cost else '–'} |"
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
    with as_expected(marker):
        return f"| `{row[1]}` |{row[2]}| {read_json(marker)['seconds']:.0f} s |"


def _minutes(data_dir: Path) -> dict[str, float]:
    """Minutes that the training of each run took, by its id: images seen over images a second."""
    return {
        name: m["steps_done"] * m["config"].get("batch_size", 0) / m["images_per_s"] / 60
        for name, m in schema.read_manifests(data_dir).items()
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


class _Line(NamedTuple):
    """A kind of line of the README's table: whose quantity, what it says, the unit, what the paper has.

    measured: protocol and metric, or a quantity of the view log by its name alone. of: the value or its gain. of_hvs:
    only of the settings that HVS was trained in, for a comparison with it.
    """

    arm: str
    says: str
    measured: tuple[str, ...]
    features: str = "backbone"
    of: str = VALUE
    scale: float = 100
    published: Callable[[pd.DataFrame, str], str] = _nothing
    of_hvs: bool = True

    def quantities(self, evaluated: Iterable[tuple[str, str]]) -> set[str]:
        """What the summary calls it; evaluated: data sets and settings, of which values may have one alone."""
        if len(self.measured) == 1:
            return set(self.measured)
        protocol, metric = self.measured
        every = {(on, "") for on, _ in evaluated} | (set(evaluated) if self.of == GAIN else set())
        return {in_words(protocol, metric, self.features, on, options, self.of) for on, options in every}


_KNN, _PROBE = ("knn", "top1@k=20"), ("linear-lbfgs", "top1")
_SCENES = {
    "detection on built-in scenes, AP": ("detection", "AP"),
    "segmentation of them, mask AP": ("segmentation", "mask-AP"),
}
_README = (  # in this order
    _Line(HVS, "selected pair has the lowest IoU of six, % (chance 16.7)", ("lowest_iou_share",), published=_share),
    _Line(HVS, "mean IoU of the trained pair, difference to standard", ("iou_selected - iou_standard",), scale=1),
    _Line(HVS, "kNN, k = 20: gain, points", _KNN, of=GAIN, published=_gain("knn")),
    _Line(HVS, "converged linear probe: gain, points", _PROBE, of=GAIN, published=_gain("linear")),
    *(
        _Line(arm, says, measured, features, of_hvs=arm != UNTRAINED)
        for says, measured in (("kNN, k = 20, top-1 %", _KNN), ("converged linear probe, top-1 %", _PROBE))
        for arm, features in (*((a, "backbone") for a in (HVS, STANDARD, UNTRAINED)), (UNTRAINED, "pixels"))
    ),
    *(_Line(arm, says, m, of_hvs=False) for says, m in _SCENES.items() for arm in (STANDARD, UNTRAINED)),
)


def _summarised(data_dir: Path) -> Iterator[tuple[_Line, Any]]:
    """The rows of the summary that the README shows, of the highest rung, line by line."""
    rows = arms.highest_rung(schema.read(data_dir, "hvs_summary"))
    evaluation = schema.read(data_dir, "evaluation")
    evaluated = set(zip(evaluation["evaluated_on"], evaluation["options"], strict=True))
    compared = arms.most_seeds(rows, rows[rows["arm"] == HVS])  # with the baselines of these arms, nobody else's
    for line in _README:
        found = compared if line.of_hvs else rows
        found = found[(found["arm"] == line.arm) & found["quantity"].isin(line.quantities(evaluated))]
        for row in found.sort_values(["method", "data"], ascending=[False, True]).itertuples():
            yield line, row


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
    """What was wrong with a run, in the sentences of its log; nothing for a run from before there were any."""
    if not isinstance(alarms, list):
        return ""
    return " ".join(str(a["sentence"]) for a in alarms if isinstance(a, dict) and "sentence" in a) or "no alarm"


def _results(catalog: Catalog, data_dir: Path) -> list[tuple[str, Markup]]:
    """A table per protocol and metric, and one of what is known of the selection."""
    found = []
    rows = catalog.results
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
    selection = schema.read(data_dir, "hvs_summary")
    selection = selection[selection["quantity"].str.contains("iou")]
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
    link = os.path.relpath(path.with_suffix(".html"), out)
    markers = [m for m in (path.with_suffix(f".{kind}.json") for kind in ("done", "failed")) if m.exists()]
    about = {"state": "unfinished", "seconds": "?"}
    try:
        if markers:
            with as_expected(markers[0]):
                found = read_json(markers[0])
                about = {"state": str(found["state"]), "seconds": found["seconds"]}
        body = Markup(html.notebook_body(nbformat.read(path, as_version=4), code=False))
    except HardlabError as e:
        about, body = {"state": "damaged", "seconds": "?"}, Markup("<p>{}</p>").format(e)
    except Exception as e:  # nbformat has no common base for what can be wrong in a file
        about, body = {"state": "damaged", "seconds": "?"}, Markup("<p>{}</p>").format(damaged(path, e))
    return {"name": path.stem, "state": about["state"], "seconds": about["seconds"], "link": link, "body": body}


def _versions(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per set of versions; several mean that the runs were not made alike."""
    seen = {json.dumps(m.get("versions", {}) | {"python": m.get("python")}, sort_keys=True) for m in manifests}
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
