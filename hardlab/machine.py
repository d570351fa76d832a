"""Properties of this machine's kernels (fast bfloat16, narrow layers), measured once and cached."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hardlab.types import HardlabError

if TYPE_CHECKING:
    import torch
    from torch import nn

SWITCH = "HARDLAB_BF16"
KERNELS = (  # environment variables that select other kernels on the same processor
    "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_CPU_ISA_HINTS", "DNNL_CPU_ISA_HINTS",
    "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS",
)  # fmt: skip
_REPEATS = (5, 25)  # fewest and most pairs of steps to time
_UNCLEAR = (0.8, 1.25)  # ratios that other processes may have caused

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

Precision = Literal["fp32", "bf16"]


def processor() -> str:
    """The name of this machine's processor and its number of cores, as text."""
    return f"{_name()}, {os.cpu_count()} cores"


def resolve(precision: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """The precision of a run on a device: the given one, or the choice of ``auto`` there."""
    return choose(device)[0] if precision == "auto" else precision


def choose(device: torch.device) -> tuple[Precision, str]:
    """The precision that ``auto`` chooses on a device, and the reason in a few words."""
    override = _overruled()
    if override is not None:
        return "bf16" if override else "fp32", f"{SWITCH}={int(override)}"
    if device.type == "cuda":
        import torch

        with torch.cuda.device(device):
            supported = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "the GPU has it") if supported else ("fp32", "the GPU has no bf16")
    if device.type != "cpu":
        return "fp32", f"bf16 is not tried on {device.type}"
    ratio = _ratio()
    return "bf16" if ratio < 1 else "fp32", f"a small step in bf16 takes {ratio:.2g} times as long as in fp32"


def fast_bfloat16() -> bool:
    """Whether torch is faster in bfloat16 than in float32 on this processor; ``HARDLAB_BF16`` overrules."""
    override = _overruled()
    return _ratio() < 1 if override is None else override


def _overruled() -> bool | None:
    setting = os.environ.get(SWITCH, "")
    if setting not in ("", "0", "1"):
        raise HardlabError(f"{SWITCH}={setting}: set 1 (bf16 is fast here), 0 (it is not) or nothing (measure it).")
    return bool(int(setting)) if setting else None


@cache
def _ratio() -> float:
    """Time of a small training step in bf16 over that in fp32, measured once per machine and cached."""
    facts = _facts()
    path = _place("bf16", facts)
    try:
        ratio = float(json.loads(path.read_text())["ratio"])
        if ratio > 0:
            return ratio
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        pass  # not measured yet, or damaged
    ratio = measure(_step())
    _keep(path, facts | {"ratio": ratio})
    return ratio


def measure(step: Callable[[bool], float]) -> float:
    """Seconds of ``step(True)`` over those of ``step(False)``: the minima of several, alternating, after a warm-up.

    The nearer the ratio is to 1, the more steps are timed. Infinite if torch has no kernels for ``step(True)``.
    """
    try:
        for low in (False, True):
            step(low)  # the first call compiles kernels
        best = {False: float("inf"), True: float("inf")}
        for timed in range(1, _REPEATS[1] + 1):
            for low in best:
                best[low] = min(best[low], step(low))
            ratio = best[True] / max(best[False], 1e-9)
            if timed >= _REPEATS[0] and not _UNCLEAR[0] < ratio < _UNCLEAR[1]:
                break
    except RuntimeError:
        return float("inf")
    return ratio


def _step() -> Callable[[bool], float]:
    """A function that trains a small network for a step, in bf16 or not, and returns its processor time in seconds.

    It runs on one thread. Processor time excludes other processes; own random numbers leave those of a run alone.
    """
    import torch
    from torch.nn import functional

    generator = torch.Generator("cpu").manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device="cpu") / 16

    with torch.inference_mode(False):
        x = numbers(16, 32, 16, 16).to(memory_format=torch.channels_last)
        kernels = [numbers(32, 32, 3, 3).to(memory_format=torch.channels_last).requires_grad_() for _ in range(2)]
        matrix = numbers(256, 8192).requires_grad_()

    def step(low: bool) -> float:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        start = time.thread_time()
        try:
            with torch.inference_mode(False), torch.enable_grad():
                with torch.autocast("cpu", torch.bfloat16, enabled=low):
                    y = x
                    for kernel in kernels:
                        y = functional.conv2d(y, kernel, padding=1).relu()
                    y = functional.linear(y.flatten(1), matrix)
                torch.autograd.grad(y.float().square().mean(), [*kernels, matrix])
            return time.thread_time() - start
        finally:
            torch.set_num_threads(threads)

    return step


def set_memory_format(net: nn.Module, device: torch.device, channels_last: bool = True) -> None:
    """Convert ``net``, to be trained on ``device``, to channels_last, the faster layout, unless that would crash.

    Up to torch 2.15 at least, gradients of a strided 1x1 convolution with fewer than 8 input channels in channels_last
    write outside their memory on processors without AVX-512. If a layer's number of input channels is no multiple of 8
    (3 colours use wider kernels, which are correct), this machine is tested, and ``net`` stays contiguous if it is
    affected.
    """
    import torch
    from torch import nn

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
    """Whether gradients of narrow convolutions in channels_last crash or are wrong here; tested once per machine.

    A test process that is too slow or cannot start counts as a crash, and is tried again next time.
    """
    facts = _facts() | {"probe": _NARROW}
    path = _place("narrow", facts)
    try:
        return bool(json.loads(path.read_text())["breaks"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not tested yet, or damaged
    printed = probe(_NARROW)
    if printed:
        _keep(path, facts | {"breaks": printed[-1] != "right"})
    return printed[-1:] != ["right"]


def probe(code: str, timeout: float = 60) -> list[str]:
    """Run Python code in a new process; returns the lines that it printed, even if it crashed; none on a timeout."""
    try:
        child = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=timeout
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return child.stdout.splitlines()


def _facts() -> dict[str, object]:
    """All that decides which kernels torch uses here; a cached measurement holds as long as this is the same."""
    import torch

    return {
        "processor": _name(),
        "flags": _cpuinfo("flags") or _cpuinfo("features"),  # a virtual machine may hide some
        "torch": torch.__version__,
        **{name: os.environ[name] for name in KERNELS if name in os.environ},
    }


def _place(question: str, facts: dict[str, object]) -> Path:
    """The path of the cached answer to a question."""
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return _cache() / f"{question}-{key}.json"


def _cache() -> Path:
    """The folder of cached measurements, beside the data sets in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path(os.path.expanduser("~")) / ".cache") / "hardlab" / ".machine"


def _keep(path: Path, measured: dict[str, object]) -> None:
    from hardlab.files import write_atomic

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, (json.dumps(measured, indent=1) + "\n").encode())
    except (OSError, HardlabError):
        pass  # without a writable cache, the next process measures again


@cache
def _name() -> str:
    """The processor's name from Linux or macOS, else its architecture (with the maker's numbers on ARM)."""
    if name := _cpuinfo("model name"):
        return name
    if platform.system() == "Darwin":
        try:
            answer = subprocess.run(
                ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return platform.machine()
        return answer.stdout.strip() or platform.machine()
    maker, part = _cpuinfo("cpu implementer"), _cpuinfo("cpu part")
    return f"{platform.machine()} {maker}-{part}" if maker else platform.machine()


@cache
def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.lower().startswith(key)), "")


def keep_pages() -> None:
    """Let glibc keep freed memory: otherwise blocks over 32 MiB cause page faults at every step."""
    if sys.platform == "linux":
        try:
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-4, 0)  # M_MMAP_MAX: no block gets a mapping of its own
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: keep the top of the heap
        except OSError:  # another C library: nothing to tune
            pass


_PROCESSES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")  # torchrun, MPI, srun


def alone(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to run as one of several processes that were started to train together. Raises HardlabError."""
    for name in _PROCESSES:
        value = environment.get(name, "").strip()
        if value not in ("", "0", "1"):
            raise HardlabError(
                f"{name}={value} in the environment says that several processes work together, and this one was not "
                "started to: each of them would do the same. Let torchrun start `-m hardlab.train`, or take `hardlab "
                f"pretrain --devices {value}`; to work alone, set {name}=1."
            )
