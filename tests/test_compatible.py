"""What classes declare of their needs is what built networks refuse, and is read without loading them."""

from __future__ import annotations

import inspect
import re

import pytest
from refused import SETTINGS

from hardlab import build, compatible, config, contracts, registry
from hardlab.config import Run, Spec
from hardlab.needs import Setting
from hardlab.recipes import recipe
from hardlab.types import HardlabError

DECLARED = {
    "strategy": ("draws", "adds", "regroups", "owns_loss", "borrows", "offers", "takes", "needs", "when"),
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


@pytest.mark.parametrize("words", SETTINGS)
def test_what_the_settings_forbid_is_refused_alike_by_what_is_built(words: str, monkeypatch) -> None:
    name, *given = words.split()
    run = recipe(name, "smoke", config.parse(given))
    with pytest.raises(HardlabError, match=re.escape(SETTINGS[words])) as quick:
        compatible.check(run)
    monkeypatch.setattr(compatible, "check", lambda run: None)
    with pytest.raises(HardlabError) as built:
        build.check(run)
        build.check_images(run)
    output = [
        str(e.value).partition(" pixels cannot pass through") for e in (quick, built)
    ]  # the rest is torch's there
    assert output[0][:2] == output[1][:2]


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in DECLARED for n in registry.TABLES[k]])
def test_the_rules_that_the_source_of_a_class_holds_are_the_functions_of_the_class(kind: str, name: str) -> None:
    for rule in ("check_options", "check_run"):
        read = registry.signatures.read_attribute(registry.TABLES[kind][name], rule)
        made = getattr(registry.find(kind, name), rule)
        assert inspect.signature(read) == inspect.signature(made)
        assert read.__code__.co_code == made.__code__.co_code and read.__code__.co_consts == made.__code__.co_consts


@pytest.mark.parametrize("name", registry.HARD)
def test_a_strategy_says_that_it_gives_a_method_negatives_of_its_own(name: str) -> None:
    method = next(m for m in registry.METHODS if compatible.refusal(m, Spec(name=name)) is None)
    run = contracts.run(method, name)
    assert build.unmade(run)[0].borrowed is registry.attribute("strategy", name, "borrows")


def test_a_rule_of_an_outside_class_is_asked_too(monkeypatch) -> None:
    class Loud(registry.find("strategy", "mined")):  # type: ignore[misc]
        """Refuses small batches."""

        @staticmethod
        def check_run(at: Setting, threshold: float) -> None:
            if at.batch_size < threshold:
                raise HardlabError(f"{at.own.name} takes at least {threshold:g} images, not {at.batch_size}.")

    monkeypatch.setitem(registry.HARD, "loud", "elsewhere:Loud")
    monkeypatch.setitem(registry._registered, ("strategy", "loud"), Loud)
    monkeypatch.setattr(registry, "source", lambda kind, name: None)
    spec = {"name": "loud", "options": {"threshold": 64}}
    compatible.check(recipe("simsiam", "smoke", {"hard": [spec], "batch_size": 64}))
    with pytest.raises(HardlabError, match="loud takes at least 64 images, not 63"):
        compatible.check(recipe("simsiam", "smoke", {"hard": [spec], "batch_size": 63}))


def test_mixtures_of_adversarial_views_need_the_attack_before_them() -> None:
    mixed = {"name": "cutmix", "options": {"source": "both"}}
    with pytest.raises(HardlabError, match="name adversarial before cutmix"):
        compatible.check(recipe("moco", "smoke", {"hard": [mixed, "adversarial"]}))
    compatible.check(recipe("moco", "smoke", {"hard": ["adversarial", mixed]}))


def test_a_need_that_does_not_exist_is_told_with_the_nearest(monkeypatch) -> None:
    monkeypatch.setattr(registry.find("strategy", "mined"), "needs", {"vector": "measures distances"})
    with pytest.raises(HardlabError, match="Did you mean 'vectors'"):
        compatible.strategy(Spec(name="mined"))
