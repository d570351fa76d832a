"""The explorer of hardness: interactive panels of candidates, negatives and attacks, as a page or a cell's output."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from hardlab import files
from hardlab.analysis import arms, viewlog
from hardlab.analysis.catalog import Catalog
from hardlab.errors import HardlabError
from hardlab.workbook import explorer_data, explorer_pictures, html
from hardlab.workbook.explorer_data import SIZES, Opened, Size

_HERE = Path(__file__).parent
MOST = 3_000_000  # bytes of a page
RUNS = 5
_TABLE_ROWS = 40
_PANELS: dict[str, tuple[str, Callable[[Opened, Size], dict[str, Any]]]] = {
    "ledger": ("Candidates: which images and views are hard, and why", explorer_data.ledger),
    "negatives": ("Negatives among the queries", explorer_data.snapshots),
    "generated": ("Generated pairs over training", explorer_data.generated),
    "attack": ("An attack, and the loss as it grows", explorer_data.attack),
}
_METHODS = "The same images under several methods"
_BODY = """<div class="hl-ex"><style>{{ css }}</style>
{% for p in panels %}<section data-panel="{{ p.name }}"><h3>{{ p.title }}</h3>
{% for line in p.lines %}<p>{{ line }}</p>
{% endfor %}{% if p.pictures %}<div class="hl-live" hidden></div>
{% for alt, source in p.pictures %}<figure class="hl-static"><img alt="{{ alt }}" src="{{ source }}">
{% if p.pictures | length > 1 %}<figcaption>{{ alt }}</figcaption>{% endif %}</figure>
{% endfor %}{% for title, table in p.tables %}<details><summary>{{ title }}</summary>{{ table }}</details>
{% endfor %}{% endif %}{% for line in p.missing %}<p class="hl-note">{{ line }}</p>
{% endfor %}</section>
{% endfor %}<script type="application/json">{{ data }}</script><script>{{ js }}</script></div>
"""


@dataclass(frozen=True)
class Explorer:
    """The explorer of one or several runs; a notebook displays it.

    body: HTML that any page can include.
    data: panel -> run -> the values shown.
    tables: panel -> run -> the same values as a table.
    missing: panel -> sentences that say what a run lacks for it.
    title: of the page.
    """

    body: str
    data: dict[str, dict[str, Any]]
    tables: dict[str, dict[str, pd.DataFrame]]
    missing: dict[str, list[str]]
    title: str

    def _repr_html_(self) -> str:
        return self.body

    def __repr__(self) -> str:
        lines = [f"{self.title}: {', '.join(self.data) or 'nothing to show'}"]
        return "\n".join([*lines, *(line for some in self.missing.values() for line in some)])

    @property
    def page(self) -> str:
        """The explorer as a whole, self-contained page."""
        return html.wrap(self.title, Markup("<h1>{}</h1>\n{}").format(self.title, Markup(self.body)))

    @property
    def images(self) -> pd.DataFrame:
        """The images of the first run that logged candidates, hardest first, by file name; empty if none did."""
        return next(iter(self.tables.get("ledger", {}).values()), pd.DataFrame())

    def write(self, path: str | Path) -> Path:
        """Write the page to a file, atomically."""
        path = Path(path)
        files.make_folder(path.parent)
        files.write_atomic(path, self.page.encode())
        return path


def explore(*runs: str | Path, root: str | Path | None = None) -> Explorer:
    """The explorer of up to five run folders, e.g. ``hardlab.explore("runs/simclr-hvs-smoke-s0-...")``.

    The panels show candidates (the view log), negatives, generated pairs, an attack, and the same images under several
    methods. For a panel without data, a sentence names the command that makes them. The page is smaller than 3 MB,
    needs no network, and shows static pictures and tables without scripts.

    root: the folder of the data sets.

    Raises HardlabError for a folder that is no run, and if there is nothing to show.
    """
    if not 1 <= len(runs) <= RUNS:
        raise HardlabError(f"{len(runs)} runs: the explorer takes 1 to {RUNS} folders of runs.")
    if len(names := {Path(run).resolve() for run in runs}) < len(runs):
        raise HardlabError(f"A run is given twice: {len(names)} of {len(runs)} are different.")
    opened = [Opened(Path(run), root) for run in runs]
    for size in SIZES[len(runs) > 2 :]:
        made = _made(opened, size)
        if len(made.page.encode()) < MOST:
            return made
    raise HardlabError(f"The page of {len(runs)} runs exceeds {MOST / 1e6:.0f} MB: explore fewer runs together.")


def choose(catalog: Catalog) -> list[Path]:
    """Choose finished runs for one page: the first seed with views, negatives, generated pairs and an attack each."""
    runs = catalog.done.sort_values(["seed", "run"])
    logged = [bool(viewlog.segments(Path(p))) or (Path(p) / "snapshots").is_dir() for p in runs["path"]]
    chosen = []
    for wanted in ("hvs", "adco", "generated", "adversarial"):
        held = [wanted in [s.get("name") for s in catalog.manifests[r]["config"].get("hard", [])] for r in runs["run"]]
        candidates = runs[np.array(held, bool) & np.array(logged, bool)]
        if len(candidates):
            chosen.append(Path(arms.first(candidates)["path"]))
    return list(dict.fromkeys(chosen))


def _made(opened: Sequence[Opened], size: Size) -> Explorer:
    data: dict[str, dict[str, Any]] = {}
    missing: dict[str, list[str]] = {}
    for name, (_, gather) in _PANELS.items():
        for one in opened:
            try:
                panel = gather(one, size)
            except HardlabError as e:
                missing.setdefault(name, []).append(_plain(e))
            else:
                data.setdefault(name, {})[one.path.name] = panel
    try:
        data["methods"] = {"all": explorer_data.methods(opened, size)}
    except HardlabError as e:
        missing["methods"] = [_plain(e)]
    without = [_plain(one.without) for one in opened if one.without]
    if without:
        missing.setdefault("ledger", [])[:0] = without
    if not data:
        raise HardlabError(" ".join(["There is nothing to explore.", *missing["ledger"]]))
    tables = {name: {run: _TABLES[name](panel) for run, panel in some.items()} for name, some in data.items()}
    shown = [_shown(name, title, data, tables, missing) for name, title in _titles().items()]
    body = html.JINJA.from_string(_BODY).render(
        panels=shown,
        css=Markup((_HERE / "explorer.css").read_text(encoding="utf-8")),
        js=Markup((_HERE / "explorer.js").read_text(encoding="utf-8")),
        data=Markup(json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")),
    )
    title = f"Explorer of {opened[0].path.name if len(opened) == 1 else f'{len(opened)} runs'}"
    return Explorer(body, data, tables, missing, title)


def _titles() -> dict[str, str]:
    return {name: title for name, (title, _) in _PANELS.items()} | {"methods": _METHODS}


def _plain(error: object) -> str:
    """The text of an error with a full stop at its end."""
    text = str(error).strip()
    return text if text.endswith((".", "`")) else f"{text}."


def _shown(
    name: str, title: str, data: dict[str, Any], tables: dict[str, dict[str, pd.DataFrame]], missing: dict[str, Any]
) -> dict[str, Any]:
    """One panel for the page; it says what a run lacks only if no run has it, or if pictures are missing."""
    some = data.get(name, {})
    words = _LINES.get(name, lambda run, panel, last: [])
    lines = [line for run, panel in some.items() for line in words(run, panel, run == list(some)[-1])]
    return {
        "name": name,
        "title": title,
        "lines": lines,
        "pictures": [(f"{title}, {run}", explorer_pictures.picture(name, panel)) for run, panel in some.items()],
        "tables": [
            (f"As a table: {run}" if len(some) > 1 else "As a table", _html(t))
            for run, t in tables.get(name, {}).items()
        ],
        "missing": [_code(line) for line in missing.get(name, []) if not some or "cannot be shown" in line],
    }


def _code(line: str) -> Markup:
    """A sentence with its commands in `backticks` as code."""
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else Markup.escape(part)
        for i, part in enumerate(re.split("`", line))
    )


def _html(table: pd.DataFrame) -> Markup:
    more = len(table) - _TABLE_ROWS
    rows = Markup(table.head(_TABLE_ROWS).to_html(index=False, border=0, na_rep="", float_format="{:.3g}".format))
    return rows + (Markup("<p>and {} more</p>").format(more) if more > 0 else Markup(""))


def _ledger_lines(run: str, panel: dict[str, Any], last: bool) -> list[Markup]:
    """Sentences on how the loss depends on overlap and colour. last: whether it is the last run."""
    words = {"iou": "overlap", "colour_distance": "distance in colour"}
    parts = [f"{rho:+.2f} with {words[name]}" for name, rho in panel["why"].items()]
    within = "between the candidates of an image" if panel["pairs"] > 2 else "between pairs"
    many = f"{panel['pairs']} candidate pairs" if panel["pairs"] > 1 else "one pair"
    line = f"{run}: {len(panel['images'])} of {panel['logged']} logged images, {many} each time."
    if parts:
        line += f" Rank correlation of the loss {within}: {', '.join(parts)}."
    lines = [Markup.escape(line)]
    if panel["pairs"] == 1 and last:
        lines.append(_code(f"{run} draws one pair an image; `hardlab pretrain simclr-hvs` compares several."))
    return lines


def _attack_lines(run: str, panel: dict[str, Any], last: bool) -> list[str]:
    size, before, after = panel["sizes"][panel["own"]], panel["mean"][0], panel["mean"][panel["own"]]
    return [
        f"{run}: its own attack, of at most {size:.3g} of 255 grey levels, moves the mean loss of a batch from "
        f"{before:.4g} to {after:.4g}."
    ]


_LINES: dict[str, Callable[[str, dict[str, Any], bool], list[Any]]] = {"ledger": _ledger_lines, "attack": _attack_lines}


def _ledger_table(panel: dict[str, Any]) -> pd.DataFrame:
    rows = []
    for image in panel["images"]:
        first = [at["pairs"][0] for at in image["at"]]
        means = {name: pd.Series([p[k] for p in first], dtype=float).mean() for name, k in _HARDEST.items()}
        rows.append({k: image[k] for k in ("name", "label", "row", "percentile", "seen")} | means)
    return pd.DataFrame(rows)


_HARDEST = {"loss of hardest pair": 2, "its IoU": 4, "its colour distance": 5}


def _negatives_table(panel: dict[str, Any]) -> pd.DataFrame:
    rows = []
    for at in panel["at"]:
        hard = pd.Series([p[3] for p in at["points"] if p[2]], dtype=float)
        rows.append({"epoch": at["epoch"], "step": at["step"], "negatives": len(hard), "median cosine": hard.median()})
        nearest = {p[3]: panel["names"][p[4]][0] for p in at["points"] if p[2] and p[4] >= 0}
        rows[-1] |= {"hardest is nearest to": nearest[max(nearest)] if nearest else ""}
    return pd.DataFrame(rows)


def _generated_table(panel: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([{"epoch": at["epoch"], "step": at["step"], **at["scores"]} for at in panel["at"]])


def _attack_table(panel: dict[str, Any]) -> pd.DataFrame:
    views = {f"view {i + 1}": line for i, line in enumerate(panel["loss"])}
    return pd.DataFrame({"largest change, grey levels": panel["sizes"], "mean loss": panel["mean"]} | views)


def _methods_table(panel: dict[str, Any]) -> pd.DataFrame:
    rows = [[i["name"], i["label"], *i["percentiles"]] for i in panel["images"]]
    return pd.DataFrame(rows, columns=["name", "label", *panel["runs"]])


_TABLES: dict[str, Callable[[dict[str, Any]], pd.DataFrame]] = {
    "ledger": _ledger_table,
    "negatives": _negatives_table,
    "generated": _generated_table,
    "attack": _attack_table,
    "methods": _methods_table,
}
