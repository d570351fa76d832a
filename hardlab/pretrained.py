"""The trained network of a run, ready to use, and its weights under the names of torchvision and timm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hardlab import build, config, nets, registry, run_folder
from hardlab.config import Run
from hardlab.types import HardlabError

Weights = dict[str, Tensor]
_SMALL_STEM = "net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)\nnet.maxpool = nn.Identity()\n"
_RESNETS = {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet50", (3, 24, 36, 3): "resnet200"}
# the names of DINO's ViT, which are timm's, -> torchvision's
_TO_TORCHVISION = (
    (r"^cls_token$", "class_token"),
    (r"^pos_embed$", "encoder.pos_embedding"),
    (r"^patch_embed\.proj\.", "conv_proj."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.encoder_layer_\1.self_attention.in_proj_"),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.encoder_layer_\1.self_attention.out_proj."),
    (r"^blocks\.(\d+)\.norm(\d)\.", r"encoder.layers.encoder_layer_\1.ln_\2."),
    (r"^blocks\.(\d+)\.mlp\.fc1\.", r"encoder.layers.encoder_layer_\1.mlp.0."),
    (r"^blocks\.(\d+)\.mlp\.fc2\.", r"encoder.layers.encoder_layer_\1.mlp.3."),
    (r"^norm\.", "encoder.ln."),
)


class Counterpart(NamedTuple):
    """The same network in another library: the code that makes it as ``net``, and the weights that it loads strictly.

    imports: the lines that the code needs first.
    """

    imports: str
    code: str
    weights: Weights


def load(run: str | Path, network: str | None = None, step: int | None = None) -> nn.Module:
    """The trained backbone of a run's folder, in eval mode: normalised pixels (N,3,S,S) -> features (N,D).

    It has the attributes ``pixel_mean`` and ``pixel_std`` (of pixels in [0,1], per channel), ``image_size`` (S in
    training) and ``dim`` (D). network: one of the method's, e.g. DINO's ``student``; None = the one of the paper's
    main result. step: of a checkpoint; None = the last, which needs a finished run. HardlabError.
    """
    path = Path(run)
    if path.suffix == ".py":
        raise HardlabError(f"'{path}' is a file of code, not a run: hardlab.load_code('{path}') loads it.")
    _, about = config.read_run(path)
    if step is None and about["state"] != "done":
        raise HardlabError(
            f"{path} is not finished, its state is '{about['state']}': `hardlab pretrain` continues it, and step=N "
            "takes one of its checkpoints."
        )
    settings, method, _ = run_folder.open_run(path, step)
    networks = method.networks()
    if network is not None and network not in networks:
        raise registry.unknown("network", network, networks, "This method")
    return ready(next(iter(networks.values())) if network is None else networks[network], settings)


def ready(net: nn.Module, run: Run) -> nn.Module:
    """Turn a trained network of a run into one for use, in place, as ``load`` returns it."""
    for module in nets.whole_bn(net).modules():
        if "aux" in module._modules:  # of adversarial images alone
            del module.aux
    net.eval().requires_grad_(True)
    size = build.look(run).augment[0].size
    for name, value in (("pixel_mean", run.pixel_mean), ("pixel_std", run.pixel_std), ("image_size", size)):
        setattr(net, name, value)
    return net


def weights(net: nn.Module) -> Weights:
    """The state of a network of ``load`` by hardlab's own names, for a ResNet also those of torchvision and timm."""
    return {name: value.detach().contiguous() for name, value in net.state_dict().items()}


def counterparts(net: nn.Module) -> Mapping[str, Counterpart]:
    """The same network in torchvision and timm, by library; empty where neither has it.

    That is so for hardlab's own small networks, BigGAN's trunk, and ResNets with more channels than the usual.
    """
    ours = weights(net)
    if isinstance(net, nets.WidthResNet):
        layers = (len(net.layer1), len(net.layer2), len(net.layer3), len(net.layer4))
        if net.conv1.out_channels != 64 or layers not in _RESNETS:
            return {}
        return _resnet(layers, net.conv1.kernel_size[0] == 3, ours)
    if isinstance(net, nets.ViT):
        return _vit(net, ours)
    return {}


def _resnet(layers: tuple[int, int, int, int], small_images: bool, own: Weights) -> dict[str, Counterpart]:
    name, stem = _RESNETS[layers], _SMALL_STEM if small_images else ""
    has_number = name in ("resnet18", "resnet50")
    torchvision = f"{name}()" if has_number else f"resnet.ResNet(resnet.Bottleneck, {list(layers)})"
    timm = f'timm.create_model("{name}", num_classes=0)' if has_number else (
        f"resnet.ResNet(resnet.Bottleneck, {layers}, num_classes=0)"
    )  # fmt: skip
    return {
        "torchvision": Counterpart(
            f"from torch import nn\nfrom torchvision.models import {name if has_number else 'resnet'}",
            f"net = {torchvision}\n{stem}net.fc = nn.Identity()",
            own,
        ),
        "timm": Counterpart(
            f"{'import timm' if has_number else 'from timm.models import resnet'}\nfrom torch import nn",
            f"net = {timm}\n{stem}".rstrip(),
            own,
        ),
    }


def _vit(net: nets.ViT, own: Weights) -> dict[str, Counterpart]:
    heads = net.blocks[0].attn.heads  # type: ignore[union-attr]
    size, depth, dim = net.side * net.patch, len(net.blocks), net.dim
    renamed = {}
    for name, value in own.items():
        for pattern, new in _TO_TORCHVISION:
            name = re.sub(pattern, new, name)
        renamed[name] = value
    return {
        "torchvision": Counterpart(
            "from torch import nn\nfrom torchvision.models import VisionTransformer",
            f"net = VisionTransformer({size}, {net.patch}, {depth}, {heads}, {dim}, {4 * dim})\n"
            "net.heads = nn.Identity()",
            renamed,
        ),
        "timm": Counterpart(
            "from timm.models import VisionTransformer",
            f"net = VisionTransformer({size}, {net.patch}, embed_dim={dim}, depth={depth}, num_heads={heads}, "
            "num_classes=0)",
            own,
        ),
    }


@torch.no_grad()
def onnx(net: nn.Module) -> bytes:
    """A network of ``load`` as ONNX: input ``pixels`` (N,3,S,S), output ``features`` (N,D), N free and S as trained.

    Raises HardlabError if torch cannot export it.
    """
    side: Any = net.image_size
    example = torch.zeros(2, 3, side, side)
    batch = torch.export.Dim("N", min=1)
    try:
        program = torch.onnx.export(
            net, (example,), input_names=["pixels"], output_names=["features"], dynamic_shapes=({0: batch},),
            dynamo=True, verbose=False,
        )  # fmt: skip
        assert program is not None
        exported: bytes = program.model_proto.SerializeToString()
    except Exception as e:  # each version of the exporter fails in its own way
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise HardlabError(f"torch {torch.__version__} cannot export this network to ONNX: {reason}") from e
    return exported
