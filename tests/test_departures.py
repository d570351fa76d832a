"""Every option that docs/departures.md offers exists, changes the run, and can be built."""

import re
from pathlib import Path

import pytest
import torch

from hardlab import build, config, recipes

PAGE = (Path(__file__).parents[1] / "docs" / "departures.md").read_text()
SECTIONS = re.findall(r"^## [^\n]*\(recipe `([\w-]+)`\)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
ROWS = [
    (recipe, [cell.strip() for cell in line.strip("|").split("|")])
    for recipe, body in SECTIONS
    for line in body.splitlines()
    if line.startswith("| ") and not line.startswith("| id |")
]
OPTIONS = [(recipe, option) for recipe, row in ROWS for option in re.findall(r"`([^`]+)`", row[5])]


def test_each_departure_names_its_place_its_reason_and_its_option_or_why_there_is_none():
    assert len(ROWS) >= 12
    assert len({row[0] for _, row in ROWS}) == len(ROWS)
    assert all(len(row) == 6 and all(row) for _, row in ROWS)
    assert all("`" in row[5] or row[5].startswith("none") for _, row in ROWS)


def test_every_ambiguity_that_the_papers_leave_has_its_row():
    """HEXA 13, HVS 19, HNSSL 13, AdCo 13, PPCL 12: the list that this project was planned with."""
    listed = {re.match(r"[A-Z]+\d+", row[0])[0] for _, row in ROWS}
    expected = {f"{paper}{i + 1}" for paper, n in zip("HVNAP", (13, 19, 13, 13, 12), strict=True) for i in range(n)}
    assert expected <= listed


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_an_offered_option_exists_and_changes_a_run_that_can_be_built(name, option):
    recipe, _, rest = option.rpartition(" ")
    if recipe == "--rung":
        assert recipes.recipe(name, rest).hash != recipes.recipe(name, "smoke").hash
        return
    base = recipes.recipe(recipe or name, "smoke")
    other = base.with_(config.parse([rest]))
    assert other.hash != base.hash
    build.look(other)
    torch.manual_seed(0)
    build.strategies(other, build.method(other))
