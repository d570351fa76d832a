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


LAYOUTS = ["one tile", "small tiles", "no blocks", "blocks of blocks of blocks", "by convolution"]


@pytest.fixture(params=[*LAYOUTS, "rough first", "rough first, small tiles", "rough first, by convolution"])
def tiles(request, monkeypatch):
    """The same search by every way that a machine may choose, whichever this one would."""
    monkeypatch.setattr(module, "fast_bfloat16", lambda: "rough" in request.param)
    monkeypatch.setattr(module, "_by_convolution", lambda: "convolution" in request.param)
    monkeypatch.setattr(module, "_ROUGH", 1)
    if "small tiles" in request.param:
        monkeypatch.setattr(module, "_QUERIES", 11)
        monkeypatch.setattr(module, "_ROWS", 97)
    if request.param == "no blocks":
        monkeypatch.setattr(module, "_BLOCKS", ())
    if request.param == "blocks of blocks of blocks":
        monkeypatch.setattr(module, "_BLOCKS", (3, 2, 2))


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
    accuracies = knn(train_f, train_y, test_f, test_y)
    assert list(accuracies) == [10, 20, 100, 200]
    unit = lambda f: torch.nn.functional.normalize(f.double(), dim=1).numpy()  # noqa: E731
    for k, accuracy in accuracies.items():
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
    accuracies = knn(torch.ones_like(train_f), train_y, torch.ones_like(test_f), test_y, ks=(10, 200))
    for k, accuracy in accuracies.items():
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
    accuracies = knn(train_f, train_y, test_f, test_y, ks=(100, 1, 10))
    assert list(accuracies) == [100, 1, 10]
    assert all(accuracies[k] == knn(train_f, train_y, test_f, test_y, ks=[k])[k] for k in accuracies)


@pytest.mark.parametrize("search", ["_nearest_of_all", "_nearest_of_rough"])
def test_all_parts_of_a_search_share_one_tile_of_at_most_96_mib(monkeypatch, search):
    tiles, inner = [], getattr(module, search)
    monkeypatch.setattr(module, "fast_bfloat16", lambda: search == "_nearest_of_rough")
    monkeypatch.setattr(module, "_QUERIES", 16)

    def spy(*args):
        tiles.append(next(a for a in args if isinstance(a, torch.Tensor) and a.ndim == 1))
        return inner(*args)

    monkeypatch.setattr(module, search, spy)
    train_f, train_y, test_f, test_y = make(800, 100)
    knn(train_f, train_y, test_f, test_y, ks=[5])
    assert {(t.data_ptr(), t.numel()) for t in tiles} == {(tiles[0].data_ptr(), 16 * 800)}
    monkeypatch.undo()
    assert module._QUERIES * module._ROWS * 4 <= 96 * 2**20


def rough(monkeypatch, *, on):
    """Searches go by bfloat16 products, or do not; the number of queries left over by each is noted."""
    left, inner = [], module._nearest_of_rough

    def spy(*args):
        left.append(inner(*args))
        return left[-1]

    monkeypatch.setattr(module, "_nearest_of_rough", spy)
    monkeypatch.setattr(module, "fast_bfloat16", lambda: on)
    monkeypatch.setattr(module, "_ROUGH", 1)
    return left


@pytest.mark.parametrize("spread", [1.0, 0.3, 0.1, 0.05, 0.01, 0.0])
@pytest.mark.parametrize("k", [1, 20, 60])
def test_what_bfloat16_rounds_away_never_costs_a_neighbour(monkeypatch, spread, k):
    g = torch.Generator().manual_seed(k)
    # the smaller the spread, the more rows are as near as bfloat16 can tell; a few are copies of others
    memory = torch.randn(1, 48, generator=g) + spread * torch.randn(1200, 48, generator=g)
    memory[700:900] = memory[:200]
    memory = torch.nn.functional.normalize(memory, dim=1)
    queries = memory[::7] + 0.1 * spread * torch.randn(172, 48, generator=g)
    queries = torch.nn.functional.normalize(queries, dim=1)
    left = rough(monkeypatch, on=True)
    cosine, rows = neighbours(memory, queries, k)
    exact = queries.double() @ memory.double().T
    kth = exact.topk(k, dim=1).values[:, -1:]
    similarities = exact.gather(1, rows)
    assert float((kth - similarities).max()) < 1e-6  # a miss by rounding of float32 is none
    torch.testing.assert_close(cosine.double(), similarities, rtol=0, atol=1e-6)
    assert all(len(set(row)) == k for row in rows.tolist())
    assert len(left[0]) < 172 if spread == 1.0 else len(left) == 1
    if spread == 0.0:
        assert len(left[0]) == 172 and (rows == torch.arange(k)).all()


@pytest.mark.parametrize("by_convolution", [False, True])
def test_when_the_rough_search_answers_every_query_nothing_is_multiplied_again(monkeypatch, by_convolution):
    monkeypatch.setattr(module, "_by_convolution", lambda: by_convolution)
    left = rough(monkeypatch, on=True)
    rows = torch.nn.functional.normalize(torch.randn(1200, 48), dim=1)
    _, nearest = neighbours(rows, rows[:90], 1)
    assert len(left[0]) == 0 and (nearest[:, 0] == torch.arange(90)).all()


def test_copies_of_a_row_come_in_their_order_by_either_search(monkeypatch):
    train_f, *_ = make(300, 1, d=32)
    memory = torch.nn.functional.normalize(train_f[torch.arange(900) % 300], dim=1)
    for on in (False, True):
        with monkeypatch.context() as patch:
            left = rough(patch, on=on)
            rows = neighbours(memory, memory[:50], 2)[1]
        assert len(left) == on and (rows == torch.stack([torch.arange(50), torch.arange(300, 350)], 1)).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ks": (10, 301)}, "k=301 does not fit 300 training samples: k must be from 1 to 300"),
        ({"ks": (0,)}, "k=0"),
        ({"ks": ()}, "ks is empty"),
        ({"temperature": 0.0}, "temperature must be a finite number from 0.002 to 1000, not 0.0"),
    ],
)
def test_impossible_settings_are_refused_in_one_sentence(options, sentence):
    with pytest.raises(HardlabError, match=sentence):
        knn(*make(300, 5), **options)


def test_too_few_classes_for_the_labels_are_refused():
    train_f, train_y, test_f, _ = make(300, 5)
    with pytest.raises(HardlabError, match="classes=3 is too few"):
        knn_predict(train_f, train_y, test_f, classes=3)
