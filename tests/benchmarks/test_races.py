"""The table of races, whose modules are loaded when their turn comes."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from benchmarks import __main__ as races


def test_every_race_of_the_table_can_be_run_and_every_race_of_a_module_is_in_it() -> None:
    assert all(callable(races.race(name)) for name in races.RACES)
    listed = {path.stem for path in Path(races.__file__).parent.glob("bench_*.py")} - {
        "bench_execution"
    }  # rows of a GPU
    assert set(races.RACES.values()) == listed
    of_modules = {name for module in listed for name in getattr(import_module(f"benchmarks.{module}"), "RACES", ())}
    assert {
        name for name, module in races.RACES.items() if hasattr(import_module(f"benchmarks.{module}"), "RACES")
    } == (of_modules)
