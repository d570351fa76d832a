"""Runs are ranked and chosen in ``analysis.arms`` and nowhere else: docs/arms.md has all of its rules."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RULE = ROOT / "hardlab" / "analysis" / "arms.py"
OTHERS = [p for p in sorted((ROOT / "hardlab").rglob("*.py")) if p != RULE]
OTHERS += sorted((ROOT / "notebooks").glob("*.ipynb"))
RANKED = {"rung", "setting", "seed", "run", "recipe", "epochs", "started", "data"}  # what tells one run from another
ORDERS = {"max", "min", "sorted"}
COLUMNS = {"run", "recipe", "seed", "setting", "path"}  # of a table with several runs
SEVERAL = {"runs", "done", "recipes", "seeds", "finished"}  # what tables, folders and lists of runs are called

# what looks like a choice of a run and is none: (module or notebook, code) -> why
ALLOWED = {
    ("hardlab/analysis/claims.py", "max((int(self.book.runs[name]['seed']) for runs in trained for name in runs))"):
        "the next seed to train is one above all",
    ("hardlab/analysis/claims.py", "max((-1, *group.seeds))"): "the next seed to train is one above all",
    ("hardlab/analysis/importance.py", "alone['share'].idxmax()"): "an effect, not a run",
    ("hardlab/analysis/shared_batch.py", "todo['run'].iloc[0]"): "these runs have the same images: arms.same_images",
    ("hardlab/cli.py", "next((folder / 'runs').glob('*/manifest.json'), None)"): "whether there is any",
    ("hardlab/evaluate/runner.py", "list(networks.items())[:1]"): "the network of a run's main result",
    ("hardlab/figures/hvs.py", "rows.groupby('run')['outside'].first()"): "a run has one number in all of its bins",
    ("hardlab/workbook/bench.py", "max(surely, key=lambda pair: pair[0])"): "the fastest setting, by a measured ratio",
    ("hardlab/workbook/campaign_plan.py",
     "next((i for i, (_, runs) in enumerate(self.steps) if not done.issuperset(runs)), len(self.steps))"):
        "how many steps of a question are done",
    ("hardlab/workbook/campaign_plan.py", "next(seeds)"): "the next seed to train is the next number",
    ("hardlab/workbook/explorer.py", "list(some)[-1]"): "whether a sentence is the last of a panel",
    ("hardlab/workbook/pages.py", "(measured if len(measured) else headlines).head(1)"): "a claim, not a run",
    ("hardlab/workbook/plan.py", "sorted(runs, key=lambda run: run.data.model_dump_json())"):
        "those of one data set after another: all are checked",
    ("hardlab/workbook/race.py",
     "sorted((row for row in rows if row['library'] == name), key=lambda row: row['seed'])"):
        "all are printed",
    ("hardlab/workbook/report.py", "values['run'].iloc[0]"): "runs of one setting have the same length",
    ("notebooks/02_evaluate.ipynb",
     "top1.drop_duplicates(['evaluated_on', 'bar', 'protocol', 'seed'], keep='last')"): "raw pixels of a seed",
    ("notebooks/11_your_strategy.ipynb", "frame.head(1)"): "steps of one run",
    ("notebooks/11_your_strategy.ipynb", "frame.tail(1)"): "steps of one run",
    ("notebooks/06_gan_evolution.ipynb", "alike[alike['part'] == 'the GAN on its own'].tail(1)"): "a step of one run",
    ("notebooks/10_your_images.ipynb", "by_image.nlargest(5, 'hardness')"): "images of one run",
    ("notebooks/10_your_images.ipynb", "by_image.nsmallest(5, 'hardness')"): "images of one run",
}  # fmt: skip


def words(node: ast.AST) -> set[str]:
    """The names, attributes and texts in a piece of code."""
    named = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    named |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    return named | {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def code(path: Path) -> str:
    """The text of a module, or of the code cells of a notebook, one after another."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return text
    return "\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "code")


def texts(node: ast.AST) -> set[str]:
    """The text that a subscript is, if it is one."""
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def looks_up(key: ast.AST, tree: ast.AST) -> bool:
    """Whether a key, or the function that it names, is several values in turn, or what a table has for the item."""
    if isinstance(key, ast.Name):
        named = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == key.id]
        returned = [n.value for function in named for n in ast.walk(function) if isinstance(n, ast.Return)]
        return any(isinstance(value, ast.Tuple | ast.Subscript) for value in returned)
    return isinstance(key, ast.Lambda) and isinstance(key.body, ast.Tuple | ast.Subscript)


def asks_for_rows(node: ast.AST, name: str) -> bool:
    """Whether a piece of code compares the column ``recipe`` of a table with the name, or a text made of it."""
    for one in ast.walk(node):
        if isinstance(one, ast.Compare):
            sides = [one.left, *one.comparators]
            column = any(isinstance(s, ast.Subscript) and "recipe" in texts(s.slice) for side in sides
                         for s in ast.walk(side))  # fmt: skip
            if column and any(name in words(side) for side in sides):
                return True
    return False


def first_with_rows(tree: ast.AST) -> Iterator[ast.AST]:
    """Loops and comprehensions that give the first of some names whose recipe has rows in a table."""
    firsts = {n.value.id for n in ast.walk(tree) if isinstance(n, ast.Subscript) and isinstance(n.value, ast.Name)
              and isinstance(n.slice, ast.Constant | ast.UnaryOp)}  # fmt: skip
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.For) and isinstance(node.target, ast.Name):
            leaves = any(isinstance(n, ast.Return | ast.Break) for n in ast.walk(node))
            if leaves and asks_for_rows(node, node.target.id):
                yield node
        if isinstance(node, ast.ListComp | ast.GeneratorExp):
            within = parents[node]
            one = (
                (isinstance(within, ast.Call) and getattr(within.func, "id", "") in ("next", "iter"))
                or isinstance(within, ast.Subscript)
                or (isinstance(within, ast.Assign) and any(words(t) & firsts for t in within.targets))
            )
            for part in node.generators:
                if one and any(asks_for_rows(i, n) for i in part.ifs for n in words(part.target)):
                    yield node


def column_of(node: ast.AST) -> set[str]:
    """The text of a column of a table, whatever turns it into an array or a list, or shortens it to its values."""
    while True:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr not in ("tolist", "to_list", "to_numpy", "unique"):
                return set()
            node = node.func.value
        elif isinstance(node, ast.Attribute) and node.attr in ("values", "array"):
            node = node.value
        else:
            return texts(node.slice) if isinstance(node, ast.Subscript) else set()


def taken(node: ast.Subscript) -> str | None:
    """How a subscript takes one of several runs; None if it does not."""
    value, key = node.value, node.slice
    number = isinstance(key, ast.UnaryOp) or (isinstance(key, ast.Constant) and isinstance(key.value, int))
    ends = [ast.unparse(end) if end else "" for end in (key.lower, key.upper)] if isinstance(key, ast.Slice) else []
    alone = number or ends in (["", "1"], ["0", "1"], ["-1", ""])
    if alone and isinstance(value, ast.Call) and getattr(value.func, "id", "") in ("sorted", "list"):
        return "one of a list in some order"
    if alone and not isinstance(value, ast.Subscript) and column_of(value) & COLUMNS:
        return "the first of a column's values"
    if alone and isinstance(value, ast.Attribute) and value.attr == "index" and "value_counts" in words(value.value):
        return "the most frequent"
    if (
        number
        and isinstance(value, ast.Attribute)
        and value.attr in ("iloc", "iat")
        and column_of(value.value) & COLUMNS
    ):
        return "the run, recipe, seed or folder of one row"
    of_row = isinstance(value, ast.Subscript) and getattr(value.value, "attr", "") in ("iloc", "iat")
    if of_row and isinstance(value.slice, ast.Constant | ast.UnaryOp) and texts(key) & COLUMNS:
        return "the run, recipe, seed or folder of one row"
    return None


def chosen(node: ast.AST) -> str | None:
    """How a piece of code takes one of several rows, or one of several runs; None if it does not."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        called = node.func.attr
        if called in ("head", "tail") and [getattr(a, "value", None) for a in node.args] == [1]:
            return f"{called}(1)"
        if called in ("first", "last") and not node.args:
            return f"{called}()"
        if called in ("nlargest", "nsmallest", "idxmax", "idxmin", "nth"):
            return called
        if called == "mode" and column_of(node.func.value) & COLUMNS:
            return "the most frequent"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and words(node) & SEVERAL:
        alone = len(node.args) == 1 and not node.keywords
        if node.func.id == "next" or (node.func.id in ("max", "min") and alone):
            return f"{node.func.id} of runs"
    if isinstance(node, ast.Subscript) and (why := taken(node)):
        return why
    if isinstance(node, ast.Compare) and words(node) & RANKED:
        sides = [side.func for side in (node.left, *node.comparators) if isinstance(side, ast.Call)]
        if {"min", "max"} & {side.attr for side in sides if isinstance(side, ast.Attribute)}:
            return "the smallest or largest of what tells runs apart"
    if (
        isinstance(node, ast.For)
        and words(node.iter) & SEVERAL
        and any(isinstance(n, ast.Break) for n in ast.walk(node))
    ):
        return "a loop over runs that ends at the first that fits"
    return None


def rankings(source: str) -> Iterator[tuple[ast.AST, str]]:
    """(code, why) of code that ranks or chooses runs.

    Comparing rungs; the largest or smallest of something by a key that looks at what tells runs apart; counting seeds,
    runs or recipes to compare groups; keeping one of several runs, the longest, or the first in some order; taking the
    first of some recipes that has rows; grouping runs by seed by hand.
    """
    tree = ast.parse(source)
    yield from ((node, "takes the first recipe that has rows") for node in first_with_rows(tree))
    for node in ast.walk(tree):
        if why := chosen(node):
            yield node, why
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "iloc":
            one = isinstance(node.slice, ast.Constant | ast.UnaryOp)  # not a slice, nor `.iloc[order]`
            if one and "sort_values" in words(node.value) and words(node.value) & (RANKED - {"data"}):
                yield node, "takes the first of runs in an order"
        if isinstance(node, ast.Attribute) and node.attr == "index" and "RUNGS" in words(node.value):
            yield node, "compares rungs"
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        keys = {k.arg: k.value for k in node.keywords}
        if called in ORDERS and "key" in keys and words(keys["key"]) & (RANKED | {"nunique"}):
            yield node, f"{called} by a key that tells runs apart"
        if called in ("max", "min") and "key" in keys and looks_up(keys["key"], tree):
            yield node, f"{called} of several criteria, or of a table of ranks"
        if called in ("transform", "agg") and "nunique" in words(node):
            told_apart = isinstance(node.func, ast.Attribute) and words(node.func.value) & (RANKED - {"epochs"})
            yield from [(node, "counts to compare groups")] if told_apart & {"seed", "recipe"} else []
        by = set().union(*map(words, [*node.args, *keys.values()]))
        if called == "drop_duplicates" and "run" not in by and by & {"setting", "SAME", "seed", "recipe"}:
            yield node, "keeps one of several runs"
        if (
            called in ("max", "min")
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Subscript)
        ):
            yield from [(node, "keeps the longest")] if texts(node.func.value.slice) == {"epochs"} else []
        if called == "setdefault" and node.args and "seed" in words(node.args[0]):
            yield node, "groups runs by seed"


@pytest.mark.parametrize("path", OTHERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_other_module_ranks_runs(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    picks = [(ast.unparse(node), why) for node, why in rankings(code(path))]
    assert [t for t in picks if (place, t[0]) not in ALLOWED] == [], "this belongs in analysis/arms.py and docs/arms.md"


def test_every_exception_is_one_that_the_search_finds() -> None:
    picks = {(p.relative_to(ROOT).as_posix(), ast.unparse(n)) for p in OTHERS for n, _ in rankings(code(p))}
    assert ALLOWED.keys() - picks == set()


@pytest.mark.parametrize("path", OTHERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_tables_are_read_by_the_schema_alone(path: Path) -> None:
    reads = path.name != "schema.py" and "read_csv" in words(ast.parse(code(path)))
    assert not reads, "use schema.read, which knows what each column holds"


def test_the_rule_itself_is_found_by_this_search() -> None:
    assert len(list(rankings(code(RULE)))) >= 5


def test_every_function_that_chooses_stands_in_the_page() -> None:
    page, source = (ROOT / "docs" / "arms.md").read_text(encoding="utf-8"), code(RULE)
    lines = {node.lineno for node, _ in rankings(source)}  # type: ignore[attr-defined]
    choosing = {
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        if any(node.lineno <= line <= (node.end_lineno or 0) for line in lines)
    }
    assert {name for name in choosing if not re.search(rf"`(\w+\.)?{name}`", page)} == set()
    assert {"stand_in", "fullest", "first", "longest", "comparable"} <= choosing


@pytest.mark.parametrize(
    "planted",
    [
        'rows = rows[rows["rung"] == max(rows["rung"].unique(), key=RUNGS.index)]',
        'best = max(sets.index, key=lambda d: (*sets.loc[d], d, rows["recipe"].nunique()))',
        "name = sorted(groups, key=lambda g: (g.rung, len(g.values)))[-1]",
        'enough = rows.groupby("setting")["seed"].transform("nunique")',
        'last = done.drop_duplicates(["setting", "arm", "seed"], keep="last")',
        'run = done.loc[done["epochs"].idxmax()]',
        "best = max(ranks, key=lambda name: ranks[name])",
        "arms = [a for a in arms if RUNGS.index(a.rung) <= RUNGS.index(rung)]",
        "def rank(d): return d not in known, sizes[d]\nbest = max(sets, key=rank)",
        'about = done.sort_values(["seed", "run"]).iloc[0]',
        'one = mine[mine["run"] == mine.sort_values(["seed", "run"])["run"].iloc[0]]',
        'values = values.sort_values("recipe").drop_duplicates([*SAME, "name", *MEASURED])',
        'first = done.drop_duplicates("recipe").set_index("recipe")["path"]',
        'short = done["epochs"] < done["epochs"].max()',
        'path = Path(done["path"].iloc[0])',
        'of_seed.setdefault(int(self.book.runs[name]["seed"]), []).append(name)',
        'base = next((b for b in ("a", "b") if (rows["recipe"] == f"hexa-{b}").any()), "a")',
        'drawn = [r for r in recipes if (shown["recipe"] == r).any()]\nshown = shown[shown["recipe"] == drawn[0]]',
        'first = [r for r in recipes if r in set(shown["recipe"])][0]',
        "one = runs.head(1)",
        'one = done.sort_values("started").tail(1)',
        'one = done.groupby("recipe").first()',
        'one = done.groupby("recipe")["path"].last()',
        "one = sorted(runs)[0]",
        "one = sorted(runs, reverse=True)[-1]",
        "one = list(done)[0]",
        "one = sorted(runs)[:1]",
        "one = sorted(runs)[-1:]",
        "one = list(done)[0:1]",
        'one = done["run"].values[0]',
        'one = done["path"].tolist()[0]',
        'one = done["recipe"].unique().to_numpy()[-1]',
        'one = done.groupby("recipe").nth(0)',
        'one = done["setting"].mode()[0]',
        'one = done["setting"].mode().iloc[0]',
        'one = done.iloc[0]["path"]',
        'one = done.iloc[-1]["run"]',
        'one = done["setting"].value_counts().index[0]',
        'one = done.nlargest(1, "epochs")',
        'one = done.nsmallest(1, "seed")',
        "one = done[seed == seed.min()]",
        'one = done[done["seed"] == done["seed"].min()]',
        'one = done[done["started"].max() == done["started"]]',
        'one = done.loc[done["value"].idxmax()]',
        "for run in runs:\n if run.done:\n  break",
        "for name in done['run']:\n path = runs_dir / name\n if path.exists():\n  break",
        "one = max(runs)",
        "one = min(path for path in runs.iterdir())",
        'one = max(done["run"])',
        "one = next(iter(runs))",
        "one = next(run for run in manifests if run.done)",
        'one = done["run"].iloc[0]',
        'one = done["recipe"].iat[-1]',
        'def one():\n for r in recipes:\n  runs = done[done["recipe"] == r]\n  if len(runs):\n   return runs',
    ],
)
def test_a_planted_ranking_is_found(planted: str) -> None:
    assert list(rankings(planted))


@pytest.mark.parametrize(
    "innocent",
    [
        "weakest = min(each, key=lambda i: i.mean)",
        'rows = rows.sort_values("seed")',
        'frame.drop_duplicates(["protocol", "value"], keep="last")',
        'each = rows.drop_duplicates(["run", "recipe"])',
        'last = log[log["step"] == log["step"].max()]',
        'unit = found.sort_values("value")["unit"].iloc[0]',
        'several = evaluation.groupby(what)["options"].transform("nunique") > 1',
        'for name in recipes:\n    draw(ax, frame[frame["recipe"] == name])',
        'last = of[of["epoch"] == of["epoch"].max()]',
        "few = table.head(5)",
        "best = max(values)",
        "one = arms.first(done)",
        "most = max(claim.seeds, enough)",
        "for line in lines:\n    if line:\n        break",
        "first = images[0]",
        'first = of_claim["values"][0]',
        'text = row["seed"][0]',
        "few = sorted(names)[:5]",
        'height = frame["value"].values[0]',
        'value = table.iloc[0]["value"]',
        'missing = [name for name in recipes if name not in set(done["recipe"])]',
    ],
)
def test_what_ranks_no_runs_is_let_through(innocent: str) -> None:
    assert not list(rankings(innocent))
