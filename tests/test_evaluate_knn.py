"""Weighted kNN against a loop and scikit-learn; ties, tiles, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from hardlab.evaluate import knn as module
from hardlab.evaluate.knn import knn, knn_predict, neighbours
from hardlab.types import HardlabError


def make(n, q, d=16, classes=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=g)
    y, t = torch.randint(0, classes, (n,), generator=g), torch.randint(0, classes, (q,), generator=g)
    y[:classes] = torch.arange(classes)
    spread = 2.0
    return (
        centres[y] + spread * torch.randn(n, d, generator=g),
        y,
        centres[t] + spread * torch.randn(q, d, generator=g),
        t,
    )


@pytest.fixture(params=["one tile", "small tiles", "no blocks", "blocks of blocks of blocks", "the other product"])
def tiles(request, monkeypatch):
    if request.param == "small tiles":
        monkeypatch.setattr(module, "_QUERIES", 11)
        monkeypatch.setattr(module, "_ROWS", 97)
    if request.param == "no blocks":
        monkeypatch.setattr(module, "_BLOCKS", ())
    if request.param == "blocks of blocks of blocks":
        monkeypatch.setattr(module, "_BLOCKS", (3, 2, 2))
    if request.param == "the other product":
        other = not module._by_convolution()
        monkeypatch.setattr(module, "_by_convolution", lambda: other)


def test_scores_equal_a_loop_in_double_precision(tiles):
    train_f, train_y, test_f, _ = make(300, 25)
    scores = knn_predict(train_f, train_y, test_f, k=20, temperature=0.07, classes=9)
    for i, query in enumerate(test_f.double()):
        votes, cosines = [0.0] * 9, []
        for row, f in enumerate(train_f.double()):
            cosines.append((float(query @ f / (query.norm() * f.norm())), row))
        for cosine, row in sorted(cosines, reverse=True)[:20]:
            votes[train_y[row]] += math.exp(cosine / 0.07)
        np.testing.assert_allclose(scores[i].numpy(), votes, rtol=1e-4)


@pytest.mark.parametrize("n", [205, 1000, 2003])
def test_accuracy_equals_scikit_learn_with_the_same_weights(tiles, n):
    train_f, train_y, test_f, test_y = make(n, 150)
    found = knn(train_f, train_y, test_f, test_y)
    assert list(found) == [10, 20, 100, 200]
    unit = lambda f: torch.nn.functional.normalize(f.double(), dim=1).numpy()  # noqa: E731
    for k, accuracy in found.items():
        peer = KNeighborsClassifier(
            k, weights=lambda dist: np.exp((1 - dist) / 0.07), metric="cosine", algorithm="brute"
        )
        peer.fit(unit(train_f), train_y.numpy())
        assert accuracy == pytest.approx(peer.score(unit(test_f), test_y.numpy()), abs=1e-12)
        same = knn_predict(train_f, train_y, test_f, k=k).argmax(1).numpy()
        assert (same == peer.predict(unit(test_f))).all()


def test_neighbours_are_exactly_the_largest_of_a_full_sort(tiles):
    g = torch.Generator().manual_seed(3)
    memory, queries = torch.randn(1500, 8, generator=g), torch.randn(60, 8, generator=g)
    for k in (1, 9, 200, 1499, 1500):
        cosine, rows = neighbours(memory, queries, k)
        best, order = (queries.double() @ memory.double().T).sort(dim=1, descending=True)
        torch.testing.assert_close(cosine.double(), best[:, :k], rtol=1e-5, atol=1e-5)
        assert (rows == order[:, :k]).float().mean() > 0.999  # neighbours within rounding of each other may swap


def test_of_equally_near_neighbours_the_lower_row_is_taken(tiles):
    g = torch.Generator().manual_seed(0)
    memory = torch.nn.functional.one_hot(torch.randint(0, 3, (900,), generator=g), 5).float()  # exact cosines 0 and 1
    memory[::7, 4] = -1.0
    queries = torch.eye(5)[[0, 1, 2, 3, 4, 0]]
    for k in (1, 10, 50, 333, 900):
        cosine, rows = neighbours(memory, queries, k)
        for i, query in enumerate(queries):
            expected = sorted(range(900), key=lambda row: (-float(memory[row] @ query), row))[:k]
            assert rows[i].tolist() == expected
            assert cosine[i].tolist() == [float(memory[row] @ query) for row in expected]


def test_a_collapsed_network_gives_the_class_majority_of_the_first_rows():
    train_f, train_y, test_f, test_y = make(500, 40)
    found = knn(torch.ones_like(train_f), train_y, torch.ones_like(test_f), test_y, ks=(10, 200))
    for k, accuracy in found.items():
        majority = torch.bincount(train_y[:k]).argmax()
        assert accuracy == pytest.approx(float((test_y == majority).float().mean()))


def test_the_answer_does_not_depend_on_tiles_or_on_the_order_of_the_queries(monkeypatch):
    train_f, train_y, test_f, _ = make(1000, 130)
    whole = knn_predict(train_f, train_y, test_f, k=50)
    order = torch.randperm(130, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(knn_predict(train_f, train_y, test_f[order], k=50), whole[order], rtol=1e-5, atol=0)
    monkeypatch.setattr(module, "_ROWS", 64)
    torch.testing.assert_close(knn_predict(train_f, train_y, test_f, k=50), whole, rtol=1e-5, atol=0)


def test_scaling_the_features_changes_nothing():
    train_f, train_y, test_f, test_y = make(400, 100)
    size = torch.rand(400, 1, generator=torch.Generator().manual_seed(0)) + 0.5
    assert knn(train_f * size, train_y, test_f * 8, test_y) == knn(train_f, train_y, test_f, test_y)


def test_ks_are_answered_in_the_order_asked_and_repeat_as_themselves():
    train_f, train_y, test_f, test_y = make(400, 100)
    found = knn(train_f, train_y, test_f, test_y, ks=(100, 1, 10))
    assert list(found) == [100, 1, 10]
    assert all(found[k] == knn(train_f, train_y, test_f, test_y, ks=[k])[k] for k in found)


def test_the_tile_of_similarities_is_made_once_and_stays_below_96_mib(monkeypatch):
    made, make_tile = [], module._tile
    monkeypatch.setattr(module, "_QUERIES", 16)
    monkeypatch.setattr(module, "_tile", lambda *args: made.append(make_tile(*args)) or made[-1])
    knn(*make(400, 100))
    assert [tile.numel() for tile in made] == [16 * 400]
    monkeypatch.undo()
    assert module._QUERIES * module._ROWS * 4 <= 96 * 2**20


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ks": (10, 301)}, "k=301 neighbours cannot be had from 300 training samples: k must be from 1 to 300"),
        ({"ks": (0,)}, "k=0"),
        ({"ks": ()}, "ks is empty"),
        ({"temperature": 0.0}, "temperature=0.0 is too low"),
    ],
)
def test_impossible_settings_are_refused_in_one_sentence(options, sentence):
    with pytest.raises(HardlabError, match=sentence):
        knn(*make(300, 5), **options)


def test_too_few_classes_for_the_labels_are_refused():
    train_f, train_y, test_f, _ = make(300, 5)
    with pytest.raises(HardlabError, match="classes=3 is too few"):
        knn_predict(train_f, train_y, test_f, classes=3)
