"""The queue of negatives and the last queries, first in, first out; and negatives that stand for others."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hardlab.negatives import Around, Borrowed, LastQueries, Queue
from hardlab.types import HardlabError


def test_the_queue_wraps_first_in_first_out_without_being_copied():
    queue = Queue(6, 2)
    assert torch.allclose(queue.keys.norm(dim=1), torch.ones(6))
    place, expected = queue.keys.data_ptr(), list(queue.keys.clone())
    for i in range(5):
        k = F.normalize(torch.randn(4, 2), dim=1)
        queue.enqueue(k)
        for j in range(4):
            expected[(4 * i + j) % 6] = k[j]
        assert torch.equal(queue.keys, torch.stack(expected))
    assert queue.keys.data_ptr() == place
    assert int(queue.next) == 20 % 6


def test_the_age_of_a_key_is_the_number_of_keys_since():
    queue = Queue(6, 2)
    for _ in range(5):
        queue.enqueue(torch.randn(2, 2))
    assert queue.ages().tolist() == [3, 2, 1, 0, 5, 4]


def test_the_last_queries_are_those_of_six_batches_with_the_rows_of_their_images():
    last = LastQueries()
    last.note(0, torch.ones(2, 3), torch.tensor([1, 2]))  # nothing to write to yet
    last.start(2, 3)
    assert len(last.seen()["queries"]) == 0
    for step in range(8):
        last.note(step, torch.full((4, 3), step + 1.0), torch.tensor([10 * step, 10 * step + 1, -1, -1]))
    queries = last.seen()
    assert sorted(set(queries["queries"][:, 0].tolist())) == [3, 4, 5, 6, 7, 8]
    assert queries["query_rows"].tolist() == [60, 61, 70, 71, 20, 21, 30, 31, 40, 41, 50, 51]


class Counted(Queue):
    """A queue whose loss and nearest negative are its own."""

    def loss(self, q, k, temperature):
        return 2 * super().loss(q, k, temperature)

    def nearest(self, q, k):
        return super().nearest(q, k) - 1


def test_borrowed_negatives_answer_as_those_that_they_stand_for_and_hold_no_state():
    torch.manual_seed(0)
    own, (q, k) = Counted(16, 8), (F.normalize(torch.randn(4, 8), dim=1) for _ in range(2))
    lent = Borrowed(own)
    assert not lent.state_dict() and [*lent.modules()] == [lent]
    assert torch.equal(lent.similarities(q, k), own.similarities(q, k))
    assert torch.equal(lent.loss(q, k, 0.2), own.loss(q, k, 0.2)) and torch.equal(lent.nearest(q, k), own.nearest(q, k))
    assert torch.equal(lent.stored(), own.keys) and lent.snapshot().keys() == own.snapshot().keys()
    lent.enqueue(k)
    assert torch.equal(own.keys[:4], k)
    with pytest.raises(HardlabError, match="not a multiple"):
        lent.check(5, 1)
    assert lent.borrowed and Around(lent).borrowed and not own.borrowed and not Around(own).borrowed
