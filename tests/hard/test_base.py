"""The base class of strategies changes nothing."""

from __future__ import annotations

from steps import forward, looked

from hardlab import contracts
from hardlab.hard.base import Hard


def test_the_base_strategy_is_the_baseline():
    method, hard, look = contracts.make("simsiam"), Hard(), contracts.look()
    v = contracts.rendered(method)
    assert looked(hard, method, v, look).views is v
    assert forward(method, v, hard, look=look).terms.keys() == {"base"}
    assert hard.players(method) == []
