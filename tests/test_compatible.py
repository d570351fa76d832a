"""What classes declare of their needs is what built networks refuse, and is read without loading them."""

from __future__ import annotations

import pytest

from hardlab import build, compatible, registry
from hardlab.config import Run, Spec
from hardlab.recipes import recipe
from hardlab.types import HardlabError

DECLARED = {
    "strategy": ("draws", "adds", "regroups", "owns_loss", "offers", "takes", "needs", "when"),
    "method": ("negatives_from", "slots", "vectors", "shared", "grouped", "indexed"),
}


@pytest.mark.parametrize("name", registry.HARD)
def test_every_refusal_of_a_strategy_with_its_default_options_is_declared(name: str) -> None:
    for method in registry.METHODS:
        assert compatible.refusal(method, Spec(name=name)) == build.refusal(method, Spec(name=name))


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in DECLARED for n in registry.TABLES[k]])
def test_what_the_source_of_a_class_declares_is_what_the_class_has(kind: str, name: str) -> None:
    for key in DECLARED[kind]:
        assert registry.signatures.read_attribute(registry.TABLES[kind][name], key) == getattr(
            registry.find(kind, name), key
        )


@pytest.mark.parametrize(
    ("strategy", "option", "needy", "other", "refused", "accepted"),
    [
        ("cutmix", "labels", "soft", "two-term", "simclr", "moco"),
        ("adversarial", "against", "clean", "label", "moco", "simclr"),
        ("generated", "positives", "pair", "view", "moco", "simclr"),
        ("hvs", "labels", "reused", "again", "simclr", "moco"),
    ],
)
def test_an_option_adds_a_need(strategy, option, needy, other, refused, accepted) -> None:
    def run(method: str, value: str) -> Run:
        return recipe(method, "smoke", {"hard": [{"name": strategy, "options": {option: value}}]})

    with pytest.raises(HardlabError, match=f"with {option}={needy} .* It goes with .*{accepted}"):
        compatible.check(run(refused, needy))
    compatible.check(run(accepted, needy))
    compatible.check(run(refused, other))


def test_mixtures_of_adversarial_views_need_the_attack_before_them() -> None:
    mixed = {"name": "cutmix", "options": {"source": "both"}}
    with pytest.raises(HardlabError, match="name adversarial before cutmix"):
        compatible.check(recipe("moco", "smoke", {"hard": [mixed, "adversarial"]}))
    compatible.check(recipe("moco", "smoke", {"hard": ["adversarial", mixed]}))


def test_a_need_that_does_not_exist_is_told_with_the_nearest(monkeypatch) -> None:
    monkeypatch.setattr(registry.find("strategy", "mined"), "needs", {"vector": "measures distances"})
    with pytest.raises(HardlabError, match="Did you mean 'vectors'"):
        compatible.strategy(Spec(name="mined"))
