"""Whatever is in a registry keeps the contract of its kind; a new entry is tested by being there."""

import itertools

import pytest
import torch
from shallow import Shallow
from small_runs import small_run

from hardlab import contracts, nets, registry, run_folder, train
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


@pytest.mark.parametrize("name", registry.METHODS)
def test_a_small_run_has_the_backbone_that_its_method_declares(name):
    assert small_run(name).backbone.name == registry.find("method", name).NETWORK


@pytest.mark.parametrize(("strategy", "name"), list(itertools.product(registry.HARD, registry.METHODS)))
def test_a_strategy_steps_with_a_method_or_refuses_with_a_reason(strategy, name):
    try:
        contracts.steps_with(strategy, name)
    except HardlabError as e:
        assert len(str(e)) > 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moco", "simclr"])
@pytest.mark.parametrize("strategies", list(itertools.permutations(registry.HARD, 2)), ids="+".join)
def test_two_strategies_together_take_steps_or_are_refused_with_a_reason(strategies, name, monkeypatch):
    monkeypatch.setattr(nets, "Tiny", Shallow)  # each strategy takes its steps with a whole network above
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
