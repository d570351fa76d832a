"""Every name leads to a documented entry, and an unknown one to the nearest."""

from __future__ import annotations

import inspect

import pytest

from hardlab import registry
from hardlab.types import HardlabError


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, t in registry.TABLES.items() for n in t])
def test_every_name_leads_to_something_documented_whose_options_are_typed(kind, name):
    made = registry.find(kind, name)
    assert inspect.getdoc(made)
    if kind != "data set":
        assert all(p.annotation is not inspect.Parameter.empty for p in registry.options(kind, name).values())


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("HEXA", "hexa"),
        ("adco", "AdCo"),
        ("hvs", "hvs_f1"),
        ("HVS_F1", "hvs_f1"),
        ("hxea", "hexa"),
        ("q", None),
        ("", None),
    ],
)
def test_the_nearest_name_is_found_whatever_the_case_and_from_its_beginning(word, near):
    names = ["hvs_f10", "hvs_t9", "hvs_f1", "hexa", "AdCo"]
    message = str(registry.unknown("figure", word, names))
    assert message.startswith(f"There is no figure '{word}'.") and message.endswith(
        f"Allowed: {', '.join(sorted(names))}."
    )
    assert (f"Did you mean '{near}'?" in message) if near else ("Did you mean" not in message)


@pytest.mark.parametrize("kind", registry.TABLES)
def test_an_unknown_name_is_answered_with_the_nearest(kind):
    name = next(iter(registry.TABLES[kind]))
    with pytest.raises(HardlabError, match=f"Did you mean '{name}'"):
        registry.find(kind, name + "x")
