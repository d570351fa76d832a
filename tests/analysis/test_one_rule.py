"""Runs are ranked in ``analysis.arms`` and nowhere else: docs/arms.md is the whole rule."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RULE = ROOT / "hardlab" / "analysis" / "arms.py"
OTHERS = [p for p in sorted((ROOT / "hardlab").glob("analysis/*.py")) if p != RULE]
OTHERS += [*sorted((ROOT / "hardlab").glob("figures/*.py")), ROOT / "hardlab" / "workbook" / "report.py"]
RANKED = {"rung", "setting", "seed", "run", "recipe", "epochs", "started", "data"}  # what tells one run from another
ORDERS = {"max", "min", "sorted", "nlargest", "nsmallest"}


def words(node: ast.AST) -> set[str]:
    """The names, attributes and texts in a piece of code."""
    named = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    named |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    return named | {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def looks_up(key: ast.AST) -> bool:
    """Whether a key is several values in turn, or what a table has for the item."""
    return isinstance(key, ast.Lambda) and isinstance(key.body, ast.Tuple | ast.Subscript)


def rankings(source: str) -> Iterator[tuple[int, str]]:
    """(line, why) of code that ranks runs.

    Comparing rungs; the largest or smallest of something by a key that looks at what tells runs apart; counting seeds,
    runs or recipes to compare groups; keeping the last of several runs.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr == "index" and "RUNGS" in words(node.value):
            yield node.lineno, "compares rungs"
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        keys = {k.arg: k.value for k in node.keywords}
        if called in ORDERS and "key" in keys and words(keys["key"]) & (RANKED | {"nunique"}):
            yield node.lineno, f"{called} by a key that tells runs apart"
        if called in ("max", "min") and "key" in keys and looks_up(keys["key"]):
            yield node.lineno, f"{called} of several criteria, or of a table of ranks"
        if called in ("transform", "agg") and "nunique" in words(node):
            told_apart = isinstance(node.func, ast.Attribute) and words(node.func.value) & (RANKED - {"epochs"})
            yield from [(node.lineno, "counts to compare groups")] if told_apart & {"seed", "recipe"} else []
        if called == "drop_duplicates" and "keep" in keys and words(node) & {"setting", "SAME", "seed"}:
            yield node.lineno, "keeps one of several runs"
        if called in ("idxmax", "idxmin") and isinstance(node.func, ast.Attribute) and words(node.func.value) & RANKED:
            yield node.lineno, f"{called} over what tells runs apart"


@pytest.mark.parametrize("path", OTHERS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_no_other_module_ranks_runs(path: Path) -> None:
    assert list(rankings(path.read_text(encoding="utf-8"))) == [], "this belongs in analysis/arms.py and docs/arms.md"


def test_the_rule_itself_is_found_by_this_search() -> None:
    assert len(list(rankings(RULE.read_text(encoding="utf-8")))) >= 5


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
        'several = evaluation.groupby(what)["options"].transform("nunique") > 1',
    ],
)
def test_what_ranks_no_runs_is_let_through(innocent: str) -> None:
    assert not list(rankings(innocent))
