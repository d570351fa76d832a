"""What a strategy needs of a method, and the sentence for one without it."""

from __future__ import annotations

from typing import Any

import pytest

from hardlab.needs import NEEDS, declared, refusal

FULL = {"negatives_from": "memory", "slots": 2, "vectors": True, "shared": False, "grouped": True, "indexed": False}
LACKS = {"negatives": {"negatives_from": ""}, "batch": {}, "memory": {"negatives_from": "batch"},
         "vectors": {"vectors": False}, "no rows": {"indexed": True}, "two views": {"slots": 1},
         "views to compare": {"slots": 1}, "groups": {"grouped": False}, "two passes": {"shared": True}}  # fmt: skip


@pytest.mark.parametrize("need", NEEDS)
def test_a_method_without_what_is_needed_is_refused_in_a_sentence_and_one_with_it_is_not(need: str) -> None:
    def answer(facts: dict[str, Any]) -> str | None:
        return refusal("Louder", {need: "turns it up"}, "Quiet", facts.__getitem__)

    sentence = answer(FULL | LACKS[need])
    assert sentence is not None and sentence.startswith("Louder turns it up, and Quiet ") and sentence.endswith(".")
    assert answer(FULL | ({"negatives_from": "batch"} if need == "batch" else {})) is None


def test_an_option_changes_what_is_declared_only_at_its_value() -> None:
    own = dict.fromkeys(("draws", "adds", "regroups", "owns_loss", "borrows", "offers", "takes"), 0)
    own |= {"needs": {"vectors": "measures"}, "when": {("labels", "soft"): {"needs": {"memory": "mixes"}, "draws": 4}}}
    soft = declared(own.__getitem__, {"labels": "soft"}.get)
    assert soft.needs == {"vectors": "measures", "memory": "with labels=soft mixes"} and soft.draws == 4
    hard = declared(own.__getitem__, {"labels": "hard"}.get)
    assert hard.needs == own["needs"] and hard.draws == 0
