"""Spherical k-means against a loop and scikit-learn."""

from __future__ import annotations

import itertools

import torch
from sklearn.cluster import KMeans

from hardlab import clusters
from hardlab.clusters import kmeans, nearest


def unit(n, d, seed=0):
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_kmeans_equals_a_loop_that_assigns_averages_and_normalises():
    x = unit(60, 4)
    torch.manual_seed(3)
    actual, y = kmeans(x, 7, 4)
    torch.manual_seed(3)
    centroids = x[torch.randperm(60)[:7]].clone()
    for _ in range(4):
        label = [int(torch.stack([row @ c for c in centroids]).argmax()) for row in x]
        for k in range(7):
            rows = [x[i] for i in range(60) if label[i] == k]
            if rows:
                mean = torch.stack(rows).mean(0)
                centroids[k] = mean / mean.norm()
    assert torch.allclose(actual, centroids, atol=1e-5)
    assert y.tolist() == [int(torch.stack([row @ c for c in centroids]).argmax()) for row in x]


def test_kmeans_never_lowers_the_mean_similarity_and_comes_near_scikit_learns():
    x = unit(300, 5, seed=1) + torch.nn.functional.one_hot(torch.arange(300) % 5, 5) * 2
    x = torch.nn.functional.normalize(x, dim=1)
    values = []
    for iterations in range(1, 9):
        torch.manual_seed(0)
        c, y = kmeans(x, 5, iterations)
        values.append(float((x * c[y]).sum(1).mean()))
    assert all(b >= a - 1e-6 for a, b in itertools.pairwise(values))
    peer = KMeans(5, n_init=10, random_state=0).fit(x.numpy())
    c = torch.nn.functional.normalize(torch.tensor(peer.cluster_centers_), dim=1)
    best = float((x @ c.T).amax(1).mean())
    assert values[-1] > best - 0.05


def test_a_cluster_that_runs_empty_keeps_its_centroid_and_all_centroids_have_unit_length():
    x = torch.tensor([[1.0, 0.0]] * 5 + [[0.0, 1.0]])
    for seed in range(6):
        torch.manual_seed(seed)
        c, y = kmeans(x, 3, 5)  # two of the three start on the same point
        assert torch.allclose(c.norm(dim=1), torch.ones(3))
        assert set(map(tuple, c.tolist())) <= {(1.0, 0.0), (0.0, 1.0)}
        assert len(y.unique()) <= 2


def test_the_assignment_does_not_depend_on_its_tiles_and_a_tile_stays_below_32_mib(monkeypatch):
    x, c = unit(101, 4), unit(6, 4, seed=2)
    whole = nearest(x, c)
    assert torch.equal(whole, (x @ c.T).argmax(1))
    monkeypatch.setattr(clusters, "TILE", 7 * 4 * len(c))
    assert torch.equal(nearest(x, c), whole)
    assert 2**25 // (4 * 3000) * 3000 * 4 <= 32 * 2**20
