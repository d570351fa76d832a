"""Reading tables, judging claims and drawing figures load neither torch nor what trains."""

from __future__ import annotations

from pathlib import Path

import pytest
from imports import at_load, module_of

ROOT = Path(__file__).resolve().parents[2] / "hardlab"
LIGHT = [
    ROOT / "analysis" / f"{n}.py"
    for n in ("arms", "catalog", "claims", "evidence", "gap_notes", "intervals", "schema", "summary")
]
LIGHT += sorted((ROOT / "figures").glob("*.py"))
# of hardlab, beside one another: what a configuration is checked with
ALLOWED = {
    f"hardlab.{n}"
    for n in (
        "config",
        "registry",
        "recipes",
        "types",
        "errors",
        "files",
        "augment",
        "evaluate.published",
        "figures",
        "rich",
    )
}
HEAVY = {"torch", "torchvision", "sklearn", "pyarrow"}


@pytest.mark.parametrize("path", LIGHT, ids=module_of)
def test_a_module_that_reads_tables_imports_nothing_heavy(path: Path) -> None:
    named = set(at_load(path))
    assert {m for m in named if m.partition(".")[0] in HEAVY or m == "scipy.stats"} == set()
    own = {m for m in named if m.startswith("hardlab.")}
    # of a package its modules are not told apart here: `from hardlab.analysis import schema` is checked by name below
    allowed = ALLOWED | {module_of(p) for p in LIGHT} | {"hardlab.analysis"}
    assert own <= allowed, "import it inside the function that needs it"


def test_of_the_analysis_only_light_modules_are_imported_by_name() -> None:
    import ast

    names = {p.stem for p in LIGHT if p.parent.name == "analysis"}
    for path in LIGHT:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module == "hardlab.analysis":
                assert {alias.name for alias in node.names} <= names, path
