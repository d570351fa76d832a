"""Supervised training against torch's cross-entropy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from steps import after, rendered
from toy import images

from hardlab import nets
from hardlab.methods.supervised import Supervised
from hardlab.types import HardlabError


def test_supervised_loss_is_the_cross_entropy_of_the_labels_and_zero_without_one():
    net = Supervised(nets.Tiny(width=4))
    data = images()
    net.on_start(data, 4)
    index = torch.tensor([5, 0, 7, -1])
    out = net(rendered(torch.randn(4, 1, 3, 16, 16), index))
    expected = F.cross_entropy(out.q[0][:3], data.targets[index[:3]], reduction="none")
    assert torch.allclose(out.loss[:3], expected)
    assert out.loss[3] == 0
    assert out.q[0].shape == (4, 3)
    assert net.logs(after(net, out))["accuracy"] == float((out.q[0].argmax(1)[:3] == data.targets[index[:3]]).sum() / 4)
    assert "labels" not in net.state_dict()


def test_supervised_training_refuses_images_without_labels():
    with pytest.raises(HardlabError, match="toy: it needs one label"):
        Supervised(nets.Tiny(width=4)).on_start(images(labels=np.full(12, -1)), 4)
