"""Row C: weighted kNN against torch.mm + topk and faiss, the probe against scikit-learn; ``run()`` gives the rows.

Each round gives every contestant one turn, in alternating order; ratios are peer / ours, of the medians.
Run as ``python benchmarks/bench_evaluate.py [rounds]``.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from benchmarks.timing import interleaved
from hardlab.evaluate.knn import knn
from hardlab.evaluate.linear import lbfgs

N, Q, D, C, K = 50_000, 10_000, 512, 10, 200


def features(n: int, generator: torch.Generator, centres: Tensor, mix: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Like pooled features: not negative, classes that overlap. mix (D,D) correlates them, as training does."""
    y = torch.randint(0, len(centres), (n,), generator=generator)
    f = centres[y] + torch.randn(n, centres.shape[1], generator=generator)
    return (f + 0.3 if mix is None else 3 * (f @ mix + 0.2)).relu_(), y


def vote(cosine: Tensor, labels: Tensor, truth: Tensor) -> float:
    scores = torch.zeros(len(truth), C).scatter_add_(1, labels, (cosine / 0.07).exp())
    return float((scores.argmax(1) == truth).float().mean())


def bench_knn(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], rounds: int) -> list[dict[str, Any]]:
    def by_mm() -> float:
        memory, queries = F.normalize(train[0], dim=1), F.normalize(test[0], dim=1)
        nearest = [(q @ memory.T).topk(K, dim=1) for q in queries.split(1000)]
        cosine, rows = torch.cat([f.values for f in nearest]), torch.cat([f.indices for f in nearest])
        return vote(cosine, train[1][rows], test[1])

    def by_faiss() -> float:
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        memory, queries = F.normalize(train[0], dim=1), F.normalize(test[0], dim=1)
        index = faiss.IndexFlatIP(D)
        index.add(memory.numpy())
        cosine, rows = index.search(queries.numpy(), K)
        return vote(torch.from_numpy(cosine), train[1][torch.from_numpy(rows)], test[1])

    turns = {"hardlab": lambda: knn(*train, *test, ks=[K])[K], "torch.mm + topk": by_mm}
    if importlib.util.find_spec("faiss"):
        turns["faiss IndexFlatIP"] = by_faiss
    seconds, accuracy = interleaved(turns, rounds)
    rows = []
    for peer, target in (("torch.mm + topk", 1.3), ("faiss IndexFlatIP", 1.0)):
        row = {"name": f"weighted kNN, {len(test[0])} x {len(train[0])} x {D}, k={K}", "value": seconds["hardlab"]}
        if peer not in turns:
            rows.append(
                row | {"unit": "s", "peer": f"{peer}: not installed", "ratio": None, "target": target, "ok": None}
            )
            continue
        ratio, same = seconds[peer] / seconds["hardlab"], abs(accuracy[peer] - accuracy["hardlab"]) <= 2 / len(test[0])
        rows.append(row | {"unit": "s", "peer": peer, "ratio": ratio, "target": target, "ok": same and ratio >= target})
    return rows


def bench_probe(
    kind: str, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], rounds: int
) -> list[dict[str, Any]]:
    x, y = train

    def objective(weight: Tensor, bias: Tensor) -> float:
        loss = F.cross_entropy(torch.addmm(bias, x, weight.T).double(), y)
        return float(loss + weight.double().square().sum() / (2 * len(x)))

    turns = {
        "hardlab": lambda: lbfgs(*train, *test),
        "LogisticRegression": lambda: LogisticRegression(max_iter=1000).fit(x.numpy(), y.numpy()),
    }
    seconds, probes = interleaved(turns, rounds)
    peer = probes["LogisticRegression"]
    theirs = objective(torch.from_numpy(peer.coef_).float(), torch.from_numpy(peer.intercept_).float())
    ours = objective(probes["hardlab"].weight, probes["hardlab"].bias)
    ratio = seconds["LogisticRegression"] / seconds["hardlab"]
    return [
        {
            "name": f"linear probe to the optimum, {len(x)} x {D}, {kind} features",
            "value": seconds["hardlab"],
            "unit": "s",
            "peer": "scikit-learn LogisticRegression",
            "ratio": ratio,
            "target": 1.7,
            "ok": ours <= theirs and ratio >= 1.7,
        },
        {
            "name": f"objective of the probe, {kind} features",
            "value": ours,
            "unit": "nat",
            "peer": "scikit-learn LogisticRegression",
            "ratio": theirs / ours,
            "target": 1.0,
            "ok": ours <= theirs,
        },
    ]


def run(rounds: int = 5, queries: int = Q) -> list[dict[str, Any]]:
    """Rows of name, value, unit, peer, ratio, target, ok (None where the peer is missing); 2 threads, or what there is.

    queries: fewer than the published 10,000 make a shorter run with the same ratios.
    """
    g = torch.Generator().manual_seed(0)
    centres = 0.25 * torch.randn(C, D, generator=g)
    train, test = features(N, g, centres), features(queries, g, centres)
    rows = bench_knn(train, test, rounds) + bench_probe("independent", train, test, rounds)
    mix = torch.linalg.qr(torch.randn(D, D, generator=g)).Q / torch.arange(1, D + 1)[:, None]  # spectrum 1/i
    train, test = features(N, g, 2 * centres, mix), features(1000, g, 2 * centres, mix)
    return rows + bench_probe("correlated", train, test, rounds)


if __name__ == "__main__":
    for row in run(*(int(a) for a in sys.argv[1:])):
        print(json.dumps(row))
