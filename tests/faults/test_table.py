"""The fault table has every row, and every row a test that is there."""

from __future__ import annotations

import ast
from pathlib import Path

from rows import ROWS

TESTS = Path(__file__).resolve().parents[1]


def test_every_row_of_the_fault_table_has_its_tests():
    assert list(ROWS) == list(range(1, 20))
    for row, (_, tests) in ROWS.items():
        assert tests, row
        for test in tests:
            file, _, name = test.partition("::")
            tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
            functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
            assert functions, f"row {row} names {test}, which is not there"
