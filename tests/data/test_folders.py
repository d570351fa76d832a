"""Image folders as people have them: what programs leave in them, links, pipes, odd names, odd images, archives."""

import os
import socket
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hardlab.data import load
from hardlab.data.base import decode
from hardlab.evaluate.labels import labelled
from hardlab.types import HardlabError


@pytest.fixture(autouse=True)
def own_data_root(tmp_path, monkeypatch):
    monkeypatch.setenv("HARDLAB_DATA", str(tmp_path / "data root"))


def write(path: Path, size=(20, 20), colour=(200, 30, 60)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def top(tmp_path):
    """Two classes of three images."""
    for c in ("ant", "bee"):
        for i in range(3):
            write(tmp_path / "set" / "train" / c / f"{i}.png")
    return tmp_path / "set"


def seen(top: Path, split: str = "train") -> tuple[tuple[str, ...], list[str], list[int]]:
    data = load(f"folder:{top}", split)
    return data.classes, list(data.names), data.targets.tolist()


def test_what_programs_leave_in_a_folder_is_neither_class_nor_image(top):
    before = seen(top)
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git"):
        write(top / "train" / name / "x.png")
        write(top / "train" / "ant" / name / "x.png")
    (top / "train" / "cat").mkdir()
    (top / "train" / "dog" / "deeper").mkdir(parents=True)
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "readme.txt", "desktop.ini"):
        (top / "train" / "bee" / name).write_bytes(b"\0\5\x16\7")
    assert seen(top) == before


def test_a_class_of_another_split_counts_where_it_holds_an_image_at_any_depth(top):
    write(top / "val" / "aardvark" / "young" / "1.PNG")
    write(top / "val" / "ant" / "1.JPEG")
    (top / "val" / "cow").mkdir()
    assert seen(top)[0] == ("aardvark", "ant", "bee") and seen(top)[2] == [1, 1, 1, 2, 2, 2]
    assert seen(top, "val") == (("aardvark", "ant", "bee"), ["aardvark/young/1.PNG", "ant/1.JPEG"], [0, 1])


@pytest.mark.parametrize("target", ["..", "../..", "../../..", ".", "../bee", "/"])
def test_a_link_to_a_folder_that_holds_the_data_or_is_in_it_adds_nothing(top, target):
    before = seen(top)
    write(top / "val" / "ant" / "9.png")
    (top / "train" / "ant" / "again").symlink_to(target, target_is_directory=True)
    (top / "train" / "loop").symlink_to(target if target != "../bee" else "bee", target_is_directory=True)
    assert seen(top) == before


def test_links_to_folders_elsewhere_are_followed_each_folder_once_and_loops_end(top, tmp_path):
    write(tmp_path / "elsewhere" / "1.png")
    write(tmp_path / "elsewhere" / "more" / "2.png")
    (tmp_path / "elsewhere" / "more" / "loop").symlink_to("..", target_is_directory=True)
    for name in ("cat", "cat2"):
        (top / "train" / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    classes, names, targets = seen(top)
    assert classes == ("ant", "bee", "cat") and targets == [0] * 3 + [1] * 3 + [2] * 2
    assert names[-2:] == ["cat/1.png", "cat/more/2.png"]


def test_splits_may_be_links_to_each_other(top):
    (top / "val").symlink_to("train", target_is_directory=True)
    assert seen(top) == seen(top, "val")


@pytest.mark.parametrize("kind", ["pipe", "socket", "link to nothing", "link to itself", "device", "empty"])
@pytest.mark.parametrize("side", [20, 200])
def test_what_is_no_image_file_is_a_broken_image_and_never_waited_for(top, kind, side, monkeypatch):
    for c in ("ant", "bee"):
        for i in range(3):
            write(top / "train" / c / f"{i}.png", (side, side))
    odd = top / "train" / "ant" / "x.jpg"
    monkeypatch.chdir(odd.parent)  # a socket's path must be short
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as s:
            s.bind("x.jpg")
    elif kind == "pipe":
        os.mkfifo(odd)
    elif kind == "empty":
        odd.touch()
    else:
        odd.symlink_to({"link to nothing": "gone.jpg", "link to itself": "x.jpg", "device": "/dev/zero"}[kind])
    with pytest.raises(HardlabError, match=f"broken image {odd}: "):
        for _ in load(f"folder:{top}").all(7):
            pass
    data = load(f"folder:{top}", on_broken="skip", broken_share=0.5)
    assert data.skipped == [str(odd)] and len(data) == 6


def test_a_pipe_in_place_of_a_list_is_refused_and_not_waited_for(top, tmp_path):
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(HardlabError, match=r"cannot read the class list .*not a file"):
        load(f"folder:{top}", classes=tmp_path / "list.txt")
    with pytest.raises(HardlabError, match=r"list of labelled images .* cannot be read .*not a file"):
        labelled(load(f"folder:{top}"), 0.5, str(tmp_path / "list.txt"))


def test_a_folder_that_cannot_be_read_is_named(top, monkeypatch):
    real = os.scandir

    def scandir(path):
        if Path(path).name == "bee":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(HardlabError, match=r"the folder .*train/bee cannot be read: Permission denied"):
        load(f"folder:{top}")


def test_odd_names_are_read_and_named_in_one_printable_sentence(top):
    folder = os.fsencode(top / "train" / "ant")
    whole = (top / "train" / "ant" / "0.png").read_bytes()
    names = [b"two\nlines.png", b"caf\xe9.png", b" spaces .PNG", "ant\u200b.png".encode()]
    for name in names:
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(whole)
    data = load(f"folder:{top}")
    assert len(data) == 10 and len(data.digest()) == 64
    for name in names[:2]:
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(whole[:50])
    for _ in range(2):  # the second time from what is remembered
        with pytest.raises(HardlabError) as e:
            load(f"folder:{top}")
        assert str(e.value).isprintable() and "broken image" in str(e.value) and "\\udce9.png" in str(e.value)
    assert len(load(f"folder:{top}", on_broken="skip", broken_share=0.5)) == 8


@pytest.mark.parametrize("size", [(3000, 1), (1, 3000), (1, 1), (5000, 3), (2, 1)])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_images_of_any_shape_are_sound(tmp_path, size, suffix):
    path = write(tmp_path / f"x.{suffix}", size)
    whole = decode(path, 512)
    side = min(512, max(size)) / max(size)
    assert whole.shape == (*(max(1, round(s * side)) for s in reversed(size)), 3)
    assert decode(path, 512, size=40).shape == (40, 40, 3)
    for pixels in (whole, decode(path, 512, size=40)):
        assert np.abs(pixels.astype(int) - (200, 30, 60)).max() <= 4


def test_extreme_shapes_go_through_a_data_set_beside_others(top):
    write(top / "train" / "ant" / "flat.jpg", (3000, 1))
    data = load(f"folder:{top}")
    assert torch.cat([b.sizes for b in data.all(2)])[3].tolist() == [1, 512]


def pack(folder: Path, archive: Path, at: str) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(folder, at)


def test_an_archive_without_training_images_leaves_nothing_behind_that_blocks_the_right_one(top, tmp_path):
    root = tmp_path / "data root"
    archive = root / "cifar10-jpeg.tar.xz"
    (tmp_path / "hollow" / "train" / "ant").mkdir(parents=True)
    for folder, at in ((top / "train", "images"), (tmp_path / "hollow", "."), (top, "a/b")):
        pack(folder, archive, at)
        with pytest.raises(HardlabError, match=f"{archive} holds no images in train/<class>/"):
            load("cifar10-jpeg")
        assert os.listdir(root) == [archive.name]
    whole = archive.read_bytes()
    for damage in (whole[: len(whole) // 2], whole[:200] + bytes(40) + whole[240:], b"", b"text"):
        archive.write_bytes(damage)
        with pytest.raises(HardlabError, match=f"cannot unpack {archive}"):
            load("cifar10-jpeg")
        assert os.listdir(root) == [archive.name]
    pack(top, archive, ".")
    assert load("cifar10-jpeg").classes == ("ant", "bee")


def test_an_archive_with_one_more_folder_at_its_top_is_the_same_set(top, tmp_path):
    pack(top, tmp_path / "data root" / "cifar10-jpeg.tar.xz", "cifar10-jpeg")
    data = load("cifar10-jpeg")
    assert len(data) == 6 and (tmp_path / "data root" / "cifar10-jpeg" / "train" / "ant" / "0.png").is_file()


def test_a_folder_in_the_archives_place_is_named(top, tmp_path):
    pack(top, tmp_path / "data root" / "cifar10-jpeg.tar.xz", ".")
    left = write(tmp_path / "data root" / "cifar10-jpeg" / "images" / "x.png").parents[1]
    with pytest.raises(HardlabError, match=f"{left} has no train/ folder.*remove it"):
        load("cifar10-jpeg")


@pytest.mark.parametrize("name", ["#recycle", "@Recycle", "#snapshot", "$RECYCLE.BIN", ".Trash-0"])
def test_what_network_storage_keeps_of_deleted_files_is_no_class(name, top):
    before = seen(top)
    write(top / "train" / name / "ant" / "0.png")
    assert seen(top) == before


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".pbm", ".tga"])
def test_an_image_is_read_by_any_name_that_its_format_has(suffix, top):
    file = top / "train" / "ant" / f"9{suffix}"
    mode, kind = {".pbm": ("1", "PPM"), ".tga": ("RGB", "TGA")}.get(suffix, ("RGB", "JPEG"))
    Image.new(mode, (20, 20), 1).save(file, kind)
    assert seen(top)[1][3] == f"ant/9{suffix}"


@pytest.mark.parametrize("suffix", [".heic", ".HEIF", ".jxl"])
def test_an_image_that_cannot_be_read_is_broken_and_not_merely_absent(suffix, top):
    file = top / "train" / "ant" / f"9{suffix}"
    file.write_bytes(b"\0\0\0\x18ftypmif1")
    with pytest.raises(HardlabError, match=f"broken image .*9{suffix}"):
        list(load(f"folder:{top}").all(2))
    data = load(f"folder:{top}", on_broken="skip", broken_share=0.5)
    assert data.skipped == [str(file)] and len(data) == 6


def test_an_accent_beside_its_letter_makes_no_class_of_its_own(top):
    for split, form in (("train", "NFC"), ("train", "NFD"), ("val", "NFD")):
        write(top / split / unicodedata.normalize(form, "été") / f"{form}.png")
    classes, _, labels = seen(top)
    assert classes == ("ant", "bee", unicodedata.normalize("NFC", "été")) and labels[-2:] == [2, 2]
    assert seen(top, "val")[0] == classes and seen(top, "val")[2] == [2]
    named = [unicodedata.normalize("NFD", "été"), "ant"]
    assert load(f"folder:{top}", classes=named).targets.tolist() == [1, 1, 1, 0, 0]


def test_whole_numbers_of_32_bits_have_no_range_and_those_of_16_have_theirs(top, tmp_path):
    Image.fromarray(np.full((20, 20), 200, np.int32)).save(top / "train" / "ant" / "32.tif")
    with pytest.raises(HardlabError, match=r"32\.tif: an image of 32-bit numbers has no agreed range"):
        list(load(f"folder:{top}").all(2))
    for kind in ("png", "tif"):
        Image.fromarray(np.full((20, 20), 200 * 256, np.uint16)).save(tmp_path / f"16.{kind}")
        assert (decode(tmp_path / f"16.{kind}", 64) == 200).all()
    (tmp_path / "16.pgm").write_bytes(b"P5 1 1 65535\n" + (200 * 256).to_bytes(2, "big"))
    assert (decode(tmp_path / "16.pgm", 64) == 200).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (Path("/tmp"), {}, "is named by text"),
        (b"digits", {}, "is named by text"),
        (None, {}, "is named by text"),
        ("folder:", {}, "names no folder"),
        ("folder", {"root": 3}, "root=3 is no path"),
        ("digits", {"split": None}, "unknown split of digits None"),
        ("digits", {"classes": [0]}, "unknown class 0"),
        ("digits", {"classes": [None]}, "unknown class None"),
        ("digits", {"classes": b"0"}, "unknown class 48"),
        ("digits", {"on_broken": None}, "on_broken must be"),
        ("digits", {"device": "meta"}, "images cannot lie on the device 'meta'"),
        ("digits", {"device": "nonsense"}, "images cannot lie on the device 'nonsense'"),
        ("digits", {"device": "cuda:99"}, "device 'cuda:99' is not available"),
        ("digits", {"workers": 60000}, "workers must be a whole number from 0 to 256"),
    ],
)
def test_an_argument_of_another_kind_is_refused_in_one_sentence(name, options, message):
    with pytest.raises(HardlabError, match=message) as e:
        load(name, **options)
    assert "\n" not in str(e.value)


def test_a_folder_may_be_given_as_bytes_and_a_class_may_have_a_line_end(top):
    assert load("folder", root=os.fsencode(top)).digest() == load(f"folder:{top}").digest()
    write(top / "train" / "a\nb" / "0.png")
    with pytest.raises(HardlabError, match="unknown class 'c'") as e:
        load(f"folder:{top}", classes=["c"])
    assert "\n" not in str(e.value)


def test_a_class_whose_name_is_no_text_is_refused_and_a_file_is_read(top):
    write(top / "train" / "ant" / os.fsdecode(b"\xff.png"))
    assert len(load(f"folder:{top}")) == 7
    write(top / "train" / os.fsdecode(b"\xff") / "0.png")
    with pytest.raises(HardlabError, match=r"the name of the class \\udcff in .* is not UTF-8"):
        load(f"folder:{top}")
