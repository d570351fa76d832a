"""A run in memory: opened without a folder, stepped by hand, and nowhere waiting for its device."""

import pytest
import torch
from resuming import learned, same
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from hardlab import recipes, run_folder, train
from hardlab.hard.base import Hard

QUICK = {
    "data": {"name": "digits", "fraction": 0.1},
    "backbone": {"name": "tiny", "options": {"width": 4}},
    "batch_size": 32,
    "epochs": 2,
    "precision": "fp32",
}


def opened(name, folder=None, **more):
    return train.open(recipes.recipe(name, "smoke", QUICK | more), folder, device="cpu", say=lambda line: None)


class Waits(TorchDispatchMode):
    """Counts what would make the host wait for a device: reading a value, or a shape that depends on values."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masked = func.__name__.startswith("index.") and any(i is not None and i.dtype == torch.bool for i in args[1])
        if masked or func.__name__.split(".")[0] in self.NAMES:
            self.seen.append(func.__name__)
        return func(*args, **kwargs or {})


class Reads(TorchFunctionMode):
    """Counts copies of a tensor to the host."""

    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.cpu, torch.Tensor.tolist, torch.Tensor.numpy):
            self.waits.seen.append(func.__name__)
        return func(*args, **kwargs or {})


def waits_of_a_step(session):
    """The waits of one step, but for the drawing and rendering of views, which decide on the host what to do."""
    batch = next(session.batches())
    drawn = session.look.views(batch, max(session.method.slots, 4), local=session.method.locals)
    ready = session.look.render(drawn, session.method.plain)

    class Ready:
        augment, local, mean, std = session.look.augment, session.look.local, session.look.mean, session.look.std

        def views(self, batch, n, generator=None, local=0):
            return drawn if n == 4 else drawn.take(torch.arange(n).expand(len(batch.index), n).clone(), 0)

        def render(self, v, plain=False, size=None):
            return (
                ready
                if v.params.shape[1] == 4
                else v
                if hasattr(v, "x")
                else ready.take(torch.arange(v.params.shape[1]).expand(len(v.index), -1).clone())
            )

    session.look = Ready()
    train.step(session, batch)  # optimisers make their state in the first step
    with Waits() as waits, Reads(waits):
        train.step(session, batch)
    return waits.seen


@pytest.mark.parametrize(
    "name", ["simsiam", "simclr", "moco", "byol", "hnssl-positives", "simsiam-hvs", "hexa-moco", "clae"]
)
def test_a_step_that_is_not_logged_waits_nowhere_for_its_device(name):
    # Adam counts its steps in tensors on the host, which look the same here
    assert waits_of_a_step(opened(name, **{"optim.name": "sgd"})) == []


def test_the_count_of_waits_sees_a_number_that_is_read():
    class Curious(Hard):
        def __init__(self, read):
            super().__init__()
            self.read = read

        def terms(self, step):
            self.read(step.out.loss)
            return {}

    for read, name in (
        (lambda x: float(x.detach().mean()), "_local_scalar_dense.default"),
        (lambda x: bool((x > 0).all()), "_local_scalar_dense.default"),
        (lambda x: x.detach().cpu(), "cpu"),
        (lambda x: x[x > 0], "index.Tensor"),
    ):
        session = opened("simsiam")
        session.hard.append(Curious(read))
        assert name in waits_of_a_step(session)


def test_a_session_that_is_stepped_by_hand_is_the_run_that_is_trained(tmp_path):
    path = train.train(recipes.recipe("moco", "smoke", QUICK | {"logs.step_every": 1}), tmp_path, device="cpu")
    session = opened("moco", **{"logs.step_every": 1})
    losses = []
    for _ in range(session.run.epochs):
        session.epoch.clear()
        losses += [float(train.step(session, batch).out.loss.detach().mean()) for batch in session.batches()]
    assert losses == [row["loss"] for row in run_folder.metrics(path, "step")]
    ours, theirs = session.dump(), learned(path)
    assert all(same(ours[key], theirs[key]) for key in theirs if key != "sums")  # where the seconds of on_epoch are


def test_opening_writes_nothing_and_what_a_step_says_can_be_asked_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = opened("simsiam-hvs")
    now = train.step(session, next(session.batches()))
    assert list(tmp_path.iterdir()) == []
    assert now.at.step == 0 and session.done == 1
    assert now.seen.loss.shape == (32, 6) and now.out.views.params.shape[1] == 2
    assert now.drawn.params.shape[1] == 4
    assert now.terms.keys() == now.means().keys() == {"base"}
    assert now.rates.keys() == {"learner"}


def test_a_number_that_is_none_is_noticed_and_named_by_its_player():
    session = opened("simsiam")
    with torch.no_grad():
        session.method.predictor[0].weight.fill_(torch.nan)
    train.step(session, next(session.batches()))
    with pytest.raises(train.HardlabError, match=r"The loss of the learner is not finite at step 1 \(images \["):
        session.check()
