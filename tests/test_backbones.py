"""What is said of backbones without building them, against the networks on the device ``meta``."""

from __future__ import annotations

import pytest
import torch

from hardlab import backbones, compatible, registry
from hardlab.config import Spec
from hardlab.needs import Entry


@pytest.mark.parametrize("name", registry.BACKBONES)
def test_the_smallest_view_and_the_last_features_of_a_backbone_are_those_of_the_network(name: str) -> None:
    more: dict[str, list[dict[str, int | bool]]] = {
        "biggan": [{"size": 64}],
        "tiny": [{"stride": 1}, {"stride": 3}],
        "vit_micro": [{"patch": 3}],
        "resnet18": [{"small_images": False}],
    }
    registry.find("backbone", name)  # its module is loaded outside of the device `meta`
    for given in ({}, *more.get(name, [])):
        options = compatible.options("backbone", Spec(name=name, options=given))
        least = backbones.least_view(name, options)
        sides: list[int] = []
        with torch.device("meta"), torch.no_grad():
            net = registry.build("backbone", name, given)
            for m in net.modules():
                if isinstance(m, torch.nn.BatchNorm2d):
                    m.register_forward_hook(lambda m, args, out, sides=sides: sides.append(out.shape[-1]))
            for size in (least, least + 7, 32):
                net(torch.empty(2, 3, size, size))
                assert backbones.last_side(name, options, size) == (sides[-1] if sides else None)
            if least > 1:
                with pytest.raises(RuntimeError):
                    net(torch.empty(2, 3, least - 1, least - 1))


@pytest.mark.parametrize(
    ("name", "given", "other"),
    [
        ("tiny", {"width": 8}, {"width": 4}),
        ("tiny", {"width": 4, "stride": 1}, {"width": 4}),
        ("tiny", {"width": 4, "blocks": 2}, {"width": 4}),
        ("vit_micro", {"patch": 8}, {}),
        ("vit_micro", {"drop_path": 0.5}, {}),
        ("resnet18", {"zero_init_residual": True}, {}),
    ],
)
def test_weights_may_fit_another_backbone_only_where_they_do(name, given, other):
    entries, shapes = [], []
    for options in (given, other):
        entries.append(Entry(name, "", compatible.options("backbone", Spec(name=name, options=options))))
        with torch.device("meta"):
            shapes.append({k: x.shape for k, x in registry.build("backbone", name, options).state_dict().items()})
    assert backbones.may_be_one(*entries) is (shapes[0] == shapes[1])


def test_weights_of_a_network_with_another_name_fit_where_it_is_a_width_of_the_same():
    entry = {name: Entry(name, "", {}) for name in registry.BACKBONES}
    assert backbones.may_be_one(entry["resnet50"], entry["resnet50x2"])
    assert not backbones.may_be_one(entry["tiny"], entry["resnet18"])
    assert not backbones.may_be_one(entry["vit_tiny"], entry["vit_small"])
