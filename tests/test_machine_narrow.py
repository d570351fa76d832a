"""Networks with narrow layers learn on processors whose kernels break in channels_last; all others keep that layout."""

import copy
import json
import os
import subprocess
import sys
import time

import pytest
import torch

from hardlab import machine, nets

CPU = torch.device("cpu")
CHANNELS_LAST = torch.channels_last


@pytest.fixture
def breaks(monkeypatch):
    """A function that sets what the probe answers and returns the list of what it was asked."""
    asked = []

    def answer(words):
        monkeypatch.setattr(machine, "narrow_channels_last_breaks", lambda: asked.append(words) or words)
        return asked

    return answer


def layouts(net):
    """The layouts of what convolutions of more than three channels take, and of their weights, after such images."""
    tensors = []
    for m in net.modules():
        if isinstance(m, torch.nn.Conv2d) and m.in_channels != 3:
            m.register_forward_hook(lambda m, args, out: tensors.extend((args[0], m.weight)))
    with torch.no_grad():
        net(torch.randn(4, 3, 16, 16).contiguous(memory_format=CHANNELS_LAST))
    pairs = [(x.is_contiguous(), x.is_contiguous(memory_format=CHANNELS_LAST)) for x in tensors]
    return {("contiguous", "channels_last")[last] for plain, last in pairs if plain != last}


def test_a_narrow_network_is_contiguous_where_it_would_crash_whatever_the_layout_of_its_images(breaks):
    breaks(True)
    net = torch.nn.Conv2d(4, 8, 1, stride=2).to(memory_format=CHANNELS_LAST)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), net)
    for _ in range(2):
        machine.set_memory_format(net, CPU)
    assert [len(m._forward_pre_hooks) for m in net] == [0, 1]
    assert layouts(copy.deepcopy(net)) == {"contiguous"}


def test_other_networks_are_channels_last_and_the_wide_ones_ask_nothing(breaks):
    asked = breaks(False)
    narrow, wide = nets.Tiny(width=4), nets.Tiny(width=8)
    machine.set_memory_format(narrow, CPU)
    assert asked == [False] and layouts(narrow) == {"channels_last"}
    asked = breaks(True)
    machine.set_memory_format(wide, CPU)
    machine.set_memory_format(nets.Tiny(width=4), torch.device("meta"))
    assert asked == [False] and layouts(wide) == {"channels_last"}
    plain = nets.Tiny(width=8)
    machine.set_memory_format(plain, CPU, channels_last=False)
    assert all(p.is_contiguous() for p in plain.parameters())


STEPS = """
import torch
from hardlab import machine, nets
torch.set_num_threads(1)
net = nets.Tiny(width=4)
machine.set_memory_format(net, torch.device("cpu"))
for _ in range(20):
    x = torch.randn(8, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    net(x).square().sum().backward()
print("learned")
"""


@pytest.mark.slow
def test_a_narrow_network_learns_on_a_processor_without_avx_512_and_the_answer_is_kept(tmp_path):
    """oneDNN stands in for one where it can; elsewhere the child shows that this machine's own kernels are right."""
    settings = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "XDG_CACHE_HOME": str(tmp_path)}
    child = subprocess.run([sys.executable, "-c", STEPS], env=settings, capture_output=True, text=True)
    assert (child.returncode, child.stdout, child.stderr) == (0, "learned\n", "")
    (kept,) = tmp_path.rglob("narrow-*.json")
    assert json.loads(kept.read_text())["breaks"] in (True, False)


def test_the_answer_is_asked_once_a_machine_and_again_after_none(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ask = machine.narrow_channels_last_breaks.__wrapped__
    for words, breaks, kept in ([], True, 0), (["ready"], True, 1), (["ready", "right"], True, 1):
        monkeypatch.setattr(machine, "probe", lambda code, words=words: words)
        assert ask() is breaks
        assert len(list(tmp_path.rglob("narrow-*.json"))) == kept
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")  # other kernels, another answer
    assert ask() is False


def test_a_probe_that_crashes_says_what_it_printed_before_and_a_slow_one_is_ended(capfd):
    assert machine.probe("print('ready', flush=True); import os; os.write(2, b'double free'); os.abort()") == ["ready"]
    start = time.monotonic()
    assert machine.probe("print('ready', flush=True); import time; time.sleep(60)", timeout=0.5) == []
    assert time.monotonic() - start < 30
    assert capfd.readouterr() == ("", "")
