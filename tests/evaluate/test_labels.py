"""The labelled images of semi-supervised protocols."""

from __future__ import annotations

import pytest
import torch

from hardlab import data
from hardlab.data.base import stratified
from hardlab.evaluate.labels import LISTS, labelled
from hardlab.types import HardlabError


@pytest.mark.parametrize("name", [pytest.param("shapes", marks=pytest.mark.slow), "digits"])
def test_the_lists_of_the_built_in_sets_are_balanced_and_nested(name):
    images = data.load(name)
    one, ten = labelled(images, 0.01), labelled(images, 0.1)
    assert set(one.tolist()) < set(ten.tolist())
    for rows, share in ((one, 0.01), (ten, 0.1)):
        count = torch.bincount(images.targets[rows], minlength=10)
        assert (count - share * torch.bincount(images.targets)).abs().max() <= 0.5
    assert torch.equal(labelled(images, 1.0), torch.arange(len(images)))
    assert {p.name for p in LISTS.glob(f"{name}-*.txt")} == {f"{name}-1.txt", f"{name}-10.txt"}


class Named:
    def __init__(self, name, names, targets):
        self.name, self.names, self.targets, self.split = name, names, torch.tensor(targets), "train"
        self.classes = ("a", "b")


def test_simclrs_list_of_file_names_is_read_beside_imagenet(tmp_path):
    images = Named("imagenet", ["n1/n1_5.JPEG", "n1/n1_7.JPEG", "n2/n2_1.JPEG"], [0, 0, 1])
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet" / "1percent.txt").write_text("n2_1.JPEG\nn1_7.JPEG\n")
    assert labelled(images, 0.01, root=tmp_path).tolist() == [1, 2]
    with pytest.raises(HardlabError, match=r"10percent\.txt cannot be read"):
        labelled(images, 0.1, root=tmp_path)
    (tmp_path / "mine.txt").write_text("n1_5.JPEG\nn3_1.JPEG\n")
    with pytest.raises(HardlabError, match=r"mine\.txt names 'n3_1\.JPEG', which imagenet, split train"):
        labelled(images, 0.1, str(tmp_path / "mine.txt"))


def test_any_other_set_gives_a_balanced_share_that_is_the_same_at_every_call():
    images = Named("mine", [str(i) for i in range(200)], [0, 1] * 100)
    rows = labelled(images, 0.1)
    assert rows.tolist() == stratified(images.targets.numpy(), 0.1, 0).tolist() and len(rows) == 20
    for share in (0.0, 1.5):
        with pytest.raises(HardlabError, match="is not a share of the labels"):
            labelled(images, share)
