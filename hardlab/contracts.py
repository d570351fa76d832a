"""The contracts that every method and strategy must keep, whoever wrote it; `hardlab check` and the tests run them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hardlab import compatible, recipes, registry, train, views
from hardlab.config import Run, Spec
from hardlab.data import Images
from hardlab.data.base import Pixels, Source
from hardlab.hard.base import Hard
from hardlab.methods.base import START, Method, Step
from hardlab.negatives import Negatives
from hardlab.types import Batch, HardlabError, Rendered

BATCH, SIZE, COUNT = 8, 32, 128
STEPS = "It takes steps with"


class Broken(Exception):
    """A contract is broken; the message says what was observed."""


class Verdict(NamedTuple):
    """Whether a contract holds; None if a strategy refuses the method, for the reason in ``detail``."""

    contract: str
    holds: bool | None
    detail: str = ""


def _demand(holds: object, complaint: str) -> None:
    if not holds:
        raise Broken(complaint)


@cache
def toy(device: str = "cpu") -> Images:
    """Random pixels of ten classes."""
    labels = np.arange(COUNT) % 10
    source = Source(tuple("abcdefghij"), labels, [str(i) for i in range(COUNT)])
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8)
    return Pixels("toy", "train", source, [], label_map=np.arange(10), device=device, size=None, pixels=pixels)


def small(kind: str, name: str) -> dict[str, Any]:
    """The options that make an entry small enough for tests, which the entry itself declares."""
    cls: Any = registry.find(kind, name)
    return dict(cls.SMALL)


def network(method: str, width: int) -> tuple[str, dict[str, Any]]:
    """The backbone that a method is tested on, and its options. width: of one that has a width."""
    cls: Any = registry.find("method", method)
    return cls.NETWORK, {"width": width} if "width" in registry.options("backbone", cls.NETWORK) else {}


def make(name: str) -> Method:
    """A small method of that name, ready for its first step."""
    torch.manual_seed(0)
    backbone = registry.build("backbone", *network(name, 8))
    with registry.blaming("method", name):
        method: Method = registry.build("method", name, small("method", name), backbone)
        method.on_start(toy(), BATCH)
        method.on_epoch(START, toy(), look())  # e.g. k-means, without which labels may be missing
    return method


def look() -> views.Look:
    return views.Look(views.PRESETS["simclr_cifar"], (0.5,) * 3, (0.5,) * 3)


def rendered(method: Method) -> Rendered:
    """A batch of noise images, with as many views as the method takes."""
    raw = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch, renderer = Batch(raw, torch.full((BATCH, 2), SIZE), torch.arange(BATCH)), look()
    return renderer.render(renderer.views(batch, method.slots, torch.Generator().manual_seed(1)), method.plain)


def run(name: str, *strategies: str) -> Run:
    """A small run of a method with strategies."""
    return recipes.recipe("simsiam").with_({
        "recipe": "contract",
        "method": {"name": name, "options": small("method", name)},
        "hard": [{"name": s, "options": small("strategy", s)} for s in strategies],
        "augment": {"name": "simclr_cifar", "options": {}},
        "backbone": dict(zip(("name", "options"), network(name, 4), strict=True)),
        "batch_size": BATCH,
        "epochs": 2,
        "precision": "fp32",
        "pixel_mean": [0.5] * 3,  # accepted by every method
        "pixel_std": [0.5] * 3,
    })  # fmt: skip


def same(a: Any, b: Any) -> bool:
    """Whether two nested states are equal to the last bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


# ------------------------------------------------------------------------------------------------------- of a method


def says_what_it_is(name: str) -> None:
    """It is a `Method` with a docstring, its options have types and defaults, and its hooks are spelt as `Method`'s."""
    _spelt_as(_entry("method", name, Method), Method)


def says_where_its_negatives_are_from(name: str) -> None:
    """`negatives_from` says whether it has negatives, and whether they are kept from step to step."""
    negatives, declared = make(name).negatives, registry.attribute("method", name, "negatives_from")
    real = "" if negatives is None else "memory" if len(negatives.stored()) else "batch"
    _demand(declared == real, f"it says {declared!r}, and its negatives are {real!r}: set negatives_from = {real!r}")


def gives_a_loss_for_each_image(name: str) -> None:
    """A forward pass gives a finite float32 loss for each image, and changes nothing but statistics of BN."""
    method = make(name)
    bn = {n for n, _ in method.named_buffers() if "running" in n or "num_batches" in n}
    before = {key: x.clone() for key, x in method.state_dict().items()}
    loss = method(rendered(method)).loss
    _demand(loss.shape == (BATCH,), f"the loss of {BATCH} images has the shape {tuple(loss.shape)}")
    _demand(loss.dtype == torch.float32, f"the loss is {loss.dtype}")
    _demand(loss.isfinite().all(), f"the losses are {loss.tolist()}")
    moved = [key for key, x in method.state_dict().items() if key not in bn and not torch.equal(before[key], x)]
    _demand(not moved, f"forward changed {', '.join(moved)}; state moves in after_step and on_epoch only")


def reaches_all_its_weights(name: str) -> None:
    """The loss has a finite gradient, not all zero, for the weights that are trained and that no other player moves."""
    method = make(name)
    elsewhere = {id(p) for player in method.players() for p in player.params}
    trained = {key: p for key, p in method.named_parameters() if p.requires_grad and id(p) not in elsewhere}
    grads = torch.autograd.grad(method(rendered(method)).loss.mean(), list(trained.values()), allow_unused=True)
    for key, g in zip(trained, grads, strict=True):
        _demand(g is not None, f"no gradient reaches {key}")
        _demand(g is not None and g.isfinite().all(), f"the gradient of {key} is not finite")
    _demand(any(g is not None and g.any() for g in grads), "the gradient is zero in every weight")


def cares_for_no_order(name: str) -> None:
    """The loss of an image is the same whatever place it has in the batch."""
    method = make(name)
    v, order = rendered(method), torch.randperm(BATCH, generator=torch.Generator().manual_seed(1))
    plain = None if v.plain is None else v.plain[order]
    moved = replace(v, index=v.index[order], group=v.group[order], params=v.params[order], x=v.x[order], plain=plain)
    losses = []
    for given in (v, moved):
        torch.manual_seed(0)  # the same latents, where a method draws some
        losses.append(method(given).loss.detach())
    difference = float((losses[0][order] - losses[1]).abs().max())
    _demand(difference <= 1e-4 * (1 + float(losses[0].abs().max())), f"the losses differ by {difference:g}")


def says_whether_rows_mix(name: str) -> None:
    """`mixes_rows` is true where the loss of a row depends on the other rows, and only there."""
    method = make(name)
    if type(method).loss is Method.loss:  # it has no loss of rows that a strategy could take
        return
    v = rendered(method)
    with torch.no_grad():
        q, t = method.embed(v, (a for a, _ in method.pairs), (b for _, b in method.pairs))
        half = BATCH // 2
        whole = [method.loss(q[a], t[b])[:half] for a, b in method.pairs]
        part = [method.loss(q[a][:half], t[b][:half]) for a, b in method.pairs]
    mixes = not all(torch.allclose(x, y, rtol=1e-4, atol=1e-5) for x, y in zip(whole, part, strict=True))
    _demand(mixes == method.mixes_rows, f"mixes_rows is {method.mixes_rows}, and the losses say {mixes}")


def names_its_networks(name: str) -> None:
    """`evaluated` names what `networks` returns, in order."""
    method = make(name)
    names = tuple(method.networks())
    _demand(tuple(method.evaluated) == names, f"evaluated is {tuple(method.evaluated)}, and networks() has {names}")


def trains(name: str) -> None:
    """It takes steps: its weights move and stay finite, `logs` and `snapshot` answer, what is saved comes back."""
    _steps(name)


# ----------------------------------------------------------------------------------------------------- of a strategy


def strategy_says_what_it_is(name: str) -> None:
    """It is a `Hard` with a docstring, its options have types and defaults, it has a hook, and its needs exist."""
    cls = _entry("strategy", name, Hard)
    _spelt_as(cls, Hard)
    acts = _hooks(Hard) - {"remark", "logs", "declared", "note", "numbers"} | {"draws", "local_draws"}
    acts = {hook for hook in acts if not hook.startswith("check_")}
    _demand(acts & _own(cls, Hard), f"it does nothing: it overrides none of {', '.join(sorted(acts))}")
    compatible.strategy(Spec(name=name))


def goes_with_some_method(name: str) -> None:
    """It takes steps with at least one method."""
    reasons = []
    for method in registry.METHODS:
        verdict = _judged("", steps_with, name, method)
        if verdict.holds:
            return
        reasons.append(f"with {method}: {verdict.detail}")
    raise Broken(f"it steps with no method, {'; '.join(reasons[:1])}")


def says_that_it_replaces(name: str) -> None:
    """`owns_loss` is true where it puts other negatives into a method's loss."""
    for method, _, hard, _ in _replacing(name):
        _demand(
            hard.owns_loss,
            f"it replaces the negatives of {method}; set owns_loss = True, so that no two strategies do",
        )


def answers_for_what_it_wraps(name: str) -> None:
    """Negatives that it puts around a method's queue refuse the same batches, and are in the snapshots."""
    for method, on, _, before in _replacing(name):
        wrapper = on.negatives
        if before is None or wrapper is None or not len(before.stored()):
            continue
        arrays = before.snapshot().keys() & {"negatives"}
        _demand(arrays <= wrapper.snapshot().keys(), f"the snapshots of {method} no longer have negatives")
        keys = len({b for _, b in on.pairs})
        bad = next((n for n in range(1, 2 * len(before.stored())) if _refuses(before, n, keys)), None)
        if bad is not None and not on.borrowed:  # negatives that a method has no more cannot refuse
            _demand(
                _refuses(wrapper, bad, keys), f"{method} refuses batches of {bad} images, but not with this strategy"
            )


def _replacing(name: str) -> Iterator[tuple[str, Method, Hard, Negatives | None]]:
    """Every method whose negatives a strategy replaces: its name, the method, the strategy, the method's negatives."""
    for method in registry.METHODS:
        try:
            on, hard = make(method), registry.build("strategy", name, small("strategy", name))
            before = on.negatives
            hard.install(on)
        except HardlabError:  # it refuses the method, or the method's package cannot be used
            continue
        if on.negatives is not before:
            yield method, on, hard, before


def _refuses(negatives: Negatives, batch_size: int, keys: int) -> bool:
    try:
        negatives.check(batch_size, keys)
    except HardlabError:
        return True
    return False


def steps_with(name: str, method: str) -> None:
    """It takes steps with a method, or refuses it in a sentence."""
    _steps(method, name)


METHOD: tuple[Callable[[str], None], ...] = (
    says_what_it_is, says_where_its_negatives_are_from, gives_a_loss_for_each_image, reaches_all_its_weights,
    cares_for_no_order, says_whether_rows_mix, names_its_networks, trains,
)  # fmt: skip
STRATEGY: tuple[Callable[[str], None], ...] = (
    strategy_says_what_it_is, goes_with_some_method, says_that_it_replaces, answers_for_what_it_wraps,
)  # fmt: skip


def sentence(contract: Callable[..., None]) -> str:
    return (contract.__doc__ or contract.__name__).splitlines()[0].rstrip(".")


def _finite(x: Any) -> bool:
    try:
        return bool(np.isfinite(float(x)))
    except (TypeError, ValueError):
        return False


def verdicts(kind: str, name: str) -> Iterator[Verdict]:
    """The verdict on each contract of an entry: a method with every strategy, a strategy with every method."""
    for contract in METHOD if kind == "method" else STRATEGY:
        yield _judged(sentence(contract), contract, name)
    pairs = [(s, name) for s in registry.HARD] if kind == "method" else [(name, m) for m in registry.METHODS]
    for strategy, method in pairs:
        yield _judged(f"{STEPS} {strategy if kind == 'method' else method}", steps_with, strategy, method)


def described(kind: str, verdicts: Iterable[Verdict]) -> Iterator[str]:
    """The verdicts on an entry as text, with one line for all that it steps with if the same holds of them."""
    grouped: dict[Verdict, list[str]] = {}
    for v in verdicts:
        partner = v.contract.removeprefix(f"{STEPS} ") if v.contract.startswith(STEPS) else ""
        grouped.setdefault(v._replace(contract=STEPS) if partner else v, []).append(partner)
    counterparts = "strategies" if kind == "method" else "methods"
    for v, partners in grouped.items():
        sign = {True: "holds", False: "BROKEN", None: "refuses"}[v.holds]
        names = ", ".join(filter(None, partners))
        count = f" ({len(partners)} {counterparts})" if len(partners) > 1 else ""
        yield f"{sign:8}{v.contract}{names and f' {names}'}{count}{v.detail and f': {v.detail}'}"


def _judged(contract_name: str, contract: Callable[..., None], *about: str) -> Verdict:
    try:
        contract(*about)
    except HardlabError as e:
        refused = contract is steps_with and len(str(e)) > 20
        return Verdict(contract_name, None if refused else False, str(e) or "it refuses without a reason")
    except Broken as e:
        return Verdict(contract_name, False, str(e))
    except Exception as e:  # any error in foreign code is a verdict
        return Verdict(contract_name, False, f"{type(e).__name__}: {e}")
    return Verdict(contract_name, True)


def _entry(kind: str, name: str, base: type) -> type:
    cls: Any = registry.find(kind, name)
    _demand(isinstance(cls, type) and issubclass(cls, base), f"{cls!r} is no {base.__name__}")
    _demand(cls.__doc__ not in (None, base.__doc__), "it has no docstring")
    bare = [key for key, p in registry.options(kind, name).items() if p.annotation in (Any, p.empty)]
    _demand(not bare, f"without a type: {', '.join(bare)}")
    return cls


def _hooks(base: type) -> set[str]:
    """The public functions of a base class."""
    return {name for name in vars(base) if name[0] != "_" and inspect.isroutine(getattr(base, name))}


def _own(made: type, base: type) -> set[str]:
    """The public names that an entry defines, in its class or in one between that and the base class."""
    between = made.__mro__[: made.__mro__.index(base)]
    return {name for cls in between for name in vars(cls) if name[0] != "_"}


def _spelt_as(cls: type, base: type) -> None:
    """Refuse a function whose name is almost that of a hook, which nothing would call, unless it has that hook too."""
    defined = _own(cls, base)
    for name in sorted(defined):
        if hasattr(base, name) or not inspect.isroutine(getattr(cls, name)):
            continue
        similar = get_close_matches(name, _hooks(base), 1, 0.8)
        _demand(not similar or similar[0] in defined, f"`{name}` is no hook: did you mean `{''.join(similar)}`?")


def _opened(name: str, *strategies: str) -> train.Session:
    return train.open(run(name, *strategies), data=toy(), device="cpu", say=lambda line: None)


def _step(session: train.Session, batch: Batch) -> Step:
    try:
        return train.step(session, batch)
    except train.NoLossPerImage as e:  # no refusal
        raise Broken(str(e)) from e


def _steps(name: str, *strategies: str) -> None:
    """Two training steps that call every hook of a method and its strategies, and save and load between them."""
    session = _opened(name, *strategies)
    method, players = session.method, session.players
    before = [[p.clone() for p in player.params] for player in players]
    method.on_epoch(session.at, session.data, session.look)
    batches = session.batches()
    taken = _step(session, next(batches))
    complaint = session.watch.complaint()
    _demand(complaint is None, str(complaint))
    for player, old in zip(players, before, strict=True):
        moved = any(not torch.equal(a, b) for a, b in zip(player.params, old, strict=True))
        due = player is players[0] or player.times(0) > 0
        _demand(moved == due, f"the weights of {player.name} {'stayed' if due else 'moved and were not due'}")
    lost = [key for key, p in method.named_parameters() if not p.isfinite().all()]
    _demand(not lost, f"not finite after a step: {', '.join(lost)}")
    logged: dict[str, Any] = {**method.logs(taken)}
    for h in session.hard:
        logged |= h.numbers(taken)
    for key, x in logged.items():
        _demand(_finite(x), f"logs: {key} is {x!r}")
    arrays = {**method.snapshot(session.data, session.look)}
    for h in session.hard:
        arrays |= h.snapshot(session.data, session.look)
    for key, x in arrays.items():
        _demand(isinstance(x, Tensor) and key, f"snapshot: {key!r} is {type(x).__name__}, and should be a tensor")
    saved = copy.deepcopy(session.dump())
    terms = _step(session, next(batches)).terms
    restored = _opened(name, *strategies)
    restored.restore(saved)
    _demand(
        same(restored.dump(), saved), "what was saved does not come back: `state_dict` and `load_state_dict` disagree"
    )
    repeated = _step(restored, next(restored.batches())).terms
    _demand(
        same(terms, repeated),
        "a resumed run takes another step than one that was not interrupted: keep what a step changes in a buffer or a "
        "parameter (`self.register_buffer`); other attributes are not saved",
    )
