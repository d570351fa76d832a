"""Packs: the same images as the folder, whatever the files are; interrupted, changed and damaged packs."""

from __future__ import annotations

import io
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from small_runs import small_run

from hardlab import cli, train
from hardlab.data import load, packs
from hardlab.data.base import decode
from hardlab.types import HardlabError


@pytest.fixture(autouse=True)
def own_data_root(tmp_path, monkeypatch):
    monkeypatch.setenv("HARDLAB_DATA", str(tmp_path / "data root"))


def photo(seed: int, width: int, height: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Two splits of two classes with a file of each kind that people have."""
    top = tmp_path_factory.mktemp("drawn")
    train = top / "train"
    for i in range(4):
        save(photo(i, 130 + i, 110), train / "ant" / f"{i}.jpg", quality=90)
    save(photo(4, 700, 300), train / "ant" / "large.jpeg")
    save(photo(5, 1200, 400), train / "bee" / "larger.jpg", progressive=True)
    save(photo(6, 140, 120).convert("L"), train / "bee" / "grey.jpg")
    save(photo(7, 140, 120).convert("CMYK"), train / "bee" / "print.jpg")
    save(photo(8, 140, 120).convert("RGBA"), train / "bee" / "deeper" / "clear.png")
    save(photo(9, 120, 140), train / "bee" / "sharp.jpg", subsampling="4:4:4", quality=100)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated, which hardlab ignores
    save(photo(10, 150, 120), train / "bee" / "turned.jpg", exif=exif)
    for c in ("ant", "bee"):
        save(photo(11, 160, 120), top / "val" / c / "1.png")
    return top


@pytest.fixture
def top(drawn, tmp_path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "set"))


def packed(top: Path, **options) -> Path:
    out = top.parent / "pack"
    packs.write(top, out, **options)
    return out


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": 64},
        {"size": 128},
        {"max_side": 100},
        {"max_side": 640},
        {"split": "val"},
        {"split": "test"},
        {"held_out": 0.3},
        {"held_out": 0.3, "split": "test"},
        {"fraction": 0.5, "subset_seed": 3},
        {"classes": ["bee"]},
        {"on_broken": "skip"},
    ],
    ids=str,
)
def test_a_pack_gives_the_images_labels_names_and_digest_of_its_folder(top, options):
    a, b = load(f"folder:{top}", **options), load(f"pack:{packed(top)}", workers=3, **options)
    assert (a.classes, list(a.names), a.skipped, a.in_memory) == (b.classes, list(b.names), b.skipped, b.in_memory)
    assert torch.equal(a.targets, b.targets) and a.digest() == b.digest()
    order = torch.randperm(len(a), generator=torch.Generator().manual_seed(0)).split(2)
    pairs = list(zip(a.batches(order), b.batches(order), strict=True))
    assert len(pairs) == len(order)
    for x, y in pairs:
        for one, other in zip(x, y, strict=True):
            assert torch.equal(one, other) and one.stride() == other.stride()


def test_a_folder_without_splits_or_classes_is_packed_as_a_whole(tmp_path):
    for i in range(5):
        save(photo(i, 120, 100), tmp_path / "flat" / f"{i}.jpg")
    out = packed(tmp_path / "flat")
    a, b = load(f"folder:{tmp_path / 'flat'}"), load(f"pack:{out}")
    assert a.digest() == b.digest() and b.targets.tolist() == [-1] * 5
    with pytest.raises(HardlabError, match=r"pack has no split 'test', only images: data.held_out"):
        load(f"pack:{out}", "test")


def test_the_digest_of_more_than_two_gigabytes_covers_blocks_as_a_folder_s_does(top, monkeypatch):
    out = packed(top)
    whole = load(f"pack:{out}").digest()
    monkeypatch.setattr("hardlab.data.base.SMALL_BYTES", 1)
    monkeypatch.setattr("hardlab.data.base._BLOCK", 64)
    blocks = load(f"pack:{out}").digest()
    assert blocks == load(f"folder:{top}").digest() != whole


def test_only_files_that_the_quick_decoder_gives_as_pillow_does_are_left_to_it(top, monkeypatch):
    out = packed(top)
    rows = packs.read_pack(out, "train").pack
    quick = {rows.names[i] for i in range(len(rows)) if rows[i].quick}
    assert {f"ant/{i}.jpg" for i in range(4)} | {"ant/large.jpeg", "bee/sharp.jpg", "bee/turned.jpg"} <= quick
    assert "bee/deeper/clear.png" not in quick
    for i in range(len(rows)):
        with Image.open(top / "train" / rows.names[i]) as image:
            assert rows[i].shape == image.size[::-1]
    monkeypatch.setattr("hardlab.data.base.Image.open", lambda *a: pytest.fail("it was decoded by Pillow"))
    decode(rows[list(rows.names).index("ant/0.jpg")], 512)


def test_bytes_that_decode_differently_by_the_two_decoders_are_left_to_pillow():
    sink = io.BytesIO()
    photo(0, 64, 64).save(sink, "JPEG")
    pixels = np.asarray(Image.open(sink))
    assert packs._quickly(sink.getvalue(), pixels)
    assert not packs._quickly(sink.getvalue(), pixels ^ 1)
    assert not packs._quickly(b"no image", pixels)


def test_batches_are_the_same_with_any_number_of_threads_and_none_lives_on(top):
    out, before = packed(top), set(threading.enumerate())
    order = torch.arange(11)[torch.randperm(11, generator=torch.Generator().manual_seed(1))].split(4)
    batches = [[b.raw for b in load(f"pack:{out}", workers=n).batches(order)] for n in (0, 1, 5)]
    for one, other in zip(batches[0] * 2, batches[1] + batches[2], strict=True):
        assert torch.equal(one, other)
    begun = load(f"pack:{out}", workers=2).batches(order)
    next(begun)
    begun.close()
    assert set(threading.enumerate()) <= before


def test_a_run_trains_on_a_pack_as_on_its_folder(tmp_path):
    for i in range(64):
        save(photo(i, 104 + i % 3, 100), tmp_path / "set" / "train" / "ab"[i % 2] / f"{i}.jpg")
    out = packed(tmp_path / "set")
    weights = []
    for name in (f"folder:{tmp_path / 'set'}", f"pack:{out}"):
        run = small_run("simsiam", **{"data": name, "data.fraction": 1.0, "epochs": 1, "logs.monitor_every": 0})
        path = train.train(run, tmp_path / "runs")
        weights.append(train.reopen(path).method.state_dict())
    assert all(torch.equal(weights[1][key], value) for key, value in weights[0].items())


def slowly(folder: Path, out: Path) -> None:
    """Pack with many entries of the journal and pauses between them."""
    real = packs._synced

    def synced(file) -> None:
        real(file)
        time.sleep(0.02)

    packs._PIECE, packs._synced = 4, synced  # in a process of its own
    packs.write(folder, out, workers=1)


@pytest.mark.parametrize("after", [1, 5])
def test_a_pack_that_was_killed_goes_on_and_ends_byte_for_byte_as_without(tmp_path, after):
    for i in range(40):
        save(photo(i, 120 + i, 100), tmp_path / "set" / "train" / "ab"[i % 2] / f"{i:02}.jpg")
        save(photo(i, 120, 100 + i), tmp_path / "set" / "val" / "ab"[i % 2] / f"{i:02}.png")
    out, journal = tmp_path / "out", tmp_path / "out" / "train.journal"
    # a fork, because a new process would take seconds to load torch
    child = multiprocessing.get_context("fork").Process(target=slowly, args=(tmp_path / "set", out))
    child.start()
    until = time.monotonic() + 60
    while not (journal.exists() and journal.stat().st_size >= 4 * after * packs._ROW.itemsize):
        assert child.is_alive() and time.monotonic() < until
        time.sleep(0.002)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not (out / "pack.json").exists()
    with pytest.raises(HardlabError, match=r"is unfinished: `hardlab data pack .*set .*out` finishes it\."):
        load(f"pack:{out}")
    with open(out / "train.images", "ab") as f:
        f.write(b"more than is left, and unknown to the journal" * 20_000)
    with open(journal, "ab") as f:
        f.write(b"half a row")
    said: list[str] = []
    packs.write(tmp_path / "set", out, say=said.append)
    assert re.fullmatch(r"train: goes on after (\d+) of 40 images\.", said[0])
    assert 4 * after <= int(re.findall(r"\d+", said[0])[0]) < 40
    packs.write(tmp_path / "set", tmp_path / "other")
    files = {p.name: p.read_bytes() for p in out.iterdir()}
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "other").iterdir()}
    assert set(files) == {"pack.json", "train.images", "train.npz", "val.images", "val.npz"}


def test_bytes_that_were_lost_behind_an_intact_journal_are_packed_again(top, monkeypatch):
    out = top.parent / "pack"
    monkeypatch.setattr(packs, "_PIECE", 3)
    real = packs.files.write_atomic

    def stop(path: Path, content: bytes) -> None:
        if path.name == "train.npz":
            raise KeyboardInterrupt
        real(path, content)

    monkeypatch.setattr(packs.files, "write_atomic", stop)
    with pytest.raises(KeyboardInterrupt):
        packs.write(top, out)
    with open(out / "train.images", "r+b") as f:  # as a disk without power may leave it
        f.seek(2000)
        f.write(b"\0" * 500)
    monkeypatch.setattr(packs.files, "write_atomic", real)
    packs.write(top, out)
    assert load(f"pack:{out}").digest() == load(f"folder:{top}").digest()
    assert packs.check(out)["splits"]["train"]["images"] == 11


def test_an_unfinished_pack_of_files_that_changed_starts_over(top, monkeypatch):
    out = top.parent / "pack"
    monkeypatch.setattr(packs.np, "savez", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        packs.write(top, out)
    monkeypatch.undo()
    save(photo(20, 130, 110), top / "train" / "ant" / "0.jpg")
    said: list[str] = []
    packs.write(top, out, say=said.append)
    assert said == [f"The images have changed since {out} was begun: it starts over."]
    assert load(f"pack:{out}").digest() == load(f"folder:{top}").digest()


def test_a_finished_pack_stays_and_one_of_other_images_is_not_overwritten(top):
    out = packed(top)
    before = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    said: list[str] = []
    packs.write(top, out, say=said.append)
    assert said == [f"{out} is already packed."] and before == {p: p.stat().st_mtime_ns for p in out.iterdir()}
    save(photo(20, 130, 110), top / "train" / "ant" / "new.jpg")
    with pytest.raises(HardlabError, match="holds a pack of other images: name another folder, or delete it"):
        packs.write(top, out)
    with pytest.raises(HardlabError, match="holds other files: name a folder that does not exist yet"):
        packs.write(top, top)


def test_two_processes_do_not_pack_into_one_folder(top):
    out = top.parent / "pack"
    out.mkdir()
    with packs._alone(out), pytest.raises(HardlabError, match=f"Another process is packing into {out}"):
        packs.write(top, out)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace(old: str, new: str):
    return lambda path: path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("name", "damage", "sentence"),
    [
        ("train.images", cut, r"'.*train\.images' cannot be read, it is damaged .*has \d+ bytes instead of \d+\)\."),
        ("train.images", Path.unlink, r"the pack .* is incomplete: .*train\.images cannot be read \(No such file"),
        ("train.images", flip, r"'.*train\.images' cannot be read, it is damaged .*bytes of .* are not those"),
        ("train.npz", flip, r"'.*train\.npz' cannot be read, .*it is not the index that was written\)\."),
        ("train.npz", Path.unlink, r"the pack .* is incomplete: .*train\.npz cannot be read \(No such file"),
        ("pack.json", cut, None),
        ("pack.json", lambda p: cut(p) or cut(p), r"'.*pack\.json' cannot be read, it is damaged"),
        ("pack.json", replace('"train"', '"trian"'), r"'.*pack\.json' cannot be read, it is damaged"),
        ("pack.json", replace('"index"', '"idnex"'), r"'.*pack\.json' cannot be read, it is damaged"),
        ("pack.json", replace('"format": 1', '"format": 2'), r"has format 2, and this hardlab reads format 1"),
        ("pack.json", Path.unlink, r"is no pack: `hardlab data pack FOLDER .*` makes one of an image folder\."),
    ],
)  # fmt: skip
def test_a_damaged_pack_ends_in_one_sentence(top, name, damage, sentence):
    out = packed(top)
    damage(out / name)

    def use() -> None:
        for _ in load(f"pack:{out}", workers=2).all(3):
            pass

    if sentence is None:  # it was only the line's end
        use()
        return
    with pytest.raises(HardlabError, match=sentence) as e:
        use()
    assert "\n" not in str(e.value)
    if name == "train.images":
        checked = CliRunner().invoke(cli.cli, ["data", "check", str(out)])
        assert isinstance(checked.exception, HardlabError) and re.search(sentence, str(checked.exception))


def test_a_damaged_row_of_small_images_is_never_skipped_as_broken(tmp_path):
    for i in range(6):
        save(photo(i, 32, 32), tmp_path / "set" / "train" / "ab"[i % 2] / f"{i}.png")
    out = packed(tmp_path / "set")
    assert load(f"pack:{out}").in_memory
    flip(out / "train.images")
    with pytest.raises(HardlabError, match="are not those that were packed"):
        load(f"pack:{out}", root=None, on_broken="skip", broken_share=1.0, size=24)


def test_a_file_cut_short_while_it_is_read_is_an_error_and_not_a_signal(top):
    images = load(f"pack:{packed(top)}")
    os.truncate(top.parent / "pack" / "train.images", 100)
    with pytest.raises(HardlabError, match=r"train\.images' cannot be read, .*it ends within ant/0\.jpg\)"):
        next(images.all(2))


@pytest.mark.parametrize("kind", ["cut", "text", "pipe", "empty"])
def test_a_broken_image_is_refused_or_left_out_as_from_a_folder(top, kind):
    odd = top / "train" / "ant" / "0.jpg"
    content = odd.read_bytes()
    odd.unlink()
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.write_bytes({"cut": content[: len(content) // 2], "text": b"no image", "empty": b""}[kind])
    out = top.parent / "pack"
    with pytest.raises(HardlabError, match=rf"broken image {odd}: .*\(--skip-broken leaves such images out\)\."):
        packs.write(top, out)
    packs.write(top, out, skip_broken=True)
    a = load(f"folder:{top}", on_broken="skip", broken_share=0.2)
    b = load(f"pack:{out}")
    assert b.skipped == a.skipped == [str(odd)] and a.digest() == b.digest() and list(a.names) == list(b.names)


def test_more_broken_images_than_one_in_a_hundred_are_refused(top):
    for name in ("0.jpg", "1.jpg"):
        (top / "train" / "ant" / name).write_bytes(b"no image")
    with pytest.raises(HardlabError, match=r"broken image .*1\.jpg: .* \(more than 1 % are\)\."):
        packs.write(top, top.parent / "pack", skip_broken=True)


def test_the_command_packs_says_what_it_would_do_and_prints_what_it_did(top):
    out = top.parent / "p"
    dry = CliRunner().invoke(cli.cli, ["data", "pack", str(top), str(out), "--dry-run"])
    assert dry.exit_code == 0 and re.fullmatch(r"would pack 13 images, \S+ [kM]B, into \S+/p\n", dry.output)
    assert not out.exists()
    done = CliRunner().invoke(cli.cli, ["data", "pack", str(top), str(out)])
    assert done.exit_code == 0 and re.fullmatch(r"\S+/p: 13 images, \S+ [kM]B\n", done.output)
    checked = CliRunner().invoke(cli.cli, ["data", "check", str(out)])
    assert checked.exit_code == 0 and checked.output == done.output.replace("\n", ", all as packed\n")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_pack_in_shards_gives_the_images_of_its_folder_in_any_order(top, monkeypatch, elsewhere):
    pytest.importorskip("litdata")
    out = top.parent / "pack"
    made = CliRunner().invoke(cli.cli, ["data", "pack", str(top), str(out), "--shards", "1"])
    assert made.exit_code == 0, made.output
    assert (out / "train.shards" / "index.json").exists() and not list(out.glob("*.images"))
    if elsewhere:  # as in an object store
        for folder in out.glob("*.shards"):
            folder.rename(top.parent / folder.name)
        monkeypatch.setenv(packs.WHERE, str(top.parent))
    packs.check(out)
    a, b = load(f"folder:{top}", held_out=0.3), load(f"pack:{out}", workers=3, held_out=0.3)
    assert a.digest() == b.digest()
    order = torch.randperm(len(a), generator=torch.Generator().manual_seed(0)).split(2)
    for x, y in zip(a.batches(order), b.batches(order), strict=True):
        assert torch.equal(x.raw, y.raw) and torch.equal(x.index, y.index)


def test_shards_without_litdata_are_refused_in_one_sentence_before_anything_is_packed(top, monkeypatch):
    monkeypatch.setitem(sys.modules, "litdata", None)
    out = top.parent / "pack"
    done = CliRunner().invoke(cli.cli, ["data", "pack", str(top), str(out), "--shards", "64"])
    assert done.exit_code == 2 and "Shards need the package litdata: `pip install litdata`" in done.output
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("pack", "which pack"),
        ("pack:", "names no folder: write 'pack:<path>'"),
        ("pack:/nowhere", "/nowhere is no pack"),
    ],
)
def test_a_pack_that_is_not_named_or_not_there_is_refused(name, sentence):
    with pytest.raises(HardlabError, match=sentence):
        load(name)
