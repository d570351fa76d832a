"""Backbones: published numbers of weights, torchvision's and DINO's keys, what a ViT does with other sizes."""

import contextlib
import copy

import pytest
import torch
import torchvision
from hexa_steps import buffers, method, views
from resuming import same
from torch import nn

from hardlab import nets, ranks, registry
from hardlab.types import HardlabError

WEIGHTS = {  # millions, without a classifier
    "resnet18": 11.2, "resnet50": 23.5, "resnet50x2": 93.9, "resnet50x4": 375.4, "resnet200": 62.6,
    "vit_tiny": 5.5, "vit_small": 21.7, "vit_base": 85.8,
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_network_has_the_published_number_of_weights(name):
    with torch.device("meta"):
        net = getattr(nets, name)()
    stem = 64 * 3 * (49 - 9) if name == "resnet18" else 0  # its stem is CIFAR's
    assert round((sum(p.numel() for p in net.parameters()) + stem) / 1e6, 1) == WEIGHTS[name]


def test_a_seed_means_the_same_weights_as_in_torchvision():
    for zero in (False, True):
        torch.manual_seed(0)
        ours = nets.resnet18(small_images=False, zero_init_residual=zero)
        torch.manual_seed(0)
        theirs = torchvision.models.resnet18(zero_init_residual=zero)
        expected = theirs.state_dict()
        assert all(torch.equal(v, expected[k]) for k, v in ours.state_dict().items())
        theirs.fc = nn.Identity()
        x = torch.randn(2, 3, 64, 64)
        assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_a_wide_network_has_torchvisions_keys_with_all_channels_times_the_width():
    with torch.device("meta"):
        wide, plain = nets.resnet50x2().state_dict(), torchvision.models.resnet50().state_dict()
        assert set(plain) - set(wide) == {"fc.weight", "fc.bias"}
        for key, value in wide.items():
            inner = [2 * n if i < 2 else n for i, n in enumerate(plain[key].shape)]
            if key == "conv1.weight":
                inner[1] = 3
            assert list(value.shape) == inner


def test_a_zero_initialised_residual_starts_every_block_as_its_shortcut():
    net = nets.resnet18(zero_init_residual=True)
    assert all(not m.bn2.weight.any() for m in net.modules() if isinstance(m, torchvision.models.resnet.BasicBlock))


def test_a_width_below_one_is_refused():
    with pytest.raises(HardlabError, match="width=0"):
        nets.resnet18(width=0)


def vit(**options):
    torch.manual_seed(0)
    return nets.vit_micro(**options)


def test_the_vit_equals_torchvisions_encoder_with_the_same_weights():
    ours = vit().eval()
    theirs = torchvision.models.VisionTransformer(32, 4, 4, 3, 96, 384).eval()
    state = theirs.state_dict()
    own = ours.state_dict()
    names = {"class_token": "cls_token", "conv_proj.weight": "patch_embed.proj.weight",
             "conv_proj.bias": "patch_embed.proj.bias", "encoder.pos_embedding": "pos_embed",
             "encoder.ln.weight": "norm.weight", "encoder.ln.bias": "norm.bias"}  # fmt: skip
    for i in range(4):
        there, here = f"encoder.layers.encoder_layer_{i}.", f"blocks.{i}."
        for a, b in (("ln_1", "norm1"), ("ln_2", "norm2"), ("self_attention.out_proj", "attn.proj"),
                     ("mlp.0", "mlp.fc1"), ("mlp.3", "mlp.fc2")):  # fmt: skip
            names |= {f"{there}{a}.{part}": f"{here}{b}.{part}" for part in ("weight", "bias")}
        names |= {f"{there}self_attention.in_proj_{part}": f"{here}attn.qkv.{part}" for part in ("weight", "bias")}
    assert set(names.values()) == set(own)
    theirs.load_state_dict(state | {k: own[v] for k, v in names.items()})
    theirs.heads = nn.Identity()
    x = torch.randn(3, 3, 32, 32)
    assert torch.allclose(ours(x), theirs(x), atol=1e-4)


def test_the_features_of_the_last_block_are_the_pooled_ones_and_earlier_ones_come_first():
    net, x = vit().eval(), torch.randn(2, 3, 32, 32)
    four = net.last_blocks(x, 4)
    assert four.shape == (2, 4 * 96)
    assert torch.equal(four[:, -96:], net(x))
    assert torch.equal(four[:, 96:], net.last_blocks(x, 3))


def test_positions_are_interpolated_for_other_sizes_and_the_class_keeps_its_own():
    net = vit()
    assert net.positions(8, 8) is net.pos_embed
    for rows, columns in ((5, 5), (3, 7)):
        p = net.positions(rows, columns)
        assert p.shape == (1, 1 + rows * columns, 96)
        assert torch.equal(p[:, 0], net.pos_embed[:, 0])
    with torch.no_grad():
        net.pos_embed.fill_(0.5)
    assert torch.allclose(net.positions(5, 6), torch.tensor(0.5), atol=1e-6)
    assert net(torch.randn(2, 3, 20, 28)).shape == (2, 96)


def test_paths_are_dropped_in_training_only_and_more_often_in_later_blocks():
    net, x = vit(drop_path=0.9), torch.randn(4, 3, 32, 32)
    assert [round(b.drop_path.p, 2) for b in net.blocks] == [0.0, 0.3, 0.6, 0.9]
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), vit().eval()(x))


@pytest.mark.parametrize("options", [{"drop_path": 1.0}, {"patch": 64}])
def test_impossible_options_of_a_vit_are_refused(options):
    with pytest.raises(HardlabError, match=next(iter(options))):
        vit(**options)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_backbone_keys_are_torchvisions_without_the_classifier(name):
    import torchvision

    ours = set(getattr(nets, name)(small_images=False).state_dict())
    theirs = set(getattr(torchvision.models, name)().state_dict())
    assert theirs - ours == {"fc.weight", "fc.bias"}
    assert ours <= theirs


def test_frozen_running_statistics_leave_every_buffer_as_it_was_and_still_use_the_batch():
    net = nets.Tiny(width=4).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x = torch.randn(5, 3, 16, 16) * 4 + 2
    with nets.running_stats_frozen(net):
        y = net(x)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert torch.equal(y, net(x))
    assert not all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_split_norm_equals_a_loop_over_its_groups_and_keeps_the_mean_of_their_statistics():
    net = nets.split_bn(torch.nn.Sequential(torch.nn.BatchNorm2d(3)), 4)
    plain = [torch.nn.BatchNorm2d(3) for _ in range(4)]
    x = torch.randn(8, 3, 5, 5, requires_grad=True)
    y = net(x)
    for g, bn in enumerate(plain):
        assert torch.allclose(y[g::4], bn(x[g::4]), atol=1e-5)
    assert torch.allclose(net[0].running_mean, torch.stack([bn.running_mean for bn in plain]).mean(0), atol=1e-6)
    assert torch.allclose(net[0].running_var, torch.stack([bn.running_var for bn in plain]).mean(0), atol=1e-6)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with nets.running_stats_frozen(net):
        assert torch.equal(net(x), y)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    net.eval()
    alone = torch.nn.BatchNorm2d(3).eval()
    alone.load_state_dict(net[0].state_dict())
    assert torch.equal(net(x), alone(x))


def test_a_second_set_of_norms_leaves_every_key_and_every_number_of_the_first_as_it_was():
    net = method("simclr")
    before, x = {k: v.clone() for k, v in net.state_dict().items()}, views().slot(0)
    expected = net.query(x)
    net.load_state_dict(before)
    nets.give_auxiliary(net)
    nets.give_auxiliary(net)  # a second strategy that asks for it adds nothing
    now = net.state_dict()
    assert set(before) < set(now)
    assert all(".aux." in k and k.count(".aux.") == 1 for k in set(now) - set(before))
    assert torch.equal(net.query(x), expected)
    assert sum(".aux." in k for k in now) == sum("running" in k or "tracked" in k for k in before) + sum(
        k.rpartition(".")[0] + ".running_mean" in before and k.endswith(("weight", "bias")) for k in before
    )


def test_the_route_through_the_second_set_ends_with_its_block_even_after_an_error():
    net = method("simclr")
    nets.give_auxiliary(net)
    aux = buffers(net, aux=True)
    with contextlib.suppress(ZeroDivisionError), nets.auxiliary(net):
        raise ZeroDivisionError
    net.query(views().slot(0))
    assert same(aux, buffers(net, aux=True))


RECOMPUTED = {
    "tiny": {"width": 8, "blocks": 2},
    "resnet18": {"small_images": False},
    "resnet50": {},
    "vit_micro": {"drop_path": 0.5},
}


def trained_once(name: str, recompute: bool, low: bool = False) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients and buffers after a step that uses both sets of norms, and the bytes that were kept for it."""
    torch.manual_seed(0)
    net = registry.build("backbone", name, RECOMPUTED[name] | {"recompute": recompute}).train()
    both = torch.nn.ModuleList([net])
    nets.give_auxiliary(both)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1), requires_grad=True)
    kept: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", enabled=low):
        loss = net(x).float().square().sum()
        with nets.auxiliary(both):
            loss = loss + net(x.flip(3)).float().sin().sum()
    net.eval()  # as code between a step's halves may do
    with nets.auxiliary(both):
        pass
    (attack,) = torch.autograd.grad(loss, x, retain_graph=True)
    loss.backward()
    out = {f"grad {n}": p.grad for n, p in net.named_parameters()} | {f"buffer {n}": b for n, b in net.named_buffers()}
    return out | {"images": attack, "images again": x.grad, "random": torch.rand(1)}, sum(kept.values())


@pytest.mark.parametrize("low", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", RECOMPUTED)
def test_recomputed_activations_give_the_same_gradients_bit_for_bit_and_take_less_memory(name, low):
    plain, kept = trained_once(name, False, low)
    again, few = trained_once(name, True, low)
    assert plain.keys() == again.keys() and any(".aux." in key for key in plain) == (name != "vit_micro")
    assert [key for key, value in plain.items() if not torch.equal(value, again[key])] == []
    assert few < kept / 2


def test_without_a_gradient_nothing_is_recomputed():
    net = nets.Tiny(width=8, recompute=True)
    calls = []
    net.body[0].conv1.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        net(torch.randn(2, 3, 16, 16))
    assert calls == [1]
    net(torch.randn(2, 3, 16, 16)).sum().backward()
    assert calls == [1, 1, 1]


def test_split_norms_are_recomputed_in_their_groups():
    grads = []
    for recompute in (False, True):
        torch.manual_seed(0)
        net = nets.split_bn(nets.Tiny(width=8, recompute=recompute), 2)
        net(torch.randn(4, 3, 16, 16)).square().sum().backward()
        grads.append([p.grad for p in net.parameters()] + list(net.buffers()))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_a_synchronised_norm_has_the_keys_of_a_plain_one_and_by_itself_its_numbers():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5))
    plain, x = copy.deepcopy(net), torch.randn(6, 3, 4, 4)
    nets.synchronise_bn(net)
    assert [type(m) for m in net if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)] != [nn.BatchNorm2d, nn.BatchNorm1d]
    assert torch.equal(net(x), plain(x))
    assert same(net.state_dict(), plain.state_dict())


def test_groups_that_processes_cannot_share_out_are_refused_with_a_number_that_fits(monkeypatch):
    net = nets.split_bn(nets.Tiny(4), 6)
    nets.check_groups(net)
    monkeypatch.setattr(ranks, "size", lambda: 4)
    with pytest.raises(HardlabError, match=r"6 groups do not split over 4 processes: take method\.groups=8 or"):
        nets.check_groups(net)
