"""Every option that docs/departures.md offers exists and changes the run."""

import re
from pathlib import Path

import pytest

from hardlab import build, config, recipes

PAGE = (Path(__file__).parents[1] / "docs" / "departures.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")][
    1:
]
OPTIONS = [(row[0], option) for row in ROWS for option in re.findall(r"`([^`]+)`", row[5])]


def test_each_departure_names_its_place_its_reason_and_its_option_or_why_there_is_none():
    assert len(ROWS) >= 12
    assert len({row[0] for row in ROWS}) == len(ROWS)
    assert all(len(row) == 6 and all(row) for row in ROWS)


@pytest.mark.parametrize(("id_", "option"), OPTIONS)
def test_an_offered_option_exists_and_changes_the_run(id_, option):
    name = "simclr-hvs" if id_.startswith("S") else "simsiam-hvs"
    base = recipes.recipe(name, "smoke")
    rung = re.fullmatch(r"--rung (\w+)", option)
    other = recipes.recipe(name, rung[1]) if rung else base.with_(config.parse([option]))
    assert other.hash != base.hash
    build.look(other)
