"""Images of any origin: exact order, subsets, image folders, broken files, caches, names."""

import io
import os
import stat
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from hardlab.data import base, load
from hardlab.data.base import Pixels, Source, data_root, decode, stratified
from hardlab.types import HardlabError

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_data_root(tmp_path, monkeypatch):
    monkeypatch.setenv("HARDLAB_DATA", str(tmp_path / "data root"))


def picture(height, width, seed, mode="RGB"):
    """A smooth random image, so that JPEG and resizing keep it recognisable."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR).convert(mode)


def make_folder(top, split="train", classes=("ant", "bee"), count=4, side=lambda i: (20, 20), suffix="png"):
    for k, c in enumerate(classes):
        (top / split / c).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture(*side(i), seed=100 * k + i).save(top / split / c / f"{i:02}.{suffix}")
    return top


def varied(i):
    return (100 + 10 * i, 130 - 10 * i)


# ------------------------------------------------------------------------------------------ order and batches


@pytest.mark.parametrize("workers", [0, 2])
def test_large_images_come_in_exactly_the_order_asked_for_padded_with_true_sizes(tmp_path, workers):
    data = load(f"folder:{make_folder(tmp_path / 'a folder', side=varied)}", workers=workers)
    assert not data.in_memory
    order = torch.tensor([[7, 0, 3], [2, 2, 5], [1, 6, 4]])
    before = torch.random.get_rng_state()
    batches = list(data.batches(order))
    assert torch.equal(torch.random.get_rng_state(), before), "an exact resume needs the random state left alone"
    assert [b.index.tolist() for b in batches] == order.tolist()
    for b in batches:
        assert b.raw.dtype == torch.uint8
        assert tuple(b.raw.shape[2:]) == tuple(b.sizes.amax(0).tolist())
        for raw, (h, w), i in zip(b.raw, b.sizes.tolist(), b.index.tolist()):
            path = tmp_path / "a folder" / "train" / ("ant" if i < 4 else "bee") / f"{i % 4:02}.png"
            truth = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
            assert torch.equal(raw[:, :h, :w], truth)
            assert not raw[:, h:].any() and not raw[:, :, w:].any()


@pytest.mark.parametrize("side", [lambda i: (20, 20), varied], ids=["in memory", "decoded"])
def test_the_rest_of_an_order_gives_the_rest_of_the_batches_and_all_gives_each_row_once(tmp_path, side):
    data = load("folder", root=make_folder(tmp_path, side=side))
    order = torch.randperm(8).view(4, 2)
    full, rest = list(data.batches(order)), list(data.batches(order[2:]))
    assert len(rest) == 2
    for a, b in zip(full[2:], rest):
        assert torch.equal(a.raw, b.raw) and torch.equal(a.index, b.index) and torch.equal(a.sizes, b.sizes)
    once = list(data.all(3))
    assert [len(b.raw) for b in once] == [3, 3, 2]
    assert torch.cat([b.index for b in once]).tolist() == list(range(8))


def test_small_images_of_one_size_are_held_in_memory_and_equal_their_files(tmp_path):
    data = load("folder", root=make_folder(tmp_path))
    assert data.in_memory
    (batch,) = data.batches(torch.tensor([[5, 1]]))
    assert batch.sizes.tolist() == [[20, 20], [20, 20]]
    for raw, path in zip(batch.raw, ["bee/01.png", "ant/01.png"]):
        np.testing.assert_array_equal(raw.permute(1, 2, 0), np.array(Image.open(tmp_path / "train" / path)))


def test_small_images_that_are_too_many_for_the_device_come_in_the_same_batches(tmp_path, monkeypatch):
    top, order = make_folder(tmp_path), torch.randperm(8).view(4, 2)
    on_device = load("folder", root=top)
    monkeypatch.setattr(base, "SMALL_BYTES", on_device.pixels.numel())
    on_host = Pixels(
        "toy", "train", Source(("ant", "bee"), on_device.targets.numpy(), list(on_device.names)), [],
        label_map=np.arange(2), device="cpu", size=None, pixels=on_device.pixels.permute(0, 2, 3, 1).numpy(),
    )  # fmt: skip
    assert on_device.in_memory and not on_host.in_memory
    threads = threading.active_count()
    for a, b in zip(on_device.batches(order), on_host.batches(order), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    batches = on_host.batches(order)
    next(batches)
    batches.close()  # a run that ends in mid-epoch
    assert threading.active_count() == threads


def test_one_image_of_another_size_among_small_ones_sends_the_set_to_the_decoder(tmp_path):
    make_folder(tmp_path, count=50)
    picture(20, 21, 0).save(tmp_path / "train/bee/33.png")  # not among the headers that are probed
    data = load("folder", root=tmp_path)
    assert not data.in_memory and len(data) == 100
    (batch,) = data.batches(torch.tensor([[83, 0]]))
    assert batch.sizes.tolist() == [[20, 21], [20, 20]]


def test_size_fits_the_centred_square_and_max_side_shrinks_the_whole(tmp_path):
    make_folder(tmp_path, classes=("ant",), side=lambda i: (200, 100 + 200 * (i % 2)), suffix="jpg")
    fitted = load("folder", root=tmp_path, size=40)
    assert fitted.in_memory and fitted.pixels.shape == (4, 3, 40, 40)
    for i, (w, h) in enumerate([(100, 200), (300, 200)] * 2):
        image = Image.open(tmp_path / f"train/ant/{i:02}.jpg").convert("RGB")
        short = min(w, h)
        square = image.crop(((w - short) / 2, (h - short) / 2, (w + short) / 2, (h + short) / 2))
        expected = np.array(square.resize((40, 40), Image.Resampling.BILINEAR), int)
        assert np.abs(fitted.pixels[i].permute(1, 2, 0).numpy() - expected).max() <= 4, "but for decoding at half scale"
    shrunk = load("folder", root=tmp_path, max_side=50)
    sizes = torch.cat([b.sizes for b in shrunk.all(4)]).tolist()
    assert sizes == [[50, 25], [33, 50], [50, 25], [33, 50]]


# ------------------------------------------------------------------------------------------ folders


def test_splits_stand_in_for_each_other_and_a_class_missing_in_one_shifts_no_label(tmp_path):
    make_folder(tmp_path, "train", ("ant", "bee", "cat"))
    make_folder(tmp_path, "val", ("cat",), count=2)
    data = load("folder", "test", root=tmp_path)
    assert data.classes == ("ant", "bee", "cat") and data.targets.tolist() == [2, 2]
    assert load("folder", root=tmp_path).targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    with pytest.raises(HardlabError, match="did you mean 'train'"):
        load("folder", "trian", root=tmp_path)


def test_images_without_class_folders_have_the_label_minus_one(tmp_path):
    make_folder(tmp_path, classes=(".",))
    data = load(f"folder:{tmp_path}")
    assert data.targets.tolist() == [-1] * 4 and data.classes == ()


def test_a_folder_that_is_no_image_folder_is_told_what_is_expected(tmp_path):
    with pytest.raises(HardlabError, match="does not exist; expected there: train/<class>/"):
        load(f"folder:{tmp_path / 'nowhere'}")
    (tmp_path / "train" / "ant").mkdir(parents=True)
    with pytest.raises(HardlabError, match="holds no image"):
        load(f"folder:{tmp_path}")
    with pytest.raises(HardlabError, match="which folder"):
        load("folder")
    with pytest.raises(HardlabError, match="give the folder once"):
        load(f"folder:{tmp_path}", root=tmp_path)


def test_a_class_list_chooses_and_orders_the_labels_from_a_list_or_a_file(tmp_path):
    make_folder(tmp_path, classes=("n01", "n02", "n03"), count=2)
    (tmp_path / "few.txt").write_text("# a subset\nn03 great grey owl\n\nn01\n")
    for classes in (["n03", "n01"], str(tmp_path / "few.txt"), tmp_path / "few.txt"):
        data = load("folder", root=tmp_path, classes=classes)
        assert data.classes == ("n03", "n01") and data.targets.tolist() == [1, 1, 0, 0]
    for wrong, message in ((["n30"], "'n30'.*did you mean 'n03'"), (["n01", "n01"], "twice"), ([], "empty")):
        with pytest.raises(HardlabError, match=message):
            load("folder", root=tmp_path, classes=wrong)
    with pytest.raises(HardlabError, match="cannot read the class list"):
        load("folder", root=tmp_path, classes=str(tmp_path / "none.txt"))


def test_imagenet_is_read_from_its_folders_and_asked_for_where_it_is_missing(tmp_path):
    with pytest.raises(HardlabError, match=r"train/<wnid>/\*\.JPEG.*imagenet"):
        load("imagenet", root=tmp_path)
    make_folder(tmp_path / "imagenet", "train", ("n01440764", "n01443537"), side=varied, suffix="JPEG")
    make_folder(tmp_path / "imagenet", "val", ("n01440764", "n01443537"), count=1, suffix="JPEG")
    assert load("imagenet", root=tmp_path).classes == ("n01440764", "n01443537")
    assert len(load("imagenet", "test", root=tmp_path)) == len(load("imagenet", "val", root=tmp_path / "imagenet")) == 2


# ------------------------------------------------------------------------------------------ subsets


def test_a_fraction_takes_its_share_of_every_class_and_smaller_ones_lie_in_larger_ones():
    targets = np.random.default_rng(1).permutation(np.repeat([-1, 0, 1, 2], [40, 31, 100, 57]))
    earlier: set[int] = set()
    for fraction in (0.05, 0.1, 0.2, 0.5, 1.0):
        rows = stratified(targets, fraction, seed=3)
        assert rows.tolist() == sorted(set(rows.tolist())) and earlier <= set(rows.tolist())
        for c in (-1, 0, 1, 2):
            assert abs((targets[rows] == c).sum() - fraction * (targets == c).sum()) <= 0.5
        earlier = set(rows.tolist())
    assert len(earlier) == len(targets)


def test_a_subset_is_the_same_every_time_and_another_seed_gives_another():
    a, b, c = (load("shapes", count=200, fraction=0.3, subset_seed=s) for s in (0, 0, 1))
    assert a.digest() == b.digest() != c.digest()
    assert torch.bincount(a.targets).tolist() == [6] * 10
    full = {p.tobytes() for p in load("shapes", count=200).pixels.numpy()}
    assert {p.tobytes() for p in a.pixels.numpy()} <= full


@pytest.mark.parametrize("fraction", [0, 1.5, -0.1])
def test_a_fraction_that_is_none_is_refused(fraction):
    with pytest.raises(HardlabError, match=f"not {fraction}"):
        load("shapes", count=20, fraction=fraction)


def test_a_fraction_too_small_for_a_class_names_the_class_and_what_would_do(tmp_path):
    make_folder(tmp_path, classes=("ant",), count=20)
    make_folder(tmp_path, classes=("bee",), count=4)
    with pytest.raises(HardlabError, match=r"no image of class 'bee', which has 4: use at least 0\.125"):
        load("folder", root=tmp_path, fraction=0.1)
    assert load("folder", root=tmp_path, fraction=0.125).targets.tolist() == [0, 0, 0, 1]


# ------------------------------------------------------------------------------------------ odd and broken files


def odd_files(where):
    """name -> (file, the RGB pixel expected in its top left corner)."""
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(ramp).save(where / "grey16.png")
    Image.fromarray(ramp).save(where / "grey16.tif")
    picture(16, 16, 0, "L").save(where / "grey.jpg")
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(where / "cmyk.jpg", quality=95)
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.save(where / "palette.png", transparency=b"\xff\x80")
    Image.new("RGBA", (16, 16), (9, 8, 7, 0)).save(where / "clear.png")
    Image.new("1", (16, 16), 1).save(where / "bits.png")
    frames = [Image.new("RGB", (16, 16), c) for c in ((250, 0, 0), (0, 250, 0))]
    frames[0].save(where / "moving.gif", save_all=True, append_images=frames[1:])
    corner = picture(16, 16, 0, "L").getpixel((0, 0))
    return {
        "grey16.png": (0, 0, 0),
        "grey16.tif": (0, 0, 0),
        "grey.jpg": (corner,) * 3,
        "cmyk.jpg": (255, 0, 0),
        "palette.png": (10, 200, 30),
        "clear.png": (9, 8, 7),
        "bits.png": (255, 255, 255),
        "moving.gif": (250, 0, 0),
    }


def test_every_kind_of_pixel_becomes_eight_bit_rgb(tmp_path):
    for name, corner in odd_files(tmp_path).items():
        pixels = decode(tmp_path / name, max_side=512)
        assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8
        assert np.abs(pixels[0, 0].astype(int) - corner).max() <= 8, name
    for name in ("grey16.png", "grey16.tif"):
        np.testing.assert_array_equal(decode(tmp_path / name, 512)[..., 1].ravel(), np.arange(256))


def break_some(top):
    """Break four files of an image folder, each in its own way; their paths."""
    paths = [top / "train" / "ant" / f"{i:02}.jpg" for i in range(4)]
    whole = paths[0].read_bytes()
    paths[0].write_bytes(b"")
    paths[1].write_bytes(whole[: len(whole) // 2])
    paths[2].write_bytes(b"this is text, not a picture")
    Image.new("F", (20, 20)).save(paths[3], "TIFF")
    return paths


@pytest.mark.parametrize("side", [lambda i: (20, 20), lambda i: (200, 100 + i)], ids=["in memory", "decoded"])
def test_broken_files_are_skipped_counted_and_remembered(tmp_path, side, monkeypatch):
    top = make_folder(tmp_path / "set", count=10, side=side, suffix="jpg")
    broken = [str(p) for p in break_some(top)]
    data = load("folder", root=top, on_broken="skip", broken_share=0.2)
    assert data.in_memory == (side(0) == (20, 20))
    assert data.skipped == broken and len(data) == 16
    assert data.targets.tolist() == [0] * 6 + [1] * 10
    pixels = torch.cat([b.raw for b in data.all(5)]) if data.in_memory else next(data.batches(torch.tensor([[0]]))).raw
    np.testing.assert_array_equal(pixels[0].permute(1, 2, 0), np.array(Image.open(top / "train/ant/04.jpg")))

    monkeypatch.setattr("hardlab.data.base.decode", lambda *a: pytest.fail("decoded again"))
    again = load("folder", root=top, on_broken="skip", broken_share=0.2)
    assert again.skipped == broken and again.digest() == data.digest()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_met_while_decoding_raises_one_sentence_with_its_path(tmp_path, workers):
    top = make_folder(tmp_path, count=5, side=lambda i: (200, 100 + i), suffix="jpg")
    path = break_some(top)[1]
    data = load("folder", root=top, workers=workers)
    assert [b.index.tolist() for b in data.batches(torch.tensor([[4, 5]]))] == [[4, 5]], "whole ones can be read"
    with pytest.raises(HardlabError) as e:
        list(data.batches(torch.tensor([[4], [1]])))
    assert str(e.value).startswith(f"broken image {path}") and "\n" not in str(e.value)


def test_a_broken_file_among_small_ones_raises_at_load_also_from_the_cache(tmp_path):
    top = make_folder(tmp_path, count=10, suffix="jpg")
    paths = break_some(top)
    load("folder", root=top, on_broken="skip", broken_share=0.5)
    with pytest.raises(HardlabError, match=f"{paths[0]}.*on_broken='skip'"):
        load("folder", root=top)


def test_too_many_broken_files_stop_the_load_with_their_share(tmp_path):
    top = make_folder(tmp_path, count=10, suffix="jpg")
    paths = break_some(top)
    with pytest.raises(HardlabError, match=f"4 of 20 images .* broken_share=0.19 allows: broken image {paths[0]}"):
        load("folder", root=top, on_broken="skip", broken_share=0.19)


def test_a_set_of_nothing_but_broken_files_is_no_set(tmp_path):
    top = make_folder(tmp_path, classes=("ant",), count=4, suffix="jpg")
    break_some(top)
    with pytest.raises(HardlabError, match="every image of folder/train is broken"):
        load("folder", root=top, on_broken="skip", broken_share=1.0)


def test_a_file_that_is_gone_and_a_decompression_bomb_are_broken_images(tmp_path, monkeypatch):
    with pytest.raises(HardlabError, match=r"broken image .*gone\.jpg"):
        decode(tmp_path / "gone.jpg", 512)
    Image.new("1", (3000, 3000)).save(tmp_path / "huge.png")
    assert decode(tmp_path / "huge.png", 64).shape == (64, 64, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(HardlabError, match=r"broken image .*huge\.png.*exceeds limit"):
        decode(tmp_path / "huge.png", 64)


# ------------------------------------------------------------------------------------------ caches, digests, names


def test_a_changed_file_is_decoded_again(tmp_path):
    make_folder(tmp_path)
    before = load("folder", root=tmp_path)
    picture(20, 20, 999).save(tmp_path / "train/ant/00.png")
    os.utime(tmp_path / "train/ant/00.png", (1, 1))
    after = load("folder", root=tmp_path)
    assert not torch.equal(before.pixels[0], after.pixels[0]) and torch.equal(before.pixels[1:], after.pixels[1:])


@pytest.mark.parametrize("side", [lambda i: (20, 20), varied], ids=["in memory", "decoded"])
def test_the_digest_tells_pixels_labels_order_and_classes_apart_but_not_the_place(tmp_path, side):
    a, b, c = (make_folder(tmp_path / n, side=side) for n in ("a", "b", "c"))
    digest = load("folder", root=a).digest()
    assert len(digest) == 64 and load("folder", root=b).digest() == digest
    (c / "train/bee").rename(c / "train/bug")
    others = [
        load("folder", root=c),
        load("folder", root=a, fraction=0.5),
        load("folder", root=a, classes=["bee", "ant"]),
        load("folder", root=a, size=16),
    ]
    (b / "train/ant/00.png").write_bytes((b / "train/bee/01.png").read_bytes() + b"\0")
    others.append(load("folder", root=b))
    assert len({digest, *(o.digest() for o in others)}) == 6


def test_the_data_root_is_the_argument_else_the_variable_else_the_users_cache(tmp_path, monkeypatch):
    assert data_root(tmp_path / "x") == tmp_path / "x"
    assert data_root() == tmp_path / "data root"
    monkeypatch.delenv("HARDLAB_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert data_root() == tmp_path / "c" / "hardlab"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "h"))
    assert data_root() == tmp_path / "h" / ".cache" / "hardlab"


def test_built_in_data_need_neither_a_home_nor_a_data_root():
    env = {k: v for k, v in os.environ.items() if k not in ("HOME", "HARDLAB_DATA", "XDG_CACHE_HOME")}
    env |= {"XDG_CACHE_HOME": "/proc/nothing can be made here", "PYTHONPATH": str(REPO)}
    code = "from hardlab.data import load; print(len(load('shapes', count=30)))"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["30"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar", {}, "unknown data set 'cifar'.*did you mean 'cifar10'"),
        ("Shapes", {}, "did you mean 'shapes'"),
        ("shapes", {"on_broken": "ignore"}, "'error' or 'skip'"),
        ("shapes", {"max_side": 0}, "max_side must be a whole number from 1"),
        ("shapes", {"workers": -1}, "workers must be a whole number from 0"),
        ("digits", {"subset_seed": -1}, "subset_seed must be a whole number from 0"),
        ("digits", {"subset_seed": 1.5}, "subset_seed must be"),
        ("digits", {"fraction": float("nan")}, "fraction must be a finite number above 0"),
        ("digits", {"size": float("inf")}, "size must be a whole number from 1 to 4096, or null, not inf"),
        ("digits", {"broken_share": -1}, "broken_share must be"),
        ("shapes", {"count": 1.5}, "count of shapes must be a whole number"),
        ("shapes", {"objects": 5}, "objects of shapes must be a whole number from 1 to 4"),
        ("shapes", {"seed": -1}, "seed of shapes must be"),
        ("digits", {"split": "val"}, "unknown split of digits 'val'"),
        ("digits", {"count": 5}, "digits has no option 'count'"),
        ("digits", {"classes": ["ten"]}, "unknown class 'ten'"),
    ],
)
def test_a_wrong_word_is_told_with_what_is_allowed(name, options, message):
    with pytest.raises(HardlabError, match=message):
        load(name, **options)


def test_a_set_without_boxes_says_which_have_them():
    with pytest.raises(HardlabError, match="digits has no boxes"):
        load("digits").scene(0)


# ------------------------------------------------------------------------------------------ digits, CIFAR-10 as JPEG


def test_digits_are_scikit_learns_enlarged_and_split_without_overlap():
    train, test = load("digits", size=8), load("digits", "test", size=8)
    bunch = load_digits()
    expected = sorted(
        (np.round(i * 255 / 16).astype(np.uint8).tobytes(), int(t)) for i, t in zip(bunch.images, bunch.target)
    )
    actual = [(p[0].numpy().tobytes(), int(t)) for d in (train, test) for p, t in zip(d.pixels, d.targets)]
    assert sorted(actual) == expected
    assert all(torch.equal(d.pixels[:, 0], d.pixels[:, c]) for d in (train, test) for c in (1, 2))
    for c in range(10):
        share = (train.targets == c).sum() / (bunch.target == c).sum()
        assert 0.8 <= share < 0.81
    large = load("digits", "test")
    assert large.pixels.shape == (len(test), 3, 32, 32) and large.in_memory
    probe = LogisticRegression(max_iter=100).fit(train.pixels[:, 0].flatten(1) / 255, train.targets)
    assert probe.score(test.pixels[:, 0].flatten(1) / 255, test.targets) > 0.93


def make_archive(top, extra=None):
    make_folder(top / "raw", "train", ("cat", "dog"), side=lambda i: (32, 32), suffix="jpg")
    make_folder(top / "raw", "test", ("cat", "dog"), count=2, side=lambda i: (32, 32), suffix="jpg")
    archive = top / "cifar10-jpeg.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        for split in ("train", "test"):
            tar.add(top / "raw" / split, split)
        if extra:
            tar.addfile(tarfile.TarInfo(extra), io.BytesIO())
    return archive


def test_the_jpeg_archive_is_unpacked_once_and_found_in_every_way(tmp_path, monkeypatch):
    archive = make_archive(tmp_path)
    monkeypatch.setattr("hardlab.data.folders._CHECKOUT", tmp_path / "checkout")
    with pytest.raises(HardlabError, match=r"put cifar10-jpeg\.tar\.xz into"):
        load("cifar10-jpeg")
    unpacked = tmp_path / "data root" / "cifar10-jpeg"
    data = load("cifar10-jpeg", root=archive)
    assert len(data) == 8 and data.in_memory and data.classes == ("cat", "dog")
    assert [p.name for p in unpacked.parent.iterdir() if "cifar10" in p.name] == ["cifar10-jpeg"], "no scratch folder"
    assert stat.S_IMODE(unpacked.stat().st_mode) == 0o755
    archive.unlink()
    for root in (None, unpacked, unpacked.parent, tmp_path / "raw", archive):  # the unpacked copy does without it
        assert load("cifar10-jpeg", "test", root=root).targets.tolist() == [0, 0, 1, 1]


def test_an_archive_beside_the_checkout_is_found(tmp_path, monkeypatch):
    (tmp_path / "shared" / "data").mkdir(parents=True)
    make_archive(tmp_path).rename(tmp_path / "shared" / "data" / "cifar10-jpeg.tar.xz")
    monkeypatch.setattr("hardlab.data.folders._CHECKOUT", tmp_path / "checkout")
    assert len(load("cifar10-jpeg", "test")) == 4


@pytest.mark.parametrize("damage", ["truncated", "outside"])
def test_an_archive_that_is_damaged_or_reaches_outside_leaves_nothing_behind(tmp_path, damage):
    archive = make_archive(tmp_path, extra="../outside.txt" if damage == "outside" else None)
    if damage == "truncated":
        archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(HardlabError, match="cannot unpack"):
        load("cifar10-jpeg", root=archive)
    assert list((tmp_path / "data root").iterdir()) == []


def real_cifar():
    named = os.environ.get("HARDLAB_CIFAR_JPEG")
    archive = REPO.parent / "shared" / "data" / "cifar10-jpeg.tar.xz"
    return named or (str(archive) if archive.is_file() else None)


@pytest.mark.slow
@pytest.mark.skipif(real_cifar() is None, reason="neither HARDLAB_CIFAR_JPEG nor ../shared/data/cifar10-jpeg.tar.xz")
def test_the_real_cifar10_archive_gives_its_ten_thousand_test_images():
    data = load("cifar10-jpeg", "test", root=real_cifar())
    assert len(data) == 10000 and data.in_memory and data.pixels.shape[1:] == (3, 32, 32)
    assert torch.bincount(data.targets).tolist() == [1000] * 10
    assert data.classes[0] == "airplane" and data.classes[9] == "truck"
    assert load("cifar10-jpeg", "test", root=real_cifar()).digest() == data.digest()
