"""A run in memory: opened without a folder, and stepped by hand."""

import pytest
import torch
from resuming import learned, same
from small_runs import small_run

from hardlab import registry, run_folder, train
from hardlab.errors import HardlabError
from hardlab.hard.base import Hard


def opened(name, folder=None, **more):
    return train.open(small_run(name, **more), folder, device="cpu", say=lambda line: None)


def test_a_session_that_is_stepped_by_hand_is_the_run_that_is_trained(tmp_path):
    path = train.train(small_run("moco"), tmp_path, device="cpu")
    session = opened("moco")
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


def test_a_run_is_opened_again_as_it_ended_and_at_an_earlier_step_and_its_folder_stays_as_it_was(tmp_path):
    path = train.train(small_run("simsiam-hvs"), tmp_path)
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in path.rglob("*") if p.is_file()}
    session, saved = train.reopen(path), learned(path)
    ours = session.dump()
    assert ours.keys() == saved.keys() and all(same(ours[key], saved[key]) for key in saved)
    assert session.done == session.total and session.precision == run_folder.manifest(path)["precision"]
    middle = train.reopen(path, session.per_epoch)
    for batch in middle.batches():
        train.step(middle, batch)
    assert same(middle.dump()["method"], saved["method"])  # the second epoch once more
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in path.rglob("*") if p.is_file()} == before
    with pytest.raises(HardlabError, match="has no checkpoint of step 7"):
        train.reopen(path, 7)


def test_a_strategy_does_not_start_from_a_parent_that_was_never_trained(tmp_path):
    child = small_run("simclr-sas")
    held = run_folder.Folder(tmp_path, child.parent)
    held.close()
    with pytest.raises(HardlabError, match="no manifest"):
        train.open(child, device="cpu", parent=held.path, say=lambda line: None)


def test_the_first_half_of_a_step_has_the_terms_of_the_whole_and_moves_nothing():
    one, whole = opened("simsiam-hvs"), opened("simsiam-hvs")
    before = {key: x.clone() for key, x in one.method.state_dict().items() if "running" not in key}
    batch = next(one.batches())
    torch.manual_seed(5)
    now = train.begin(one, batch)
    assert all(torch.equal(one.method.state_dict()[key], x) for key, x in before.items() if "num_batches" not in key)
    assert one.done == 0 and not one.players[0].opt.state
    torch.manual_seed(5)
    taken = train.step(whole, batch)
    assert same(now.terms, taken.terms) and same(now.seen._asdict(), taken.seen._asdict())
    assert whole.done == 1 and not same(whole.method.state_dict(), one.method.state_dict())


@pytest.mark.parametrize("last", [True, False])
def test_activations_have_the_layout_that_a_run_asks_for_in_every_layer(last):
    wide = {"backbone.width": 8}  # narrower networks stay as they are on some processors (machine.set_memory_format)
    session = opened("simsiam", channels_last=last, **wide)
    layouts = []

    def seen(module, args, out):
        if out.ndim == 4 and out.shape[1] > 1 and out.shape[2] > 1:  # else one layout is the other
            layouts.append((out.is_contiguous(memory_format=torch.channels_last), out.is_contiguous()))

    for module in session.method.backbone.modules():
        module.register_forward_hook(seen)
    train.step(session, next(session.batches()))
    assert len(layouts) > 20 and set(layouts) == {(last, not last)}
    weights = [p for p in session.method.backbone.parameters() if p.ndim == 4 and p.shape[2] > 1 and p.shape[1] > 1]
    assert {p.is_contiguous(memory_format=torch.channels_last) for p in weights} == {last}


def test_a_number_that_is_none_is_noticed_and_named_by_its_player():
    session = opened("simsiam")
    with torch.no_grad():
        session.method.predictor[0].weight.fill_(torch.nan)
    train.step(session, next(session.batches()))
    with pytest.raises(HardlabError, match=r"The loss of the learner is not finite at step 1 \(images \["):
        session.check()


class Short(Hard):
    """Leaves out all but the first batches."""

    def order(self, rows, epoch, images, look):
        return rows[:2]


class Beyond(Hard):
    """Asks for images that are not there."""

    def order(self, rows, epoch, images, look):
        return rows + len(images)


@pytest.mark.parametrize("strategy", [Short, Beyond])
def test_an_order_that_is_no_whole_epoch_of_the_images_is_refused(strategy, monkeypatch):
    monkeypatch.setitem(registry.HARD, strategy.__name__.lower(), f"{__name__}:{strategy.__name__}")
    session = train.open(small_run("simsiam", hard=[strategy.__name__.lower()]), device="cpu")
    with pytest.raises(HardlabError, match=f"'{strategy.__name__.lower()}' returns rows .* from `order`"):
        next(session.batches())
