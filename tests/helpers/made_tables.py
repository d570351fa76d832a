"""Tables of made-up runs, as a collection writes them, and what is written in a figure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from hardlab import config, recipes
from hardlab.analysis import schema, viewlog
from hardlab.analysis.arms import HVS, STATIC, UNTRAINED
from hardlab.recipes import RECIPES

PAPER = Path(__file__).parents[2] / "figures" / "data" / "paper.csv"


METRICS = [("linear", "top1-last"), ("linear", "top5-last"), ("knn", "top1@k=20"), ("linear-ppcl", "top1-last")]
METRICS += [("svm", "mAP"), ("finetune-hexa", "top1-last"), ("finetune-hvs-vit", "top1-last")]
METRICS += [(f"semi-{who}-{p}", f"top{n}-last") for who in ("hexa", "hnssl") for p in (1, 10, 100) for n in (1, 5)]
METRICS += [("svm-low-shot", f"mAP@k={k}") for k in (2, 4, 8, 16, 32)]
METRICS += [("detection", m) for m in ("AP", "AP50", "AP75", "AP_S")]
METRICS += [("segmentation", f"mask-{m}") for m in ("AP", "AP50", "AP75")]


EPOCHS, SEEDS = 4, (0, 1, 2)


def who(arm: str, seed: int, method: str = "simsiam", rung: str = "smoke") -> dict[str, object]:
    """What every row starts with."""
    recipe = f"{method}-{arm.replace(' ', '-')}"
    place = {"rung": rung, "data": "shapes", "method": method, "setting": f"{method}{rung}"[:8]}
    return place | {"arm": arm, "recipe": recipe, "seed": seed, "run": f"{recipe}-{rung}-s{seed}"}


def one(recipe: str, seed: int, data: str = "cifar10", epochs: int = 10) -> dict[str, object]:
    """What every row of a recipe starts with; runs of another length have a setting of their own."""
    place = {"rung": "gpu", "data": data, "method": recipe.split("-")[0], "setting": f"{len(data)}{epochs:07d}"}
    run = f"{recipe}-{data.replace(' ', '')}-{epochs}-s{seed}"
    return place | {"arm": "made up", "recipe": recipe, "seed": seed, "run": run}


def made_up(rows: dict[str, list[dict[str, object]]], rng: np.random.Generator) -> None:
    """Rows of all recipes at rung gpu: accuracies, epochs, costs, configurations, curves, tiles, a layout."""
    where = {"features": "backbone", "split": "test", "options": "{}"}
    for recipe in RECIPES:
        if recipe in ("simsiam", "simsiam-hvs", "simclr", "simclr-hvs", "untrained"):
            continue  # those have rows of their own above
        for seed in SEEDS[:2]:
            for epochs in (10, 20):
                cells = one(recipe, seed, epochs=epochs)
                value = 0.4 + 0.3 * rng.uniform() + epochs / 100
                on = where | {"evaluated_on": "cifar10"}
                rows["evaluation"] += [
                    cells | on | {"protocol": p, "metric": m, "value": value}
                    for p, m in METRICS[: 99 if epochs == 10 else 4]
                ]
                rows["configs"] += [
                    cells | {"key": k, "value": v} for k, v in (("epochs", str(epochs)), ("batch_size", "256"))
                ]
            cells = one(recipe, seed)
            rows["costs"] += [cells | {"quantity": q, "value": 2e6} for q in ("seconds.total", "parameters")]
            for epoch in range(EPOCHS):
                names = ("loss", "knn", "generated.pair_cosine")
                rows["epochs"] += [cells | {"epoch": epoch, "name": n, "value": 0.5 + 0.1 * epoch} for n in names]
                curve = cells | where | {"evaluated_on": "cifar10", "protocol": "linear", "epoch": epoch}
                rows["curves"].append(curve | {"metric": "top1-last", "value": 0.4 + epoch / 10})
                rows["curves"].append(
                    curve | {"metric": "top1", "epoch": 3, "classifier_epoch": epoch + 1, "value": epoch / 10}
                )
    for name, recipe in (("hexa_f1", "hexa-plus-moco"), ("hvs_f11", "stn-affine"), ("ppcl_f6", "ppcl")):
        for row in range(4):
            rows[name] += [one(recipe, 0) | {"row": row, "tile": t, "epoch": t, "label": f"part {t}"} for t in range(4)]
    for recipe in ("adco", "adco-queue"):
        for kind in ("query", "negative"):
            points = rng.normal(size=(30, 3))
            score = {"epoch": 9, "step": 90, "share": 0.3, "chance": 0.05}
            rows["negatives"] += [one(recipe, s) | score for s in SEEDS[:2] if kind == "query"]
            rows["adco_f2"] += [
                one(recipe, 0) | {"epoch": 9, "kind": kind, "x": x, "y": y, "distance": abs(d)} for x, y, d in points
            ]

    across = ("simsiam-hvs", "adco", "hexa-moco", "simsiam")  # of the five systems two have no run
    for seed in SEEDS[:2]:
        for at, recipe in enumerate(across):
            cells = one(recipe, seed) | {"images": 64}
            rows["hardness"] += [
                cells | {"tile": t, "index": t, "label": "hourglass", "percentile": 5.0 * t, "sd": 9.0, "draws": 4}
                for t in range(18)
            ]
            rows["transfer"] += [
                cells
                | {"other": other, "other_run": one(other, seed)["run"], "rho": 0.5 - 0.2 * at, "ceiling": 0.9}
                | {"lo": -0.4, "hi": 0.6}
                for other in across[at:]
            ]


def write_tables(folder: Path) -> Path:
    """Every table with made-up rows, and the published values."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[dict[str, object]]] = {name: [] for name in schema.TABLES}
    for seed in SEEDS:
        for arm, share in ((HVS, 0.4), (STATIC, 0.5)):
            for epoch in range(EPOCHS):
                row = {"epoch": epoch, "images": 9, "chance": 1 / 6, "control": 0.17, "tied": 0.01}
                row |= who(arm, seed) | {"share": share + 0.01 * rng.normal()}
                rows["hvs_f4_right"].append(row)
                if arm == HVS:
                    rows["hvs_f3_left"].append(row)
        for arm, series, mean in (
            (HVS, "selected", 0.3),
            (HVS, "first", 0.45),
            ("standard", "standard", 0.45),
        ):
            for epoch in range(EPOCHS):
                value = mean + 0.01 * rng.normal()
                rows["hvs_f4_left"].append(
                    who(arm, seed) | {"series": series, "epoch": epoch, "images": 9, "iou": value}
                )
            for lo in np.linspace(0.1, 0.955, 20):
                bar = {
                    "lo": round(lo, 6),
                    "hi": round(lo + 0.045, 6),
                    "density": rng.uniform(),
                    "images": 9,
                    "outside": 0.1,
                }
                rows["hvs_f3_right"].append(who(arm, seed) | {"series": series} | bar)
        for arm, base in ((HVS, 0.62), ("standard", 0.6), (UNTRAINED, 0.3)):
            for protocol, metric in (("knn", "top1@k=20"), ("knn", "top1@k=10"), ("linear-lbfgs", "top1")):
                for features, value in (("backbone", base + 0.01 * seed), ("pixels", 0.25)):
                    where = {"protocol": protocol, "features": features, "evaluated_on": "shapes", "split": "test"}
                    rows["evaluation"].append(
                        who(arm, seed) | where | {"metric": metric, "options": '{"c": 1}', "value": value}
                    )
    for row in range(10):
        for candidate, (a, b) in enumerate([(0, 1), (0, 2), (1, 2)]):
            pair = dict.fromkeys(viewlog.SCHEMA.names, 0.0) | {
                "epoch": 3,
                "step": 30,
                "index": row,
                "candidate": candidate,
            }
            pair |= {"a": a, "b": b, "loss": -0.5 - 0.1 * candidate, "chosen": candidate == 0, "iou": 0.3}
            for s, slot in (("a", a), ("b", b)):
                pair |= {
                    f"{s}_image_h": 32,
                    f"{s}_image_w": 32,
                    f"{s}_top": 2 * slot,
                    f"{s}_left": 3,
                    f"{s}_height": 16,
                }
                pair |= {f"{s}_width": 20}
            rows["hvs_f2"].append(who(HVS, 0) | {"row": row} | pair)
    made_up(rows, rng)
    rows["importance"] = [
        one("simsiam-hvs", s) | {"name": n, "leaf": leaf, "share": 0.1 + 0.01 * s, "lo": 0.0, "hi": 0.2, "n": 9}
        for s in SEEDS for n in ("iou", "brightness", "hue") for leaf in (1, 10)
    ]  # fmt: skip
    for name, columns in schema.TABLES.items():
        pd.DataFrame(rows[name], columns=list(columns)).to_csv(folder / f"{name}.csv", index=False)
    Image.fromarray(rng.integers(0, 255, (320, 128, 3), dtype=np.uint8)).save(folder / "hvs_f2_pixels.png")
    for name in ("hexa_f1", "hvs_f11", "ppcl_f6", "hardness"):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / f"{name}_pixels.png")
    shutil.copy(PAPER, folder)
    return folder


def texts(figure: Figure) -> str:
    """All that is written in a figure."""
    from matplotlib.text import Text

    return "\n".join(t.get_text() for t in figure.findobj(Text))


def drawn(paths: list[Path]) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in paths}


def accuracies(recipes: list[str], data: str, epochs: int = 10, on: str = "", value: float = 0.45) -> pd.DataFrame:
    """Rows of a probe of two seeds of each recipe, on the set that it was trained on or another."""
    measure = {"features": "backbone", "split": "test", "options": "{}", "protocol": "linear-ppcl"}
    measure |= {"metric": "top1-last", "evaluated_on": on or data.split()[0], "value": value}
    return pd.DataFrame([one(r, s, data, epochs) | measure for r in recipes for s in SEEDS[:2]])


def lengths(*frames: pd.DataFrame) -> pd.DataFrame:
    """The configurations of the runs of such rows, as long as their names tell."""
    runs = pd.concat(frames).drop_duplicates("run")
    return runs[list(schema.WHO)].assign(key="epochs", value=runs["run"].str.split("-").str[-2])


def configured(run: dict[str, object], **options: object) -> list[dict[str, object]]:
    """The rows of the table of configurations that tell a run of a recipe with overrides."""
    overrides = {k.replace("__", "."): v for k, v in options.items()}
    tree = recipes.recipe(str(run["recipe"]), str(run["rung"]), overrides).model_dump(mode="json")
    return [run | {"key": k, "value": v if isinstance(v, str) else json.dumps(v)} for k, v in config.flat(tree)]


def placed(figure: Figure) -> dict[str, tuple[float, float]]:
    """Where each text of a table stands that stands there once."""
    every = [(t.get_text(), t.get_position()) for t in figure.axes[0].texts]
    return {text: at for text, at in every if [x for x, _ in every].count(text) == 1}
