"""The commands that fill the gaps of a figure."""

from __future__ import annotations

import shlex

import pytest

from hardlab.analysis.gap_notes import evaluate_command

pytestmark = pytest.mark.usefixtures("no_data_sets")


def test_a_command_that_evaluates_survives_a_shell() -> None:
    values = {"protocol": "knn", "data": "folder:my set; rm $HOME", "checkpoint": ""}
    words = shlex.split(evaluate_command(["a-s0", "b'c"], values))
    assert words == ["hardlab", "evaluate", "runs/a-s0", "runs/b'c", "--protocol", "knn", "--data", values["data"]]
    assert (
        evaluate_command([], {"protocol": "a"}, {"protocol": "b"}) == "hardlab evaluate RUN --protocol a --protocol b"
    )
