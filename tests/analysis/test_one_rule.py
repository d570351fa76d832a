"""Runs are ranked in ``analysis.arms`` and nowhere else: docs/arms.md is the whole rule."""

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
ORDERS = {"max", "min", "sorted", "nlargest", "nsmallest"}


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


def rankings(source: str) -> Iterator[tuple[int, str]]:
    """(line, why) of code that ranks runs.

    Comparing rungs; the largest or smallest of something by a key that looks at what tells runs apart; counting seeds,
    runs or recipes to compare groups; keeping one of several runs, the longest, or the first in some order; taking the
    first of some recipes that has rows; grouping runs by seed by hand.
    """
    tree = ast.parse(source)
    yield from ((node.lineno, "takes the first recipe that has rows") for node in first_with_rows(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "iloc":
            one = isinstance(node.slice, ast.Constant | ast.UnaryOp)  # not a slice, nor `.iloc[order]`
            if one and "sort_values" in words(node.value) and words(node.value) & (RANKED - {"data"}):
                yield node.lineno, "takes the first of runs in an order"
            if one and isinstance(node.value.value, ast.Subscript) and texts(node.value.value.slice) == {"path"}:
                yield node.lineno, "takes the first of several runs"
        if isinstance(node, ast.Attribute) and node.attr == "index" and "RUNGS" in words(node.value):
            yield node.lineno, "compares rungs"
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        keys = {k.arg: k.value for k in node.keywords}
        if called in ORDERS and "key" in keys and words(keys["key"]) & (RANKED | {"nunique"}):
            yield node.lineno, f"{called} by a key that tells runs apart"
        if called in ("max", "min") and "key" in keys and looks_up(keys["key"], tree):
            yield node.lineno, f"{called} of several criteria, or of a table of ranks"
        if called in ("transform", "agg") and "nunique" in words(node):
            told_apart = isinstance(node.func, ast.Attribute) and words(node.func.value) & (RANKED - {"epochs"})
            yield from [(node.lineno, "counts to compare groups")] if told_apart & {"seed", "recipe"} else []
        by = set().union(*map(words, [*node.args, *keys.values()]))
        if called == "drop_duplicates" and "run" not in by and by & {"setting", "SAME", "seed", "recipe"}:
            yield node.lineno, "keeps one of several runs"
        if (
            called in ("max", "min")
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Subscript)
        ):
            yield from [(node.lineno, "keeps the longest")] if texts(node.func.value.slice) == {"epochs"} else []
        if called == "setdefault" and node.args and "seed" in words(node.args[0]):
            yield node.lineno, "groups runs by seed"
        if called in ("idxmax", "idxmin") and isinstance(node.func, ast.Attribute) and words(node.func.value) & RANKED:
            yield node.lineno, f"{called} over what tells runs apart"


@pytest.mark.parametrize("path", OTHERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_other_module_ranks_runs(path: Path) -> None:
    assert list(rankings(code(path))) == [], "this belongs in analysis/arms.py and docs/arms.md"


@pytest.mark.parametrize("path", OTHERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_tables_are_read_by_the_schema_alone(path: Path) -> None:
    reads = path.name != "schema.py" and "read_csv" in words(ast.parse(code(path)))
    assert not reads, "use schema.read, which knows what each column holds"


def test_the_rule_itself_is_found_by_this_search() -> None:
    assert len(list(rankings(code(RULE)))) >= 5


def test_every_function_that_chooses_stands_in_the_page() -> None:
    page, source = (ROOT / "docs" / "arms.md").read_text(encoding="utf-8"), code(RULE)
    lines = {line for line, _ in rankings(source)}
    chosen = {
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        if any(node.lineno <= line <= (node.end_lineno or 0) for line in lines)
    }
    assert {name for name in chosen if not re.search(rf"`(\w+\.)?{name}`", page)} == set()
    assert {"stand_in", "fullest", "first", "longest", "comparable"} <= chosen


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
        'missing = [name for name in recipes if name not in set(done["recipe"])]',
    ],
)
def test_what_ranks_no_runs_is_let_through(innocent: str) -> None:
    assert not list(rankings(innocent))
