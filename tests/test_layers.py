"""The order of the layers, as docs/architecture.md states it, against the imports in the code."""

from __future__ import annotations

import ast
import graphlib
import importlib
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from imports import ROOT, at_load, imports, module_of

FILES = sorted((ROOT / "hardlab").rglob("*.py"))
IMPORT_NAMES = {"pillow": "PIL", "pyyaml": "yaml"}  # where a distribution's name is not the name to import
UNMIRRORED = {  # module or package -> why it has no test file of its name
    "recipes": "settings, tested by the runs that they make: test_build, test_config and the tests of the methods",
    "errors.py": "one exception without code, which every test of a refusal expects",
}


@cache
def ranks() -> dict[str, int]:
    """Layer -> place in the order, 0 on the left; layers between the same two arrows share a place."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = text.split("## Layers", 1)[1].split("```")[1]
    groups = [re.findall(r"\w+", group) for group in block.split("->")]
    return {name: rank for rank, group in enumerate(groups) for name in group}


def layer_of(module: str) -> str | None:
    """The layer that a module of hardlab belongs to; None for the package itself and for other packages."""
    parts = module.split(".")
    return parts[1] if parts[0] == "hardlab" and len(parts) > 1 else None


def test_every_module_has_a_place_in_the_order_of_the_layers() -> None:
    layers = {layer for path in FILES if (layer := layer_of(module_of(path)))}
    assert layers - ranks().keys() == set(), "docs/architecture.md, section Layers, does not place these"
    assert ranks().keys() - layers == set(), "docs/architecture.md, section Layers, places what does not exist"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_imports_only_layers_to_its_right(path: Path) -> None:
    own = layer_of(module_of(path))
    named = set(imports(path, ast.parse(path.read_text(encoding="utf-8"))))
    other = {layer for module in named if (layer := layer_of(module)) and layer != own and layer in ranks()}
    if own is None:
        assert not other, "hardlab/__init__.py imports nothing of its own, so that `import hardlab` is free"
    else:
        wrong = {layer for layer in other if ranks()[layer] <= ranks().get(own, -1)}
        assert not wrong, f"{module_of(path)} imports {sorted(wrong)}, which do not stand to the right of {own}"


def test_no_modules_import_each_other_in_a_circle_not_even_inside_a_function() -> None:
    """A package's own file is left out: what it gives of its modules, it imports when it is asked for."""
    files = {module_of(path): path for path in FILES if path.name != "__init__.py"}
    graph = {
        name: {m for m in imports(path, ast.parse(path.read_text(encoding="utf-8"))) if m in files and m != name}
        for name, path in files.items()
    }
    assert sum(map(len, graph.values())) > 300
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError with the circle


@pytest.mark.parametrize("path", [p for p in FILES if layer_of(module_of(p)) in ("analysis", "figures")], ids=module_of)
def test_analysis_and_figures_read_files_and_never_the_trainer(path: Path) -> None:
    assert "train" not in {layer_of(module) for module in imports(path, ast.parse(path.read_text(encoding="utf-8")))}


def test_methods_know_nothing_of_strategies_and_strategies_only_the_base_of_methods() -> None:
    for path in FILES:
        named = set(imports(path, ast.parse(path.read_text(encoding="utf-8"))))
        if layer_of(module_of(path)) == "hard":
            assert {m for m in named if layer_of(m) == "methods"} <= {"hardlab.methods.base"}, module_of(path)
        if layer_of(module_of(path)) == "methods":
            assert not {m for m in named if layer_of(m) == "hard"}, module_of(path)


def test_the_training_core_loads_only_the_core_dependencies() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in declared} - {"click"}  # type: ignore[index]
    allowed = {IMPORT_NAMES.get(name, name) for name in names} | {"hardlab"} | sys.stdlib_module_names
    core = [p for p in FILES if (layer := layer_of(module_of(p))) and ranks().get(layer, -1) >= ranks()["train"]]
    assert len(core) > 10
    others = {(module_of(p), module) for p in core for module in at_load(p) if module.split(".")[0] not in allowed}
    assert others == set(), "these belong inside the function that needs them, or not into the core"


def test_no_module_is_hidden_by_something_else_of_its_name() -> None:
    modules = {name: importlib.import_module(name) for name in map(module_of, FILES)}
    places = [(name.rpartition("."), module) for name, module in modules.items() if "." in name]
    hidden = [f"{home}.{own}" for (home, _, own), module in places if getattr(modules[home], own) is not module]
    assert hidden == [], "importing these from their package gives something else than the module"


def test_the_folders_of_tests_are_the_packages_of_hardlab() -> None:
    packages = {path.parent.name for path in (ROOT / "hardlab").glob("*/__init__.py")}
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders - packages == {"benchmarks", "faults"}
    assert packages - folders == {"recipes"}


def test_every_module_has_a_test_file_of_its_name_in_the_mirrored_place() -> None:
    modules = {path.relative_to(ROOT / "hardlab") for path in FILES if path.stem != "__init__"}
    tested = {path for path in modules if _tests_in(ROOT / "tests" / path.with_name(f"test_{path.name}"))}
    missing = {path.as_posix() for path in modules - tested if path.parts[0] not in UNMIRRORED}
    assert missing == set(), "modules without tests beside them"
    assert UNMIRRORED.keys() == {path.parts[0] for path in modules - tested}, "these exceptions are not needed"


def _tests_in(path: Path) -> bool:
    return path.exists() and "\ndef test_" in path.read_text(encoding="utf-8")


def test_loading_the_registry_loads_no_entry_of_it() -> None:
    code = """
import sys
from hardlab import registry
entries = {value.partition(":")[0] for table in registry.TABLES.values() for value in table.values()}
assert entries, "no entries"
print(*sorted(entries & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


def test_every_entry_of_the_registry_leads_to_something_callable() -> None:
    from hardlab import registry

    for kind, table in registry.TABLES.items():
        for name in table:
            assert callable(registry.find(kind, name)), f"{kind} {name}"
