"""Pictures of fixed latents, the likeness of the twins, and the loss of generated images, from made-up files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hardlab.analysis import gan
from hardlab.analysis.gan import Shot
from hardlab.types import HardlabError


def shot(step=0, n=12, seed=0, noise=0.0):
    rng = np.random.default_rng(seed)
    g = rng.integers(40, 216, (n, 3, 4, 4))
    return Shot(step, g.astype(np.uint8), (g + noise * rng.choice([-1, 1], g.shape)).astype(np.uint8), {})


def test_snapshots_are_read_in_order_and_others_are_left_alone(tmp_path: Path):
    (tmp_path / "snapshots").mkdir()
    for step in (20, 3):
        one = shot(step, seed=step)
        np.savez(tmp_path / "snapshots" / f"generated-{step:08d}.npz", g=one.g, g_ema=one.g_ema, g_frechet=float(step))
    np.savez(tmp_path / "snapshots" / "adco-00000003.npz", negatives=np.zeros(3))
    shots = gan.shots(tmp_path)
    assert [s.step for s in shots] == [3, 20] and shots[1].scores == {"g_frechet": 20}
    assert (shots[1].g == shot(seed=20).g).all()


def test_a_run_without_generated_images_is_refused(tmp_path: Path):
    with pytest.raises(HardlabError, match="kept no generated images"):
        gan.shots(tmp_path)
    with pytest.raises(HardlabError, match="logged no loss"):
        gan.hardness(tmp_path)


def test_the_grid_has_two_rows_a_latent_and_a_column_a_snapshot():
    series = [shot(step, seed=step, noise=5) for step in range(9)]
    image = gan.grid(series, latents=(2, 0), columns=3)
    assert image.shape == (4 * 4, 3 * 4, 3)
    for column, step in enumerate((0, 4, 8)):
        for row, (which, latent) in enumerate([("g", 2), ("g_ema", 2), ("g", 0), ("g_ema", 0)]):
            cell = image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            assert (cell == getattr(series[step], which)[latent].transpose(1, 2, 0)).all()
    assert gan.evenly(5, 9) == [0, 1, 2, 3, 4] and gan.evenly(100, 3) == [0, 50, 99]


def test_twins_are_compared_with_each_other_and_with_strangers():
    same, other = gan.twins([shot(), shot(7, noise=30)]).to_dict("records")
    assert same["correlation"] == pytest.approx(1) and same["difference"] == 0
    assert abs(same["others"]) < 0.1
    images = shot(noise=30)
    expected = np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(images.g, images.g_ema, strict=True)])
    assert other["step"] == 7 and other["correlation"] == pytest.approx(expected)
    assert other["lo"] < expected < other["hi"] and other["difference"] == pytest.approx(30)
    one = shot(n=1)
    collapsed = Shot(0, np.repeat(one.g, 8, 0), np.repeat(one.g, 8, 0), {})
    assert gan.twins([collapsed])["others"].item() == pytest.approx(1)


def test_hardness_is_read_from_the_steps_that_logged_it(tmp_path: Path):
    rows = [{"kind": "step", "step": 1, "epoch": 0, "loss": 1.0},
            {"kind": "step", "step": 5, "epoch": 1, "loss": 1.0, "generated.loss_real": 2.0,
             "generated.loss_generated": 2.5, "generated.pair_cosine": 0.5},
            {"kind": "epoch", "step": 5, "epoch": 1, "loss": 1.0, "terms": {}, "seconds": {}}]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert gan.hardness(tmp_path).to_dict("records") == [
        {"step": 5, "epoch": 1, "real": 2.0, "generated": 2.5, "pair_cosine": 0.5, "gap": 0.5}
    ]
