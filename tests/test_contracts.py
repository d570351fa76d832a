"""Whatever is in a registry keeps the contract of its kind; a new entry is tested by being there."""

import copy
import inspect
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from resuming import same
from steps import forward, looked

from hardlab import build, config, recipes, registry, runs, train, views
from hardlab.data.base import Pixels, Source
from hardlab.hard.base import Hard
from hardlab.methods.base import Method
from hardlab.types import Batch, HardlabError

B, S = 8, 32
N = 512
LABELS = np.arange(N) % 10
IMAGES = Pixels(
    "toy",
    "train",
    Source(tuple("abcdefghij"), LABELS, [str(i) for i in range(N)]),
    [],
    label_map=np.arange(10),
    device="cpu",
    size=None,
    pixels=np.random.default_rng(0).integers(0, 256, (N, S, S, 3), np.uint8),
)


@pytest.fixture
def look():
    return views.Look(views.PRESETS["simclr_cifar"], (0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def batch():
    raw = torch.randint(0, 256, (B, 3, S, S), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(raw, torch.full((B, 2), S), torch.arange(B))


# options under which a forward pass draws nothing at random that belongs to one image
QUIET = {"gan": {"diffaugment": False}}


def small(kind, name):
    """The options of an entry under which it is small enough for tests: it says them itself."""
    return dict(registry.find(kind, name).SMALL)


def make(name, options=None):
    torch.manual_seed(0)
    options = small("method", name) | (options or {})
    method = registry.build("method", name, options, registry.build("backbone", "tiny", {"width": 8}))
    method.on_start(IMAGES, B)
    return method


def opened(name, strategy):
    """A session of a run with this method and strategy, or the reason why the two do not go together."""
    run = recipes.recipe("simsiam").with_({
        "method": {"name": name, "options": small("method", name)},
        "hard": [{"name": strategy, "options": small("strategy", strategy)}],
        "augment": {"name": "simclr_cifar", "options": {}},
        "backbone": {"name": "tiny", "options": {"width": 4}},
        "batch_size": B,
        "epochs": 2,
        "precision": "fp32",
    })  # fmt: skip
    try:
        return train.open(run, data=IMAGES, device="cpu")
    except HardlabError as e:
        return str(e)


@pytest.mark.parametrize("name", registry.BACKBONES)
def test_a_backbone_maps_images_to_pooled_features_of_the_width_it_tells(name):
    with torch.device("meta"):  # shapes without numbers: the largest has 375 million weights
        net = registry.build("backbone", name, {}).eval()
        assert net(torch.empty(2, 3, S, S)).shape == (2, net.dim)


@pytest.mark.parametrize("name", registry.METHODS)
def test_a_method_gives_one_loss_per_image_and_changes_nothing_but_bn_in_forward(name, look, batch):
    method = make(name)
    assert isinstance(method, Method)
    assert method.__doc__
    bn = {n for n, _ in method.named_buffers() if "running" in n or "num_batches" in n}
    before = {k: v.clone() for k, v in method.state_dict().items()}
    v = look.render(look.views(batch, method.slots), method.plain)
    out = method(v)
    assert out.loss.shape == (B,)
    assert out.loss.dtype == torch.float32
    assert all(torch.equal(before[k], t) for k, t in method.state_dict().items() if k not in bn)
    others = {id(p) for player in method.players() for p in player.params}
    mine = [p for p in method.parameters() if p.requires_grad and id(p) not in others]
    grads = torch.autograd.grad(out.loss.mean(), mine, allow_unused=True)
    assert all(g is not None and torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("name", registry.METHODS)
def test_a_method_does_not_care_in_which_order_its_images_come(name, look, batch):
    method = make(name, QUIET.get(name))
    v = look.render(look.views(batch, method.slots), method.plain)
    order = torch.randperm(B, generator=torch.Generator().manual_seed(1))
    plain = None if v.plain is None else v.plain[order]
    shuffled = replace(v, index=v.index[order], group=v.group[order], params=v.params[order], x=v.x[order], plain=plain)
    losses = []
    for given in (v, shuffled):
        torch.manual_seed(0)  # the same latents, where a method draws some
        losses.append(method(given).loss)
    assert torch.allclose(losses[0][order], losses[1], atol=1e-4)


@pytest.mark.parametrize(("strategy", "name"), list(itertools.product(registry.HARD, registry.METHODS)))
def test_a_strategy_steps_with_a_method_or_refuses_with_a_reason(strategy, name, look, batch, tmp_path):
    session = opened(name, strategy)
    if isinstance(session, str):
        assert len(session) > 20
        return
    hard, players = session.hard[0], session.players
    assert isinstance(hard, Hard)
    assert hard.__doc__
    before = [[p.clone() for p in player.params] for player in players]
    now = train.step(session, next(session.batches()))
    session.check()
    for player, old in zip(players, before, strict=True):
        moved = any(not torch.equal(a, b) for a, b in zip(player.params, old, strict=True))
        assert moved == (player is players[0] or player.times(0) > 0), player.name
    assert all(torch.isfinite(p).all() for p in session.method.parameters())
    said = {**session.method.logs(now), **hard.numbers(now)}
    assert all(np.isfinite(float(x)) or "pseudo" in key for key, x in said.items()), said
    shown = {**session.method.snapshot(IMAGES, session.look), **hard.snapshot(session.method, IMAGES, session.look)}
    assert all(isinstance(x, torch.Tensor) and len(key) for key, x in shown.items())
    saved = copy.deepcopy(session.dump())
    train.step(session, next(session.batches()))
    session.restore(saved)
    assert same(session.dump(), saved)


@pytest.mark.parametrize("strategy", registry.HARD)
def test_a_strategy_goes_with_some_method(strategy):
    assert any(build.refusal(name, config.Spec(name=strategy)) is None for name in registry.METHODS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moco", "simclr"])
@pytest.mark.parametrize("strategies", list(itertools.permutations(registry.HARD, 2)), ids="+".join)
def test_two_strategies_together_train_or_are_refused_with_a_reason(strategies, name, tmp_path):
    hard = [{"name": s, "options": small("strategy", s)} for s in strategies]
    quick = {"data": {"name": "digits", "fraction": 0.1}, "epochs": 1, "batch_size": 64, "precision": "fp32"}
    run = recipes.recipe(name, "smoke", quick | {"backbone.width": 8, "hard": hard})
    try:
        build.check(run)
    except HardlabError as e:
        assert len(str(e)) > 20
        return
    assert train.train(run, tmp_path, device="cpu", say=lambda line: None).is_dir()


def test_three_strategies_that_act_at_three_places_train_together(tmp_path):
    hard = [{"name": "hvs"}, {"name": "adversarial"}, {"name": "adco", "options": small("strategy", "adco")}]
    quick = {"data": {"name": "digits", "fraction": 0.1}, "epochs": 1, "batch_size": 64, "precision": "fp32"}
    run = recipes.recipe("moco", "smoke", quick | {"backbone.width": 8, "hard": hard, "logs.step_every": 1})
    steps = runs.metrics(train.train(run, tmp_path, device="cpu", say=lambda line: None), "step")
    assert {"base", "adversarial"} <= steps[-1]["terms"].keys()
    assert steps[-1]["lr"].keys() == {"learner", "negatives"}


def test_the_base_strategy_is_the_baseline(look, batch):
    method, hard = make("simsiam"), Hard()
    v = look.views(batch, 2)
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
