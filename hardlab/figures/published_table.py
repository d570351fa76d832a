"""The published tables, made from their descriptions (``published_tables.yaml``): ours under every printed number.

There are three kinds: results (``Compared``), settings of a recipe (``Settings``) and settings of an evaluation
(``Evaluated``). A missing run is a marked gap.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from matplotlib.figure import Figure
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from hardlab.analysis import arms
from hardlab.analysis.arms import BUILT_IN, Arm, Measure, Selection
from hardlab.analysis.intervals import Interval
from hardlab.errors import HardlabError
from hardlab.figures import style
from hardlab.figures.paper import published
from hardlab.figures.typeset import Cell, Sheet, typeset
from hardlab.files import damaged, read_yaml
from hardlab.recipes import RECIPES, recipe
from hardlab.registry import options, unknown

SOURCE = Path(__file__).with_name("published_tables.yaml")
GAP = "\N{MIDDLE DOT}\N{MIDDLE DOT}\N{MIDDLE DOT}"
SCALES = {
    "C": "ours at CIFAR scale",
    "A": "ours on an analogue: other data, same comparison",
    "X": "ours: the same code path on other data",
}
Table = Callable[[str], pd.DataFrame]  # gives a table of rows by its name


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Row(_Strict):
    """One line of a table: the published row of this name, and our arm under it.

    ``recipe`` and ``minus`` may hold ``{base}``, which each column fills in. Other fields are those of ``arms.Arm``.

    says: text shown instead of the name.
    called: text shown instead of the arm's name.
    rule: whether a line separates it from the row above.
    signed: whether the printed number is a difference; "as printed" implies it.
    """

    name: str
    recipe: str = ""
    set: dict[str, Any] = Field(default_factory=dict)
    minus: str = ""
    wider: int = 1
    budget: int | None = None
    says: str = ""
    called: str | None = None
    rule: bool = False
    signed: bool = False

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    def arm(self, column: Column | None = None) -> Arm | None:
        """Our arm for a column, or None if the cell has none."""
        if not self.recipe:
            return None
        base = column.base if column else ""
        arm = Arm(
            self.recipe.replace("{base}", base),
            tuple(self.set.items()),
            wider=self.wider,
            minus=self.minus.replace("{base}", base),
            budget=self.budget,
        )
        if column is None:
            return arm
        return arm._replace(trained=column.trained, budget=column.budget if self.budget is None else self.budget)


class Column(_Strict):
    """A column of results.

    name: the published column, or several of which each row has one.
    head: its title.
    ours: the name of our measure.
    below: the title of our measure.
    to: the data set, by its name in the papers, of a transfer.
    trained, budget: which runs of each arm, as in ``arms.Arm``.
    base: the value of ``{base}`` in the rows' recipes.
    """

    name: tuple[str, ...] = ()
    head: str = ""
    ours: str = ""
    below: str = ""
    to: str = ""
    trained: tuple[str, str] | None = None
    budget: int | None = None
    base: str = ""

    @field_validator("name", mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @property
    def title(self) -> str:
        return self.head or (self.name[0] if self.name else "")


class Compared(_Strict):
    """A table of printed results, with ours under them.

    scale: how our experiments compare with the paper's, a key of ``SCALES``.
    rows: rows, or lists of rows that tables share.
    printed_rows: keep only the rows that the published table has.
    turned: draw rows as columns.
    any_data: the columns say which data an arm was trained on.
    says_devices, says_protocols: name these in the caption.
    says_below: two published columns; the caption says in how many arms ours of the first is below ours of the second.
    says_pixels: the caption says how many arms are below raw pixels by kNN.
    """

    kind: Literal["results"] = "results"
    title: str
    scale: Literal["C", "A", "X"]
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    note: str = ""
    printed_rows: bool = False
    turned: bool = False
    any_data: bool = False
    says_devices: bool = False
    says_protocols: bool = True
    says_below: tuple[str, str] | None = None
    says_pixels: bool = False

    @field_validator("rows", mode="before")
    @classmethod
    def _one_list(cls, value: Any) -> Any:
        return [row for part in value for row in (part if isinstance(part, list) else [part])]


class Settings(_Strict):
    """A table of hyperparameters: printed, in our recipe for the paper, in our runs. keys: printed -> ours or "".

    "" means that our implementation has no such setting.
    """

    kind: Literal["settings"]
    title: str
    recipe: str
    keys: dict[str, str]


class Protocol(_Strict):
    """A column of ``Evaluated``: an evaluation protocol and the data set whose settings apply; "" = none."""

    name: str
    protocol: str
    data: str | None = None
    below: str = ""


class Evaluated(_Strict):
    """A table of an evaluation's settings, printed and in our protocol. keys: printed -> name of our setting."""

    kind: Literal["protocol"]
    title: str
    called: str
    keys: dict[str, str]
    columns: tuple[Protocol, ...]
    missing: str
    note: str


Described = Annotated[
    Annotated[Compared, Tag("results")] | Annotated[Settings, Tag("settings")] | Annotated[Evaluated, Tag("protocol")],
    Discriminator(lambda value: value.get("kind", "results") if isinstance(value, dict) else value.kind),
]


class Tables(_Strict):
    """The content of the file: measures by name, and table descriptions by the figure's name."""

    measures: dict[str, Measure]
    tables: dict[str, Described]

    @field_validator("measures", mode="before")
    @classmethod
    def _linear(cls, value: Any) -> Any:
        """``linear: [protocols], metric: top5`` is ``arms.linear``."""
        return {k: arms.linear(*v["linear"], metric=v.get("metric", "top1")) if "linear" in v else v
                for k, v in value.items()}  # fmt: skip


@cache
def load(path: Path = SOURCE) -> Tables:
    """All descriptions, checked. Raises HardlabError for an invalid one, or one that names what does not exist."""
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise damaged(path, "it is no table")
    try:
        tables = Tables.model_validate({k: v for k, v in tree.items() if k != "rows"})
    except (TypeError, LookupError, AttributeError) as e:
        raise damaged(path, e) from e
    except ValidationError as e:
        first = e.errors()[0]
        raise HardlabError(f"'{path.name}' does not fit: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from e
    for name, table in tables.tables.items():
        for kind, value, allowed in _named(table, tables.measures):
            if value not in allowed:
                raise HardlabError(f"Table '{name}' in '{path.name}': {unknown(kind, value, allowed)}")
    return tables


def _named(table: Compared | Settings | Evaluated, measures: Mapping[str, Measure]) -> list[tuple[str, str, Any]]:
    """(kind, name, existing names) for each name in a description."""
    from hardlab.evaluate.published import PROTOCOLS

    if isinstance(table, Settings):
        return [("recipe", table.recipe, RECIPES)]
    if isinstance(table, Evaluated):
        return [("evaluation protocol", c.protocol, PROTOCOLS) for c in table.columns]
    names: list[tuple[str, str, Any]] = []
    for column in table.columns:
        arms = [arm for row in table.rows if (arm := row.arm(column))]
        names += [("recipe", name, RECIPES) for arm in arms for name in (arm.recipe, arm.minus) if name]
        if column.ours:
            names.append(("measure", column.ours, measures))
            rows = measures[column.ours].rows if column.ours in measures else ()
            names += [("evaluation protocol", protocol, PROTOCOLS) for protocol, _ in rows]
    return names


def find(name: str) -> Compared | Settings | Evaluated:
    """The description of a table by its figure's name, e.g. ``adco_t1``."""
    return load().tables[name]


def sources(name: str) -> list[str]:
    """The tables that the published table ``name`` is made from."""
    table = find(name)
    if isinstance(table, Settings | Evaluated):
        return ["paper", "configs" if isinstance(table, Settings) else "evaluation"]
    measures = load().measures
    read = {measures[c.ours].table for c in table.columns if c.ours}
    return ["paper", *sorted({"configs", "evaluation", *read} | ({"costs"} if table.says_devices else set()))]


def make(name: str, read: Table) -> Figure:
    """Draw the published table ``name``. read: returns a table of rows by its name."""
    return typeset(*sheet(name, read))


def sheet(name: str, read: Table) -> Sheet:
    """The published table ``name`` as text."""
    paper_name, _, number = name.partition("_t")
    table, item = find(name), f"Table {number}"
    printed = published(read("paper"), paper_name, item)
    if isinstance(table, Settings):
        return _settings(table, printed, read("configs"))
    if isinstance(table, Evaluated):
        return _evaluated(table, printed, read("evaluation"))
    return _compared(table, printed, read)


def _compared(table: Compared, printed: Mapping[tuple[str, str], str], read: Table) -> Sheet:
    rows = table.rows
    if table.printed_rows:
        printed_names = {name for name, _ in printed}
        rows = tuple(r for r in rows if (r.name in printed_names if printed_names else r.recipe))
    measures = {c.ours: load().measures[c.ours] for c in table.columns if c.ours}
    arms = [arm for r in rows for c in table.columns if (arm := r.arm(c))]
    recipes = list(dict.fromkeys(name for arm in arms for name in (arm.recipe, arm.minus) if name))
    configs = read("configs")
    costs = read("costs") if any(m.table == "costs" for m in measures.values()) else None
    ours = Selection(recipes, read("evaluation"), configs, costs, table.any_data)
    cells = [[_cell(ours, printed, r, c, measures.get(c.ours)) for c in table.columns] for r in rows]
    names = [(r.says or r.name, _called(r), r.rule and at > 0) for at, r in enumerate(rows)]
    heads = [(c.title, c.below or _probe(c, ours, table), False) for c in table.columns]
    if table.turned:
        cells = [list(line) for line in zip(*cells, strict=True)]
        names, heads = heads, names
    rows_shown = ours.frame
    about = style.about(rows_shown)
    by = f" · by {', '.join(_protocol(p, rows_shown) for p in ours.by)}" if ours.by and table.says_protocols else ""
    notes = [table.note] if table.note else []
    if ours.marks:
        notes.insert(0, "trained for another length than the recipe's: " + ours.legend)
    if table.says_devices and len(ours.costs):
        notes.insert(0, f"seconds on {ours.costs['device'].iloc[0] or 'an unknown device'}")
    named = [arm for r in rows if (arm := r.arm())]
    if table.says_below:
        notes.append(_below(table, ours, named, measures))
    if table.says_pixels:
        notes.append(_pixels(ours, named, read("evaluation")))
    notes = [note for note in notes if note]
    if any(c.to in BUILT_IN for c in table.columns):
        notes.append(f"{' and '.join(BUILT_IN)}: built-in sets, ours alone; nothing is printed for them")
    legend = f"{SCALES[table.scale]} (blue; ± half the 95 % t-interval; {GAP} no row yet)"
    return Sheet(table.title, names, heads, cells, "\n".join([legend, about + by, *notes]))


def _probe(column: Column, ours: Selection, table: Compared) -> str:
    """The protocol of a column's numbers, if the columns of different data sets have different ones."""
    if not table.any_data or column.trained is None or len(ours.by) < 2:
        return ""
    rows = ours.frame[ours.frame["data"].isin(arms.trained_on(*column.trained))]
    rows = rows[rows["evaluated_on"].isin(arms.DATA.get(column.to or column.trained[0], ()))]
    return ", ".join(sorted(set(rows["protocol"])))


def _below(table: Compared, ours: Selection, named: list[Arm], measures: Mapping[str, Measure]) -> str:
    """In how many arms one column of ours is below another; "" if in none."""
    assert table.says_below
    by_name = {name: measures[c.ours] for c in table.columns for name in c.name if c.ours}
    values = [[ours.interval(arm, by_name[name]) for name in table.says_below] for arm in named]
    both = [(low.mean, high.mean) for low, high in values if low.n and high.n]
    count, (first, second) = sum(low < high for low, high in both), table.says_below
    return f"ours {first} is below ours {second} in {count} of {len(both)} arms" if count else ""


def _pixels(ours: Selection, named: list[Arm], evaluation: pd.DataFrame) -> str:
    """How many arms are below raw pixels by kNN; "" if none is, or without such rows."""
    (protocol, metric), shown = arms.KNN.rows[0], ours.frame
    rows = arms.at_home(evaluation[evaluation["features"].eq("pixels") & evaluation["split"].eq("test")])
    rows = rows[rows["protocol"].eq(protocol) & rows["metric"].eq(metric)]
    rows = rows[rows["rung"].isin(shown["rung"]) & rows["data"].isin(shown["data"])]
    values = [value.mean for arm in named if (value := ours.interval(arm, arms.KNN)).n]
    pixels = 100 * rows["value"].mean() if len(rows) else 0.0
    below = [value for value in values if value < pixels]
    if not below:
        return ""
    between = f"{min(below):.1f} to {max(below):.1f}"
    return f"by kNN {len(below)} of {len(values)} arms ({between}) are below raw pixels ({pixels:.1f})"


def _protocol(protocol: str, rows: pd.DataFrame) -> str:
    """A protocol's name with the settings that differ from the published ones, and the data sets where they do."""
    from hardlab.evaluate.published import settings

    candidates = rows[rows["protocol"] == protocol]
    changed: dict[str, set[str]] = {}
    for on, changes in set(zip(candidates["evaluated_on"], candidates["options"], strict=True)):
        usual = json.loads(json.dumps(settings(protocol, {}, on)))
        for k, v in json.loads(changes).items():
            if v != usual.get(k):
                changed.setdefault(f"{k}={v}", set()).add(str(on))
    sets = set(candidates["evaluated_on"])
    parts = [c if on == sets else f"{c} on {' and '.join(sorted(on))}" for c, on in sorted(changed.items())]
    return f"{protocol} ({', '.join(parts)})" if parts else protocol


def _called(row: Row) -> str:
    """The name of a row's arm, written as on the command line."""
    if row.called is not None or not row.recipe:
        return row.called or ""
    words = [f"{k}={v}" for k, v in row.set.items()]
    words += [f"{row.wider} × channels"] if row.wider > 1 else []
    return " ".join([f"{row.recipe} - {row.minus}" if row.minus else row.recipe, *words])


def _cell(
    ours: Selection, printed: Mapping[tuple[str, str], str], row: Row, column: Column, measure: Measure | None
) -> Cell:
    text = next((printed[row.name, n] for n in column.name if (row.name, n) in printed), "")
    if text and (row.signed or row.name.endswith("as printed")) and not text.startswith("-"):
        text = f"+{text}"
    arm = row.arm(column)
    if arm is None or measure is None:
        return Cell(text, "")
    measured = ours.interval(arm, measure.transferred(column.to))
    seeds = 0 if measure.table == "configs" else measured.n
    mark = ours.mark(arm, measure) if measured.n else ""
    return Cell(text, in_words(measured, measure, signed=bool(arm.minus)) + mark, seeds)


def in_words(value: Interval, measure: Measure, *, signed: bool = False) -> str:
    """The mean of an arm and half of its interval, as text."""
    mean, lo, hi, n = value
    if n == 0:
        return GAP
    if measure.table == "configs":
        return f"{mean:.3g}"
    if measure.table == "costs":
        return f"{mean:.3g}" + (f"±{(hi - lo) / 2:.2g}" if n > 1 else "")
    sign = "+" if signed else ""
    wide = (hi - lo) / 2
    # four characters fit beside a column
    half = f"±{wide:.{0 if wide >= 99.95 else 1}f}" if n > 1 else ""
    return f"{mean:{sign}.1f}{half}"


def _settings(table: Settings, printed: Mapping[tuple[str, str], str], configs: pd.DataFrame) -> Sheet:
    """Make a table of settings: printed, in our recipe at rung ``paper``, and in our runs."""
    name, values = table.recipe, {k: v for (k, _), v in printed.items()}
    keys = {k: v for k, v in table.keys.items() if k in values} if values else table.keys
    ours = recipe_settings(name, "paper")
    runs = arms.one_data(arms.highest_rung(configs[configs["recipe"] == name]))
    rung = str(runs["rung"].iloc[0]) if len(runs) else ""
    usual = recipe_settings(name, rung) if rung else {}
    rows, cells = [], []
    for key, at in sorted(keys.items()):
        settings = _sorted(set(runs[runs["key"] == at]["value"].astype(str))) if at else []
        rows.append((key, "", False))
        run = ", ".join(settings) if settings else usual.get(at, "none") if rung or not at else GAP
        cells.append(
            [Cell(values.get(key, ""), ""), Cell(ours.get(at, "none" if not at else "default"), ""), Cell(run, "")]
        )
    heads = ["printed", "our recipe, rung paper", f"our runs, rung {rung}" if rung else "our runs"]
    about = style.about(runs)
    caption = f"recipe {name}; a rate is per 256 images; none: there is no such choice here\nours: {about}"
    return Sheet(table.title, rows, [(head, "", False) for head in heads], cells, caption)


def _sorted(values: set[str]) -> list[str]:
    """Numbers by their size, other values as text."""
    try:
        return sorted(values, key=float)
    except ValueError:
        return sorted(values)


def recipe_settings(name: str, rung: str) -> dict[str, str]:
    """The settings of a recipe at a rung, with default options and presets: dotted key -> text."""
    run = recipe(name, rung)
    flat: dict[str, object] = {f"optim.{k}": v for k, v in run.optim.model_dump().items()}
    flat |= {"epochs": run.epochs, "batch_size": run.batch_size, "precision": run.precision}
    for kind, part in (("backbone", run.backbone), ("method", run.method)):
        defaults = {k: p.default for k, p in options(kind, part.name).items()}
        flat |= {f"{kind}.name": part.name} | {
            f"{kind}.options.{k}": v for k, v in (defaults | dict(part.options)).items()
        }
    from hardlab import build

    look = build.look(run)
    flat |= {f"augment.{k}": v for k, v in look.augment[0].model_dump().items()}
    if run.local:
        flat |= {"local.count": run.local.count} | {
            f"local.{k}": v for k, v in look.local[0].augment[0].model_dump().items()
        }
    return {k: ", ".join(map(str, v)) if isinstance(v, list | tuple) else _text(v) for k, v in flat.items()}


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _evaluated(table: Evaluated, printed: Mapping[tuple[str, str], str], evaluation: pd.DataFrame) -> Sheet:
    """Make a table of an evaluation's settings: printed, and in our protocol on each data set."""
    from hardlab.evaluate.published import settings

    def setting(column: Protocol, key: str) -> str:
        if column.data == "":
            return "no such set"
        return str(settings(column.protocol, {}, column.data or "")[key])

    cells = [
        [Cell(printed.get((k, c.name), ""), setting(c, at)) for c in table.columns] for k, at in table.keys.items()
    ]
    runs = evaluation[evaluation["protocol"].isin([c.protocol for c in table.columns])]
    about = style.about(runs) if len(runs) else table.missing
    names = [(key, table.called, False) for key in table.keys]
    heads = [(c.name, c.below, False) for c in table.columns]
    return Sheet(table.title, names, heads, cells, f"{table.note}\nours: {about}")
