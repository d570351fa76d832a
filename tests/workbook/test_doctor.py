"""The examination of the machine, and the matrix of methods and strategies."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from hardlab import cli


def call(*words):
    return CliRunner().invoke(cli.cli, list(words), catch_exceptions=True)


def test_doctor_finds_this_machine_healthy_and_speaks_json():
    result = call("doctor", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["packages"]["torch"]["ok"] is True
    assert "packages  all there" in call("doctor").output


@pytest.mark.slow
def test_the_matrix_of_methods_and_strategies_comes_from_the_registry_and_gives_reasons():
    from hardlab import registry

    pairs = json.loads(call("doctor", "--matrix", "--json").output)
    assert pairs.keys() == registry.METHODS.keys()
    assert all(row.keys() == registry.HARD.keys() for row in pairs.values())
    plain = call("doctor", "--matrix").output
    for method, row in pairs.items():
        for strategy, reason in row.items():
            assert reason is None or f"{method} with {strategy}: {reason}" in plain
