"""Writes a run's network for other libraries: weights, a card, features by file name, ONNX."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import nn

from hardlab import build, checkpoint, config, files, pretrained, run_folder
from hardlab.config import Run
from hardlab.data import Images
from hardlab.data.base import Missing
from hardlab.errors import HardlabError
from hardlab.evaluate import runner
from hardlab.workbook import model_card

WEIGHTS, TORCHVISION, ONNX = "backbone.safetensors", "backbone-torchvision.safetensors", "backbone.onnx"


def export(
    run: str | Path,
    out: str | Path | None = None,
    *,
    network: str | None = None,
    features: str | None = None,
    onnx: bool = False,
    data_dir: str | Path = "figures/data",
    root: str | Path | None = None,
) -> list[Path]:
    """Write the network of a finished run for other libraries into ``out`` (RUN/export); returns the files.

    Weights as safetensors, in torchvision's and timm's names where they have the network, a model card (README.md)
    with the code that loads them, and config.json. Everything is made before anything is written. Raises HardlabError.

    network: one of the method's; None = that of the main result.
    features: ``npz`` or ``parquet`` adds the features of all images with their file names.
    onnx: adds the network as ONNX.
    data_dir: the collected tables, for the claims.
    root: the folder of the data sets.
    """
    path = Path(run)
    folder = Path(out) if out is not None else path / "export"
    net = pretrained.load(path, network)
    settings, about = config.read_run(path)
    made: dict[str, bytes] = {WEIGHTS: _safetensors(pretrained.weights(net), path.name)}
    others = pretrained.counterparts(net)
    if "torchvision" in others and set(others["torchvision"].weights) != set(pretrained.weights(net)):
        made[TORCHVISION] = _safetensors(others["torchvision"].weights, path.name)
    if onnx:
        made[ONNX] = pretrained.onnx(net)
    if features is not None:
        made[f"features.{features}"] = _features(path, settings, about, net, network, features, root)
    usage = _usage(path.name, net, others, TORCHVISION in made, onnx)
    made["README.md"] = model_card.card(path, Path(data_dir), usage).encode()
    made["config.json"] = (json.dumps(_config(settings, net), indent=1) + "\n").encode()
    files.make_folder(folder)
    for name, content in made.items():
        files.write_atomic(folder / name, content)
    return [folder / name for name in made]


def _safetensors(weights: pretrained.Weights, run: str) -> bytes:
    try:
        from safetensors.torch import save
    except ImportError as e:
        raise HardlabError("safetensors is not installed: `pip install 'hardlab[export]'` adds it.") from e
    return save(weights, {"format": "pt", "run": run})


def _config(run: Run, net: nn.Module) -> dict[str, Any]:
    return {
        "run": run.id,
        "config_hash": run.hash,
        "backbone": run.backbone.model_dump(mode="json"),
        "dim": net.dim,
        "image_size": net.image_size,
        "pixel_mean": run.pixel_mean,
        "pixel_std": run.pixel_std,
    }


def _usage(run: str, net: nn.Module, others: Any, renamed: bool, onnx: bool) -> str:
    mean, std = list(net.pixel_mean), list(net.pixel_std)  # type: ignore[arg-type]
    lines = [
        f"## Use\n\nPixels in [0,1], resized to {net.image_size}, normalised by mean {mean} and deviation {std}, give "
        f"features of {net.dim} dimensions.",
        "",
        "With hardlab, from the run's folder:",
        "",
        f'```python\nimport hardlab\n\nnet = hardlab.load("runs/{run}")  # net.pixel_mean, net.pixel_std, net.dim\n```',
    ]
    for library, other in others.items():
        file = TORCHVISION if library == "torchvision" and renamed else WEIGHTS
        code = f"{other.imports}\nfrom safetensors.torch import load_file\n\n{other.code}\n"
        code += f'net.load_state_dict(load_file("{file}"))'
        lines += ["", f"With {library}, by its own names:", "", f"```python\n{code}\nnet.eval()\n```"]
    if not others:
        lines += ["", f"torchvision and timm have no such network; `{WEIGHTS}` has the names of `hardlab.nets`."]
    if onnx:
        lines += ["", f"`{ONNX}` maps `pixels` (N,3,{net.image_size},{net.image_size}) to `features` (N,{net.dim})."]
    return "\n".join(lines)


def _features(
    path: Path, run: Run, about: dict[str, Any], net: nn.Module, network: str | None, form: str, root: Any
) -> bytes:
    """Features of the images of all splits, with names, labels (-1 = none) and, of a folder's images, their paths."""
    newest = checkpoint.listed(path / "checkpoints")[0]
    kind = network or next(iter(build.unmade(run)[0].networks()))
    store = runner.Store(path / "features", checkpoint.named(newest)[1], build.look(run))
    columns: dict[str, list[Any]] = {"name": [], "split": [], "label": [], "class": []}
    vectors = []
    for images in _splits(path, run, about, root):
        vectors.append(store.features(kind, net, images, None, 1).numpy())
        labels = images.targets.tolist()
        columns["name"] += list(images.names)
        columns["split"] += [images.split] * len(images)
        columns["label"] += labels
        columns["class"] += [images.classes[y] if y >= 0 else "" for y in labels]
    features = np.concatenate(vectors)
    sink = io.BytesIO()
    if form == "npz":
        arrays = {k: np.array(v) for k, v in columns.items()}
        np.savez_compressed(sink, features=features, **arrays)  # type: ignore[arg-type]
    else:
        flat = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), features.shape[1])
        pq.write_table(pa.table({**columns, "features": flat}), sink, compression="zstd")
    return sink.getvalue()


def _splits(path: Path, run: Run, about: dict[str, Any], root: Any) -> Iterator[Images]:
    train = build.images(run, "train", root)
    run_folder.check_images(path.name, about["data"], train)
    yield train
    try:
        test = build.images(run, "test", root)
    except Missing:  # a folder of images for training alone
        return
    yield test
