"""Builds the report of a rung: a page over the files beside it, or the same as a single file."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import nbformat
import numpy as np
from markupsafe import Markup

from hardlab.analysis import arms, claims, schema
from hardlab.analysis.catalog import Catalog
from hardlab.analysis.intervals import interval
from hardlab.errors import HardlabError
from hardlab.figures import FIGURES
from hardlab.files import as_expected, damaged, read_json
from hardlab.workbook import citation, html, model_card, pages, plan

ROOT = Path(__file__).resolve().parents[2]
_HERE = Path(__file__).parent
_INLINE = 300_000  # bytes of a table that a single file holds whole


class Part(NamedTuple):
    """A section of the page. items: how many things it lists. parts: (id, name) of its own sections."""

    id: str
    name: str
    body: Markup
    items: str = ""
    parts: Sequence[tuple[str, str]] = ()


def build(out_dir: str | Path, title: str | None = None, *, single_file: bool = False) -> Path:
    """Write ``out_dir/report.html`` from the folders runs/, data/, figures/ and notebooks/ in ``out_dir``.

    Figures, notebooks, tables and manifests are the files in ``out_dir``, by relative links, so the folder as a whole
    works from a disk and from any server. single_file: figures, notebooks without their code and tables are in the page
    itself, ten times as large, which can then be sent alone. It says which parts are missing. Raises ``HardlabError``
    if there are no runs.
    """
    out = Path(out_dir)
    catalog = Catalog(out / "runs") if (out / "runs").is_dir() else None
    manifests = list(catalog.manifests.values()) if catalog else []
    if not catalog or not manifests:
        raise HardlabError(f"There is nothing to report in '{out}': its folder runs/ holds no run.")
    rung = catalog.runs["rung"].iloc[0]  # reading it also refuses damaged manifests
    states = catalog.runs["state"].value_counts()
    claimed, judged = _claims(out / "data")
    figures = _figures(out, single_file)
    runs = _runs(catalog, out)
    minutes = [m for m in map(model_card.minutes, manifests) if m is not None]
    notebooks = [_about_notebook(n, out, single_file) for n in sorted((out / "notebooks").glob("*.ipynb"))]
    sections = [
        claimed,
        figures,
        _results(catalog, out / "data"),
        Part("explorer", "Explorer", _explorer(catalog)),
        runs,
        Part("costs", "Costs", _costs(catalog)),
        Part("notebooks", "Notebooks", _parts().notebooks(notebooks=notebooks) or Markup("<p>No notebook was run.</p>"),
             str(len(notebooks)), [(f"notebook-{n['name']}", n["name"]) for n in notebooks]),
        _data(out / "data", single_file),
        Part("versions", "Versions", _table(_versions(manifests))),
        Part("citation", "How to cite", _parts().lines(lines=citation.text().splitlines())),
    ]  # fmt: skip
    decided = sum(judged.get(v, 0) for v in ("reproduced", "contradicted"))
    body = _parts().page(
        title=title or f"hardlab workbook, rung {rung}",
        states=f"{len(manifests)} runs: " + ", ".join(f"{n} {state}" for state, n in states.items()),
        tiles=[
            (len(manifests), "runs"), (f"{sum(minutes):.0f} min", "of training"),
            (f"{decided} of {sum(judged.values())}", "claims reproduced or contradicted"),
            (figures.items or 0, "figures and tables"),
        ],
        sections=sections,
        js=Markup((_HERE / "report.js").read_text(encoding="utf-8")),
    )  # fmt: skip
    written = out / "report.html"
    style = (_HERE / "report.css").read_text(encoding="utf-8")
    _replace(written, html.wrap(title or "hardlab workbook", body, style))
    return written


@cache
def _parts() -> Any:
    """The macros of the template: name -> a function of values that gives HTML."""
    return html.JINJA.from_string((_HERE / "report.html.jinja").read_text(encoding="utf-8")).module


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


def _table(rows: Iterable[Mapping[str, Any]]) -> Markup:
    rows = list(rows)
    return _parts().table(columns=list(rows[0]) if rows else [], rows=[list(r.values()) for r in rows])


def _runs(catalog: Catalog, out: Path) -> Part:
    """Every run with its alarms, and its manifest."""
    negatives = _false_negatives(out / "data")
    runs = []
    for name, manifest in catalog.manifests.items():
        about = _about_run(out / "runs" / name / "manifest.json", manifest)
        health = "; ".join(filter(None, [about["health"], negatives.get(name, "")]))
        text = json.dumps(manifest, indent=1, ensure_ascii=False)
        runs.append({"id": name, "about": about, "manifest": text} | about | {"health": health})
    return Part("runs", "Runs and their manifests", _parts().runs(runs=runs), str(len(runs)))


def _false_negatives(data_dir: Path) -> dict[str, str]:
    """Run -> a sentence on its negatives of the class of their query, at the last snapshot."""
    rows = schema.read(data_dir, "negatives").dropna(subset=["false_hardest", "false_all"])
    last = rows.sort_values("step").drop_duplicates("run", keep="last")
    return {
        r.run: f"false negatives: {100 * r.false_hardest:.0f} % of the hardest negatives have the class of their "
        f"query, {100 * r.false_all:.0f} % of all."
        for r in last.itertuples()
    }


def _about_run(path: Path, m: dict[str, Any]) -> dict[str, Any]:
    with as_expected(path):
        return _cells(m)


def _cells(m: dict[str, Any]) -> dict[str, Any]:
    c = m["config"]
    return {
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


def _results(catalog: Catalog, data_dir: Path) -> Part:
    """A table per protocol and metric, and one of the overlap of the selected pairs."""
    sections = []
    rows = catalog.results
    rows = rows[rows["run"].isin(catalog.done["run"])]
    epochs = catalog.done.set_index("run")["epochs"]
    columns = ["protocol", "metric", "evaluated_on", "split", "options"]
    for (protocol, metric, data, split, options), group in rows.groupby(columns, sort=True):
        lines = []
        for values in arms.each_arm(group, "features"):  # runs with other epochs, data or options have their own row
            shared = values[["recipe", "arm", "setting", "features"]].iloc[0]
            lines.append(
                {"recipe": shared["recipe"], "arm": shared["arm"], "epochs": epochs[values["run"].iloc[0]]}
                | {"setting": shared["setting"], "features": shared["features"]}
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
    body = _parts().sections(tables=sections)
    return Part("results", "Results", body, str(len(sections)))


def _claims(data_dir: Path) -> tuple[Part, dict[str, int]]:
    """Every claim with its verdict on these tables, those with runs first, and the number of claims by verdict."""
    if not any(data_dir.glob("*.csv")):
        return Part("claims", "Claims of the papers", Markup("<p>No tables were collected.</p>")), {}
    verdicts = claims.verdicts(data_dir)
    verdicts = verdicts.iloc[(verdicts["runs"] == "").argsort(kind="stable")]
    counts = {str(v): int(n) for v, n in verdicts["verdict"].value_counts(sort=False).items()}
    listed = [
        {
            "id": r.id,
            "paper": pages.NAMES[r.paper],
            "statement": r.statement,
            "verdict": r.verdict,
            "ours": claims.ours(r),
            "about": [
                ("Place", r.place),
                ("Published", r.published),
                ("Ours", f"{claims.ours(r)}, rung {r.rung}" if r.rung else f"testable from rung {r.testable_from}"),
                ("Why", r.why),
                ("Evidence", claims.strength(r)),
                ("Beside", r.beside),
                ("Runs", Markup(" ").join(Markup('<a href="#{0}">{0}</a>').format(n) for n in r.runs.split())),
                ("To fill", Markup("<br>").join(map(Markup("<code>{}</code>").format, r.commands.splitlines()))),
            ],
        }
        for r in verdicts.itertuples()
    ]
    counted = f"{len(verdicts)} claims; " + ", ".join(f"{v}: {n}" for v, n in counts.items())
    body = _parts().claims(counted=counted, claims=listed, papers=list(pages.NAMES.values()), verdicts=sorted(counts)
    )  # fmt: skip
    return Part("claims", "Claims of the papers", body, str(len(listed))), counts


def _figures(out: Path, inline: bool) -> Part:
    """The drawn figures by paper, each with a caption and its tables."""
    from hardlab.figures import drawing  # half a second to import

    by_paper: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((out / "figures").glob("*.svg"), key=_in_order):
        known = path.stem in FIGURES
        name = pages.NAMES.get(path.stem.partition("_")[0], "Across the papers")
        by_paper.setdefault(name, []).append(
            {
                "name": path.stem,
                "caption": drawing.caption(path.stem) if known else path.stem,
                "tables": [t for t in drawing.sources(path.stem) if (out / "data" / f"{t}.csv").exists()]
                if known
                else [],
                "source": _inline(path) if inline else f"figures/{quote(path.name)}",
                "size": _size(path),
            }
        )
    body = _parts().figures(papers=by_paper.items()) or Markup("<p>No figure was drawn.</p>")
    count = sum(map(len, by_paper.values()))
    return Part("figures", "Figures and tables", body, str(count or ""), [(f"figures-{p}", p) for p in by_paper])


def _in_order(path: Path) -> tuple[int, str]:
    names = list(FIGURES)
    return (names.index(path.stem) if path.stem in names else len(names), path.stem)


def _data(data_dir: Path, inline: bool) -> Part:
    """The tables behind the figures: rows, the first of them, and the whole table to save."""
    parts = []
    for path in sorted(data_dir.glob("*.csv")):
        content = path.read_bytes()
        with as_expected(path):
            rows = list(csv.DictReader(io.StringIO(content.decode())))
        link = f"data/{quote(path.name)}"
        if inline and len(content) <= _INLINE:
            link = f"data:text/csv;base64,{base64.b64encode(content).decode()}"
        parts.append(
            _parts().csv(name=path.stem, count=len(rows), link=link, head=_table(rows[:8]))
        )  # fmt: skip
    body = Markup("\n").join(parts) or Markup("<p>No tables were collected.</p>")
    return Part("data", "Data of the figures", body, str(len(parts) or ""))


def _costs(catalog: Catalog) -> Markup:
    """Time and memory of the runs by recipe and device."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name, manifest in catalog.manifests.items():
        with as_expected(catalog.folder / name / "manifest.json"):
            groups.setdefault((manifest["config"]["recipe"], str(manifest.get("device"))), []).append(manifest)
    return _table(_cost(recipe, device, some) for (recipe, device), some in sorted(groups.items()))


def _millions(count: Any) -> Any:
    return None if count is None else count / 1e6


def _cost(recipe: str, device: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def mean(values: Iterable[Any]) -> Any:
        held = [v for v in values if v is not None]
        return _number(float(np.mean(held))) if held else ""

    minutes = [model_card.minutes(m) for m in runs]
    return {
        "recipe": recipe,
        "device": device,
        "runs": len(runs),
        "minutes in all": _number(sum(m for m in minutes if m is not None)),
        "minutes each": mean(minutes),
        "images/s": mean(m.get("images_per_s") for m in runs),
        "peak memory, MB": mean(m.get("peak_memory_mb") for m in runs),
        "parameters, millions": mean(_millions((m.get("parameters") or {}).get("learner")) for m in runs),
    }


def _interval_cells(i: Any) -> dict[str, Any]:
    return {"mean": _number(i.mean), "95 % from": _number(i.lo), "to": _number(i.hi), "n": i.n}


def _about_notebook(path: Path, out: Path, inline: bool) -> dict[str, Any]:
    """Its state, its seconds, the page that shows it with its code, and in a single file its text and outputs."""
    link = os.path.relpath(path.with_suffix(".html"), out)
    markers = [m for m in (path.with_suffix(f".{kind}.json") for kind in ("done", "failed")) if m.exists()]
    about = {"state": "unfinished", "seconds": "?"}
    try:
        if markers:
            with as_expected(markers[0]):
                marker = read_json(markers[0])
                about = {"state": str(marker["state"]), "seconds": marker["seconds"]}
        notebook = nbformat.read(path, as_version=4)
        body = Markup(html.notebook_body(notebook, code=False)) if inline else Markup("")
        body = Markup(body.replace("<img ", '<img loading="lazy" decoding="async" '))
    except HardlabError as e:
        about, body = {"state": "damaged", "seconds": "?"}, Markup("<p>{}</p>").format(e)
    except Exception as e:  # nbformat has no common base for what can be wrong in a file
        about, body = {"state": "damaged", "seconds": "?"}, Markup("<p>{}</p>").format(damaged(path, e))
    topic = plan.NOTEBOOKS.get(path.stem, ((), ""))[1]
    return {"name": path.stem, "topic": topic, "state": about["state"], "seconds": about["seconds"], "link": link,
            "body": body}  # fmt: skip


def _versions(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per set of versions; several rows mean that the runs differ in their versions."""
    versions = {json.dumps(m.get("versions", {}) | {"python": m.get("python")}, sort_keys=True) for m in manifests}
    return [json.loads(s) for s in sorted(versions)]


def _inline(path: Path) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _size(path: Path) -> Markup:
    """The width and height of a picture, 1.8 pixels a point, as attributes, so that the page does not move."""
    with open(path, encoding="utf-8") as f:
        size = re.search(r'<svg[^>]*?width="([\d.]+)pt" height="([\d.]+)pt"', f.read(4000))
    if not size:
        return Markup("")
    width, height = (round(1.8 * float(points)) for points in size.groups())
    return Markup(' width="{}" height="{}"').format(width, height)


def _number(value: Any) -> Any:
    """Round to four significant digits; a missing value becomes an empty cell."""
    if value is None or (isinstance(value, float | np.floating) and not np.isfinite(value)):
        return ""
    return float(f"{value:.4g}") if isinstance(value, float | np.floating) else value


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
