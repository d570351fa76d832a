"""Networks of finished runs, and the same weights in torchvision and timm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import small_run
from torch import nn

import hardlab
from hardlab import nets, pretrained, registry, run_folder, train
from hardlab.config import Run
from hardlab.types import HardlabError

ALONE = {"tiny", "resnet50x2", "resnet50x4", "biggan"}  # which no other library has


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of DINO with two networks, each of a ViT."""
    run = small_run("dino", backbone="vit_micro", local=None, epochs=1)
    return train.train(run, tmp_path_factory.mktemp("runs"))


def built(name: str, **options: Any) -> nn.Module:
    run: Run = small_run("simsiam")
    return pretrained.ready(registry.build("backbone", name, options), run)


def made(other: pretrained.Counterpart) -> nn.Module:
    """The network that the code of a card makes."""
    space: dict[str, Any] = {}
    exec(f"{other.imports}\n{other.code}", space)
    return space["net"].eval()


@pytest.mark.parametrize("name", registry.BACKBONES)
def test_every_backbone_that_another_library_has_loads_there_strictly(name: str) -> None:
    with torch.device("meta"):  # names and shapes, without the minutes that drawing weights takes
        others = pretrained.counterparts(built(name))
        assert set(others) == (set() if name in ALONE else {"torchvision", "timm"})
        for other in others.values():
            made(other).load_state_dict(other.weights, strict=True, assign=True)


@pytest.mark.parametrize("name, options", [("resnet18", {}), ("resnet18", {"small_images": False}), ("vit_micro", {})])
def test_the_other_library_gives_the_same_features(name: str, options: dict[str, Any]) -> None:
    net = built(name, **options)
    for value in net.state_dict().values():  # no bias or running statistic is left at its start
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) * 0.1 + 0.01)
    pixels = torch.randn(2, 3, 32, 32)
    for other in pretrained.counterparts(net).values():
        theirs = made(other)
        theirs.load_state_dict(other.weights, strict=True)
        torch.testing.assert_close(theirs(pixels), net(pixels))


def test_a_resnet_with_more_channels_has_no_counterpart() -> None:
    with torch.device("meta"):
        assert pretrained.counterparts(built("resnet18", width=2)) == {}


def test_the_network_of_a_run_is_that_of_its_last_checkpoint_in_eval_mode(trained: Path) -> None:
    net = hardlab.load(trained)
    run, method, _ = run_folder.open_run(trained)
    for name, value in method.networks()["teacher"].state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=0, atol=0)
    assert not any(m.training for m in net.modules()) and all(p.requires_grad for p in net.parameters())
    assert (net.pixel_mean, net.pixel_std, net.image_size) == (run.pixel_mean, run.pixel_std, 32)
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, net.dim)


def test_another_network_is_chosen_by_name(trained: Path) -> None:
    student = pretrained.load(trained, "student").state_dict()
    assert any(not torch.equal(value, student[name]) for name, value in hardlab.load(trained).state_dict().items())
    with pytest.raises(HardlabError, match=r"'studnt'.*student"):
        pretrained.load(trained, "studnt")


def test_a_run_that_is_not_finished_gives_a_checkpoint_only_by_its_step(trained: Path, tmp_path: Path) -> None:
    half = tmp_path / trained.name
    half.mkdir()
    about = json.loads((trained / "manifest.json").read_text())
    (half / "manifest.json").write_text(json.dumps(about | {"state": "stopped"}))
    (half / "checkpoints").symlink_to(trained / "checkpoints")
    with pytest.raises(HardlabError, match="not finished, its state is 'stopped'"):
        hardlab.load(half)
    assert pretrained.load(half, step=about["steps_done"]).dim == 96


def test_a_file_of_code_or_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HardlabError, match=r"load_code\('my\.py'\)"):
        hardlab.load("my.py")
    with pytest.raises(HardlabError, match="is not a run"):
        hardlab.load(tmp_path)


def test_the_second_norms_of_adversarial_images_are_left_out() -> None:
    net = registry.build("backbone", "tiny", {"width": 4})
    plain = set(net.state_dict())
    nets.give_auxiliary(nn.ModuleDict({"backbone": net}))
    nets.split_bn(net, 2)
    assert set(net.state_dict()) > plain
    ready = pretrained.ready(net, small_run("simsiam"))
    assert set(ready.state_dict()) == plain
    assert not any(isinstance(m, nets.SplitBN) for m in ready.modules())


def test_onnx_gives_the_same_features_for_any_number_of_images() -> None:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime, of the extra onnx, is not installed")
    net = built("vit_micro")
    session = runtime.InferenceSession(pretrained.onnx(net), providers=["CPUExecutionProvider"])
    for images in (1, 5):
        pixels = torch.randn(images, 3, 32, 32)
        (features,) = session.run(["features"], {"pixels": pixels.numpy()})
        torch.testing.assert_close(torch.from_numpy(features), net(pixels).detach(), rtol=1e-4, atol=1e-5)


def test_a_network_that_torch_cannot_export_is_refused_in_a_sentence() -> None:
    class Odd(nn.Module):
        image_size = 8

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.sum() > 0 else x

    with pytest.raises(HardlabError, match="cannot export this network to ONNX"):
        pretrained.onnx(Odd().eval())
