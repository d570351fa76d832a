"""Whatever is in a registry keeps the contract of its kind; a new entry is tested by being there."""

import inspect
import itertools

import pytest
import torch
from small_runs import small_run
from steps import forward, looked

from hardlab import contracts, registry, run_folder, train
from hardlab.hard.base import Hard
from hardlab.types import HardlabError


@pytest.mark.parametrize("name", registry.BACKBONES)
def test_a_backbone_maps_images_to_pooled_features_of_the_width_it_tells(name):
    with torch.device("meta"):  # shapes without numbers: the largest has 375 million weights
        net = registry.build("backbone", name, {}).eval()
        assert net(torch.empty(2, 3, 32, 32)).shape == (2, net.dim)


@pytest.mark.parametrize("name", registry.METHODS)
@pytest.mark.parametrize("contract", contracts.METHOD, ids=lambda c: c.__name__)
def test_a_method_keeps_its_contracts(contract, name):
    contract(name)


@pytest.mark.parametrize("name", registry.HARD)
@pytest.mark.parametrize("contract", contracts.STRATEGY, ids=lambda c: c.__name__)
def test_a_strategy_keeps_its_contracts(contract, name):
    contract(name)


@pytest.mark.parametrize(("strategy", "name"), list(itertools.product(registry.HARD, registry.METHODS)))
def test_a_strategy_steps_with_a_method_or_refuses_with_a_reason(strategy, name):
    try:
        contracts.steps_with(strategy, name)
    except HardlabError as e:
        assert len(str(e)) > 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moco", "simclr"])
@pytest.mark.parametrize("strategies", list(itertools.permutations(registry.HARD, 2)), ids="+".join)
def test_two_strategies_together_take_steps_or_are_refused_with_a_reason(strategies, name):
    try:
        session = train.open(
            contracts.run(name, *strategies), data=contracts.toy(), device="cpu", say=lambda line: None
        )
    except HardlabError as e:
        assert len(str(e)) > 20
        return
    batches = session.batches()
    try:
        for _ in range(2):
            now = train.step(session, next(batches))
    except HardlabError as e:  # what shows in the views alone
        assert "name" in str(e)
        return
    session.check()
    assert all(torch.isfinite(term).all() for term in now.terms.values())


def test_three_strategies_that_act_at_three_places_train_together(tmp_path):
    run = small_run("adco-hvs-adversarial", epochs=1)
    steps = run_folder.metrics(train.train(run, tmp_path, device="cpu", say=lambda line: None), "step")
    assert {"base", "adversarial"} <= steps[-1]["terms"].keys()
    assert steps[-1]["lr"].keys() == {"learner", "negatives"}


def test_the_base_strategy_is_the_baseline():
    method, hard, look = contracts.make("simsiam"), Hard(), contracts.look()
    v = contracts.rendered(method)
    assert looked(hard, method, v, look).views is v
    assert forward(method, v, hard, look=look).terms.keys() == {"base"}
    assert hard.players(method) == []


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, t in registry.TABLES.items() for n in t])
def test_every_name_leads_to_something_documented_whose_options_are_typed(kind, name):
    made = registry.find(kind, name)
    assert inspect.getdoc(made)
    if kind != "data set":
        assert all(p.annotation is not inspect.Parameter.empty for p in registry.options(kind, name).values())


@pytest.mark.parametrize(
    ("said", "near"),
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
def test_the_nearest_name_is_found_whatever_the_case_and_from_its_beginning(said, near):
    names = ["hvs_f10", "hvs_t9", "hvs_f1", "hexa", "AdCo"]
    told = str(registry.unknown("figure", said, names))
    assert told.startswith(f"There is no figure '{said}'.") and told.endswith(f"Allowed: {', '.join(sorted(names))}.")
    assert (f"Did you mean '{near}'?" in told) if near else ("Did you mean" not in told)


@pytest.mark.parametrize("kind", registry.TABLES)
def test_an_unknown_name_is_answered_with_the_nearest(kind):
    name = next(iter(registry.TABLES[kind]))
    with pytest.raises(HardlabError, match=f"Did you mean '{name}'"):
        registry.find(kind, name + "x")
