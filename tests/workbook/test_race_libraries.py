"""What the libraries of a race have in common: weights, recipe, loss, views, and how they are timed and judged."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardlab import data, optim
from hardlab.workbook import race_libraries
from hardlab.workbook.race_libraries import Hardlab, Judge, Lightly, Task

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def task() -> Task:
    return Task("tiny", 32, CPU, "fp32", data.load("digits", "train"), workers=0)


@pytest.fixture(scope="module")
def both(task: Task) -> tuple[Hardlab, Lightly]:
    return Hardlab(task, 3), Lightly(task, 3)


def test_both_start_from_the_same_network(both: tuple[Hardlab, Lightly]) -> None:
    ours, theirs = (side.backbone.state_dict() for side in both)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_both_take_steps_of_one_size(both: tuple[Hardlab, Lightly]) -> None:
    ours, theirs = both
    s = ours.session
    optim.set_schedule(s.players[0].opt, s.run.optim, 32, 0, s.total, 0, s.per_epoch)
    for key in ("lr", "momentum", "weight_decay"):
        rates = [group[key] for group in s.players[0].opt.param_groups]
        assert rates == pytest.approx([theirs.opt.param_groups[0][key]] * len(rates)), key
    assert theirs.opt.param_groups[0]["lr"] == pytest.approx(0.06 * 32 / 128)


def test_both_have_the_same_loss(both: tuple[Hardlab, Lightly]) -> None:
    ours, theirs = both
    z0, z1 = torch.randn(2, 32, 128, generator=torch.Generator().manual_seed(0))
    a, b = F.normalize(z0, dim=1), F.normalize(z1, dim=1)
    loss = (ours.session.method.loss(a, b) + ours.session.method.loss(b, a)).mean() / 2
    assert float(loss) == pytest.approx(float(theirs.criterion(z0, z1)), rel=1e-5)


def test_both_draw_views_from_one_distribution(both: tuple[Hardlab, Lightly]) -> None:
    ours, theirs = both[0].session.run.augments()[0][0], both[1].loader.dataset.transform.transforms  # type: ignore
    parts = {type(part).__name__: part for part in theirs[0].transform.transforms}
    crop, flip, gray, jitter = (
        parts[name] for name in ("RandomResizedCrop", "RandomHorizontalFlip", "RandomGrayscale", "RandomApply")
    )
    strengths = jitter.transforms[0]
    assert (crop.size[0], crop.scale, crop.ratio, flip.p, gray.p) == (
        ours.size, ours.scale, ours.ratio, ours.flip, ours.gray)  # fmt: skip
    assert jitter.p == ours.jitter_p
    spans = [strengths.brightness, strengths.contrast, strengths.saturation]
    assert [high - 1 for _, high in spans] == pytest.approx(ours.jitter[:3])
    assert strengths.hue[1] == pytest.approx(ours.jitter[3])
    assert (parts["RandomVerticalFlip"].p, parts["RandomRotate"].prob, parts["GaussianBlur"].prob) == (0, 0, 0)
    assert ours.blur == ours.solarize == 0


@pytest.mark.parametrize("name", race_libraries.LIBRARIES)
def test_a_step_of_each_trains_on_views_and_the_arithmetic_alone_loads_nothing(name: str, task: Task) -> None:
    if name == "stable-pretraining":
        pytest.importorskip("stable_pretraining", reason="it is no part of the lock (docs/race.md)")
    side = race_libraries.LIBRARIES[name](task, 0)
    side.begin()
    before = side.backbone.state_dict()["stem.0.weight"].clone()
    side.step()
    assert not torch.equal(before, side.backbone.state_dict()["stem.0.weight"])
    step = side.arithmetic()
    side.batches = iter(())  # type: ignore[attr-defined]
    step()
    side.close()


def test_checkpoints_are_judged_as_a_search_of_all_neighbours_would(task: Task) -> None:
    judge, net = Judge(task, data.load("digits", "test")), Lightly(task, 1).backbone.eval()
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def features(images: data.Images) -> tuple[Tensor, Tensor]:
        raw = torch.cat([batch.raw for batch in images.all(100)])
        with torch.no_grad():
            return F.normalize(net((raw / 255 - mean) / std), dim=1), images.targets

    memory, labels = (part[judge.rows] for part in features(task.images))
    assert len(memory) == 200
    right = 0
    for query, label in zip(*features(judge.test)):
        cosine = memory @ query
        near = cosine.argsort(descending=True)[:200]
        votes = torch.zeros(10).index_add(0, labels[near], (cosine[near] / 0.1).exp())
        right += int(votes.argmax() == label)
    assert judge(net.state_dict()) == pytest.approx(right / len(judge.test), abs=2 / len(judge.test))


def test_the_clock_counts_loading_and_training_and_neither_start_nor_evaluation(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.count()  # only steps, loading and looks at the clock take time, of which the latter are free
    spent = {"s": 0.0}

    class Fake:
        def __init__(self, task: Task, seed: int) -> None:
            self.backbone: nn.Module = nn.Linear(1, 1)
            spent["s"] += 1000

        def begin(self) -> None:
            spent["s"] += 500

        def step(self) -> None:
            next(now)
            spent["s"] += 2

        def arithmetic(self) -> Callable[[], None]:
            return self.step

        def close(self) -> None:
            spent["s"] += 300

    class FakeJudge:
        def __init__(self, *given: Any) -> None:
            self.count = 0

        def __call__(self, weights: dict[str, Tensor]) -> float:
            spent["s"] += 100
            self.count += 1
            return self.count / 10

    monkeypatch.setattr(race_libraries, "LIBRARIES", {"fake": Fake})
    monkeypatch.setattr(race_libraries, "Judge", FakeJudge)
    monkeypatch.setattr(race_libraries.time, "perf_counter", lambda: spent["s"])
    row = race_libraries.race(task, task.images, "fake", 0, budget=300, target=0.4)
    assert row["curve"] == [
        {"images": 32 * steps, "seconds": 2.0 * steps, "accuracy": pytest.approx(i / 10)}
        for i, steps in enumerate((0, 60, 75, 94), 1)
    ]
    assert (row["trained_s"], row["trained_images"], row["step_s"]) == (300, 150 * 32, pytest.approx(2))
