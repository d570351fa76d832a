"""Whether bf16 is fast here is measured, kept by what could change it, and open to be overruled."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hardlab import machine, recipes
from hardlab.types import HardlabError

CPU = torch.device("cpu")
ASK = "from hardlab import machine; print(machine.fast_bfloat16(), machine._ratio())"


def timed(fp32, bf16):
    """A stand-in for the small step: seconds of each kind in turn, the last one for ever."""
    left = {False: list(fp32), True: list(bf16)}
    return lambda low: left[low].pop(0) if len(left[low]) > 1 else left[low][0]


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A process that has not asked yet, with an empty cache and no wish of the user's."""
    for name in (machine.SWITCH, *machine.KERNELS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    machine._ratio.cache_clear()
    yield tmp_path
    machine._ratio.cache_clear()


def says(monkeypatch, ratio):
    """From here on the measurement finds this ratio; the list grows by an entry each time that it is asked."""
    asked = []
    monkeypatch.setattr(machine, "measure", lambda step: asked.append(1) or ratio)
    machine._ratio.cache_clear()
    return asked


@pytest.mark.parametrize(("ratio", "fast"), [(0.6, True), (1.6, False), (float("inf"), False)])
def test_auto_is_what_the_measurement_says_and_not_a_list_of_flags(fresh, monkeypatch, ratio, fast):
    says(monkeypatch, ratio)
    monkeypatch.setattr(machine, "_cpuinfo", lambda key: "" if fast else "avx512_bf16 amx_bf16 bf16")
    assert machine.fast_bfloat16() is fast
    assert machine.resolve("auto", CPU) == ("bf16" if fast else "fp32")
    assert (machine.resolve("fp32", CPU), machine.resolve("bf16", CPU)) == ("fp32", "bf16")


def test_the_least_times_count_and_the_first_step_of_each_does_not():
    noisy = timed([9, 5, 2, 4, 2, 3, 7], [9, 8, 1, 6, 1, 5, 5])
    assert machine.measure(noisy) == 0.5
    first = timed([100, 1], [0.1, 3])  # the first makes the kernels
    assert machine.measure(first) == 3


def test_near_one_it_is_measured_longer_and_no_kernels_are_no_bf16():
    assert machine.measure(timed([2] * 30, [2.1] * 12 + [1.2])) == 0.6

    def lacking(low):
        if low:
            raise RuntimeError("not implemented for 'BFloat16'")
        return 1.0

    assert machine.measure(lacking) == float("inf")


def test_a_small_step_takes_time_and_leaves_random_numbers_threads_and_modes_alone():
    rng, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.inference_mode(), torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
        step = machine._step()
        assert step(False) > 0 and step(True) > 0
        assert torch.is_inference_mode_enabled()
    assert torch.equal(rng, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_it_is_measured_once_and_a_damaged_file_is_measured_again(fresh, monkeypatch):
    asked = says(monkeypatch, 0.5)
    assert machine.fast_bfloat16() and machine.fast_bfloat16()
    (kept,) = fresh.rglob("*.json")
    assert json.loads(kept.read_text())["ratio"] == 0.5
    assert says(monkeypatch, 3.0) == [] and machine.fast_bfloat16()  # another process reads what the first one kept
    for torn in (b"", b"{}", b'{"ratio": "x"}', b'{"ratio": -1}', b"[1]", b"\xff"):
        kept.write_bytes(torn)
        asked = says(monkeypatch, 3.0)
        assert not machine.fast_bfloat16() and asked == [1]
        assert json.loads(kept.read_text())["ratio"] == 3.0


@pytest.mark.parametrize("name", machine.KERNELS)
def test_other_kernels_are_measured_for_themselves(fresh, monkeypatch, name):
    says(monkeypatch, 0.5)
    assert machine.fast_bfloat16()
    monkeypatch.setenv(name, "AVX2")
    assert says(monkeypatch, 4.0) == [] and not machine.fast_bfloat16()
    monkeypatch.delenv(name)
    machine._ratio.cache_clear()
    assert machine.fast_bfloat16()


@pytest.mark.parametrize("what", ["processor", "flags", "torch"])
def test_another_processor_or_torch_is_measured_for_itself(fresh, monkeypatch, what):
    says(monkeypatch, 0.5)
    assert machine.fast_bfloat16()
    if what == "torch":
        monkeypatch.setattr(torch, "__version__", "2.99")
    else:
        monkeypatch.setattr(machine, {"processor": "_name", "flags": "_cpuinfo"}[what], lambda *key: "another")
    says(monkeypatch, 4.0)
    assert not machine.fast_bfloat16()


def test_a_cache_that_cannot_be_written_is_no_error(fresh, monkeypatch):
    (fresh / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh / "file"))
    says(monkeypatch, 0.5)
    assert machine.fast_bfloat16()
    assert [p.name for p in fresh.rglob("*")] == ["file"]


def test_the_user_overrules_and_then_nothing_is_measured(fresh, monkeypatch):
    asked = says(monkeypatch, 0.5)
    monkeypatch.setenv("HARDLAB_BF16", "0")
    assert machine.choose(CPU) == ("fp32", "HARDLAB_BF16=0") and not machine.fast_bfloat16()
    monkeypatch.setenv("HARDLAB_BF16", "1")
    assert machine.choose(CPU) == ("bf16", "HARDLAB_BF16=1") and machine.fast_bfloat16()
    assert machine.resolve("fp32", CPU) == "fp32"  # what a run asks for by name stays
    assert asked == []
    monkeypatch.setenv("HARDLAB_BF16", "")
    assert machine.choose(CPU)[1].startswith("a small step in bf16 takes 0.5 times") and asked == [1]
    monkeypatch.setenv("HARDLAB_BF16", "yes")
    with pytest.raises(HardlabError, match=r"HARDLAB_BF16=yes: set 1 .*, 0 "):
        machine.resolve("auto", CPU)


@pytest.mark.parametrize("there", [True, False])
def test_a_gpu_is_asked_whether_it_has_bf16_itself(fresh, monkeypatch, there):
    asked = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **how: asked.append(how) or there)
    assert machine.resolve("auto", torch.device("cuda:1")) == ("bf16" if there else "fp32")
    assert asked == [{"including_emulation": False}]


def test_the_name_of_a_run_does_not_depend_on_the_machine(monkeypatch):
    asked = recipes.recipe("simsiam-hvs")
    assert asked.precision == "auto"
    names = set()
    for answer in ("0", "1"):
        monkeypatch.setenv("HARDLAB_BF16", answer)
        names.add(recipes.recipe("simsiam-hvs").id)
    assert names == {asked.id}
    assert len({asked.id} | {asked.with_({"precision": p}).id for p in ("fp32", "bf16")}) == 3


@pytest.mark.parametrize(
    ("system", "info", "name"),
    [
        ("Linux", {"model name": "A CPU @ 2 GHz"}, "A CPU @ 2 GHz"),
        ("Linux", {"cpu implementer": "0x41", "cpu part": "0xd40"}, "arch 0x41-0xd40"),
        ("Linux", {}, "arch"),
        ("Darwin", {}, "Apple M9"),
    ],
)
def test_the_processor_has_a_name_on_linux_macos_and_arm(monkeypatch, system, info, name):
    monkeypatch.setattr(machine, "_cpuinfo", lambda key: info.get(key, ""))
    monkeypatch.setattr(machine.platform, "system", lambda: system)
    monkeypatch.setattr(machine.platform, "machine", lambda: "arch")
    completed = subprocess.CompletedProcess([], 0, stdout="Apple M9\n")
    monkeypatch.setattr(machine.subprocess, "run", lambda *words, **how: completed)
    machine._name.cache_clear()
    try:
        assert machine.processor() == f"{name}, {os.cpu_count()} cores"
    finally:
        machine._name.cache_clear()


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or "AVX" not in torch.backends.cpu.get_cpu_capability(),
    reason="other kernels cannot be forced here",
)
def test_kernels_without_bf16_are_noticed_on_this_very_machine(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in (machine.SWITCH, *machine.KERNELS)}
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    forced = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    kernels = [
        subprocess.run([sys.executable, "-c", ASK], env=environment | more, capture_output=True, text=True, check=True)
        for more in ({}, forced)
    ]
    (_, here), (emulated, there) = (f.stdout.split() for f in kernels)
    assert emulated == "False"
    assert float(there) > max(1.0, 0.8 * float(here))  # never faster than with all that the processor has
    assert len(list(Path(tmp_path).rglob("*.json"))) == 2
