"""Row 2: two resumes, one in mid-epoch, with images that worker processes decode."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from resuming import learned, rows, same, whole_and_parts
from small_runs import small_run

from hardlab import build, train


@pytest.fixture
def folder(tmp_path):
    """Images of many sizes, too large to be held in memory: 48 in four classes."""
    rng = np.random.default_rng(0)
    for i in range(48):
        at = tmp_path / "images" / "train" / "abcd"[i % 4]
        at.mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(70, 120, 2)
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(at / f"{i:02}.jpg")
    return tmp_path / "images"


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_resumes_with_workers_repeat_and_skip_no_image(workers, folder, tmp_path, monkeypatch, count):
    own, opened = build.data.load, []

    def load(*words, **more):
        opened.append(own(*words, **more | {"workers": workers}))
        return opened[-1]

    monkeypatch.setattr(build.data, "load", load)
    batches, step = [], train.step
    monkeypatch.setattr(
        train, "step", lambda s, batch: (batches.append((s.done, batch.index.tolist())), step(s, batch))[1]
    )
    run = small_run("simclr", batch_size=8, data={"name": f"folder:{folder}"})
    whole, parts = whole_and_parts(run, tmp_path, monkeypatch, 4, 6)  # 4 is in mid-epoch, 6 the end of the first
    assert {s.workers for s in opened} == {workers} and not opened[0].in_memory
    once, twice = dict(batches[:12]), dict(batches[12:])
    assert len(batches) == 24 and once == twice
    for epoch in (0, 6):
        assert sorted(row for s in range(6) for row in twice[epoch + s]) == list(range(48))
    assert same(learned(whole), learned(parts))
    assert rows(whole) == rows(parts)
    count("2 resumes with workers", 2)
