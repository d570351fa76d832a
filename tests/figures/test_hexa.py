"""The figures of HEXA: every scheme is a recipe whose strategies are those of its name."""

from __future__ import annotations

import pytest

from hardlab.analysis import schema
from hardlab.figures import hexa
from hardlab.recipes import recipe


@pytest.mark.parametrize("base", ["moco", "deepcluster"])
def test_the_scheme_of_a_label_is_a_recipe_with_its_strategies(base: str) -> None:
    _, arms = hexa._scheme(base, schema.empty("evaluation"), schema.empty("configs"))
    assert arms[0] == ("Std", arms[0][1]) and [label for label, _ in arms[1:]] == list(hexa.SCHEMES.values())
    for (label, arm), parts in zip(arms, ((), *(key.split("-") for key in hexa.SCHEMES)), strict=True):
        assert arm is not None, label
        hard = [spec.name for spec in recipe(arm.recipe, "cpu").hard]
        assert ("adversarial" in hard) == any("adv" in part or part == "cmxa" for part in parts), label
        assert ("cutmix" in hard) == any("cmx" in part for part in parts), label
