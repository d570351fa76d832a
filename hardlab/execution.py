"""How networks run in a step: as they are written, compiled, or compiled and replayed as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from hardlab.types import HardlabError

BACKEND = "inductor"
VARIANTS = 64  # of a network: by shape of its input, with and without gradient, in training and in a selection
_OPTIONS: dict[str, dict[str, str | int | bool | Callable[..., Any]]] = {
    # the random numbers are those that networks draw as they are written
    "compile": {"fallback_random": True},
    "graphs": {"fallback_random": True, "triton.cudagraphs": True},
}


def check(execution: str, device: torch.device, processes: int = 1) -> None:
    """Refuse an execution that a device or a number of processes does not allow. Raises HardlabError."""
    if execution == "graphs" and device.type != "cuda":
        raise HardlabError(
            f"execution=graphs replays CUDA graphs, and this run is on '{device}': take execution=compile or eager."
        )
    if execution != "eager" and processes > 1:
        raise HardlabError(f"execution={execution} trains in one process, and these are {processes}: take eager.")


class Compiled:
    """The networks of a method, compiled by ``torch.compile``, forward and backward, the first time that they run.

    They are compiled inside ``step`` alone: evaluations, monitors and snapshots run them as they are written, and so do
    copies. The names in their state do not change. The networks are the method's children, as far as it calls them.

    twice: whether two players take gradients of one graph.
    """

    def __init__(
        self, method: nn.Module, execution: Literal["compile", "graphs"], device: torch.device, twice: bool = False
    ) -> None:
        self.networks = [net for net in method.children() if any(True for _ in net.parameters())]
        self.execution, self.device, self.twice = execution, device, twice
        self.calls: list[Callable[..., Any]] = []

    @contextmanager
    def gradients(self) -> Iterator[None]:
        """Inside, players take their gradients through what was compiled."""
        import torch._functorch.config

        if not self.twice:
            yield
            return
        # the first backward pass may not use the memory of what the second one needs
        with torch._functorch.config.patch(donated_buffer=False):
            yield

    @contextmanager
    def step(self) -> Iterator[None]:
        """Inside, the networks are compiled. Raises HardlabError if torch cannot compile them here."""
        import torch._dynamo

        if not self.calls:
            check(self.execution, self.device)
            options = _OPTIONS[self.execution] if BACKEND == "inductor" else None
            self.calls = [
                torch.compile(net._call_impl, backend=BACKEND, dynamic=False, options=options) for net in self.networks
            ]
        if self.execution == "graphs":
            torch.compiler.cudagraph_mark_step_begin()  # the graphs may use the memory of the step before again
        with torch._dynamo.config.patch(recompile_limit=VARIANTS), self.gradients():
            try:
                for net, call in zip(self.networks, self.calls, strict=True):
                    net._compiled_call_impl = call  # as nn.Module.compile does; neither copied nor part of a state
                yield
            except torch._dynamo.exc.TorchDynamoException as e:
                why = " ".join(line.strip() for line in str(e).strip().splitlines()[:2])
                raise HardlabError(f"execution={self.execution}: torch cannot compile the networks here: {why}") from e
            finally:
                for net in self.networks:
                    net._compiled_call_impl = None
