"""What this machine's kernels do: measured in a process of its own, and kept."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch
from torch import nn

from hardlab.types import HardlabError

_KERNELS = (  # what chooses other kernels on the same processor
    "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_CPU_ISA_HINTS", "DNNL_CPU_ISA_HINTS",
    "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS",
)  # fmt: skip
_NARROW = """
import resource, torch
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
torch.set_num_threads(1)
print("ready", flush=True)
for _ in range(10):
    for channels in (*range(1, 8), 12, 20, 28):
        grads = []
        x, net = torch.randn(4, channels, 16, 16), torch.nn.Conv2d(channels, 8, 1, stride=2)
        for layout in (torch.contiguous_format, torch.channels_last):
            net.to(memory_format=layout)
            y = x.contiguous(memory_format=layout).requires_grad_()
            grads.append(torch.autograd.grad(net(y).square().sum(), [y, *net.parameters()]))
        assert all(torch.allclose(a, b, rtol=1e-2, atol=1e-2) for a, b in zip(*grads))
print("right", flush=True)
"""


def set_memory_format(net: nn.Module, device: torch.device, channels_last: bool = True) -> None:
    """Put ``net``, which learns on ``device``, into channels_last, the faster layout, unless that would crash there.

    Up to torch 2.15 at least, gradients of a strided 1x1 convolution with fewer than 8 input channels in channels_last
    write outside their memory on processors without AVX-512. A network with input channels that are no multiple of 8
    (3, colours, go through wider kernels, which are right) is asked about, and stays contiguous where that happens.
    """
    narrow = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.in_channels % 8 and m.in_channels != 3]
    if narrow and device.type == "cpu" and narrow_channels_last_breaks():
        channels_last = False
        for m in narrow:  # whatever the layout of the images: some augmentations change it
            if _contiguous not in m._forward_pre_hooks.values():
                m.register_forward_pre_hook(_contiguous)
        net.to(memory_format=torch.contiguous_format)
    if channels_last:
        net.to(memory_format=torch.channels_last)


def _contiguous(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(x.contiguous() for x in args)


@cache
def narrow_channels_last_breaks() -> bool:
    """Whether gradients of narrow convolutions in channels_last crash or are wrong here; asked once a machine.

    A process that is too slow or cannot be started counts as a crash, and is asked again next time.
    """
    what = {
        "processor": _name(),
        "flags": _cpuinfo("flags") or _cpuinfo("features"),  # a virtual machine may hide some
        "torch": torch.__version__,
        **{name: os.environ[name] for name in _KERNELS if name in os.environ},
    }
    key = hashlib.sha256(json.dumps(what | {"probe": _NARROW}, sort_keys=True).encode()).hexdigest()[:16]
    path = _cache() / f"narrow-{key}.json"
    try:
        return bool(json.loads(path.read_text())["breaks"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not asked yet, or not whole
    said = probe(_NARROW)
    if said:
        _keep(path, what | {"breaks": said[-1] != "right"})
    return said[-1:] != ["right"]


def probe(code: str, timeout: float = 60) -> list[str]:
    """The lines that a process of its own printed, though it may have crashed; none where it was too slow."""
    try:
        child = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=timeout
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return child.stdout.splitlines()


def _cache() -> Path:
    """Beside the data sets of the user's cache, and none of them."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path(os.path.expanduser("~")) / ".cache") / "hardlab" / ".machine"


def _keep(path: Path, found: dict[str, object]) -> None:
    from hardlab.checkpoint import write_atomic

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, (json.dumps(found, indent=1) + "\n").encode())
    except (OSError, HardlabError):
        pass  # a cache that cannot be written: the next process measures again


@cache
def _name() -> str:
    """The processor's name: as Linux or macOS tell it, else its architecture (with the maker's numbers on ARM)."""
    if name := _cpuinfo("model name"):
        return name
    if platform.system() == "Darwin":
        try:
            told = subprocess.run(
                ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return platform.machine()
        return told.stdout.strip() or platform.machine()
    maker, part = _cpuinfo("cpu implementer"), _cpuinfo("cpu part")
    return f"{platform.machine()} {maker}-{part}" if maker else platform.machine()


@cache
def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.lower().startswith(key)), "")
