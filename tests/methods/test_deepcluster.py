"""DeepCluster-v2 against loops and scikit-learn, and what its banks and clusters must always be."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from resuming import learned, rows, same, whole_and_parts
from sklearn.metrics import normalized_mutual_info_score
from small_runs import small_run
from steps import after

from hardlab import nets, recipes, run_folder
from hardlab.clusters import nearest
from hardlab.methods.deepcluster import MEASURED, MISSING, DeepCluster, nmi
from hardlab.types import Batch, HardlabError, Progress
from hardlab.views import PRESETS, Look

B, N, K, D = 6, 40, 5, 8
START = Progress(0, 100, 0, 10)


class Noise:
    """Random images of a data set without files."""

    def __init__(self, count=N):
        g = torch.Generator().manual_seed(5)
        self.pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=g)
        self.targets = torch.randint(0, 4, (count,), generator=g)

    def __len__(self):
        return len(self.pixels)

    def all(self, size):
        for part in torch.arange(len(self)).split(size):
            yield Batch(self.pixels[part], torch.full((len(part), 2), 32), part)


def method(local=0, images=None, **options):
    torch.manual_seed(0)
    made = DeepCluster(nets.Tiny(width=4), **{"hidden": 16, "dim": D, "prototypes": K} | options)
    made.multi_crop(local)
    made.on_start(Noise() if images is None else images, 16)
    return made


@pytest.fixture
def look():
    large = PRESETS["simclr_cifar"]
    return Look(large, (0.5,) * 3, (0.25,) * 3, local=[large[0].but(size=16)])


@pytest.fixture
def batch():
    return next(Noise().all(B))


def views(look, batch, local=0, seed=0):
    return look.render(look.views(batch, 2, torch.Generator().manual_seed(seed), local))


def test_normalised_mutual_information_is_scikit_learns():
    g = torch.Generator().manual_seed(0)
    for a, b in ((4, 4), (10, 3), (1, 5), (30, 30)):
        x, y = torch.randint(0, a, (200,), generator=g), torch.randint(0, b, (200,), generator=g)
        expected = normalized_mutual_info_score(x.numpy(), y.numpy())
        assert nmi(x, y).item() == pytest.approx(expected, abs=1e-6)
        assert nmi(y, x).item() == pytest.approx(expected, abs=1e-6)
    assert nmi(x, x).item() == pytest.approx(1)
    assert nmi(x, torch.full_like(x, MISSING)).item() == 0
    half = torch.where(torch.arange(200) < 100, x, -1)
    assert nmi(half, y).item() == pytest.approx(normalized_mutual_info_score(x[:100], y[:100]), abs=1e-6)


# ------------------------------------------------------------------------------------------------------- the method


@pytest.mark.parametrize("local", [0, 4, 6])
def test_every_crop_of_an_image_has_the_same_target_and_the_loss_is_the_mean_over_heads_and_crops(local, look, batch):
    net = method(local)
    net.on_epoch(START, Noise(), look)
    out = net(views(look, batch, local))
    assert sorted(out.q) == list(range(2 + local))
    (t,) = out.t.values()  # one label for all
    assert t.shape == (B, 3)
    assert t.dtype == torch.int64
    assert torch.equal(t, net.assigned[:, batch.index].T)
    for i in range(B):
        terms = []
        for q in out.q.values():
            for h in range(3):
                s = (net.centroids[h] @ q[i]).detach().double().numpy() / 0.1
                terms.append(np.log(np.exp(s).sum()) - s[t[i, h]])
        assert out.loss[i].item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_embeddings_and_centroids_have_unit_length_and_only_k_means_moves_the_centroids(look, batch):
    net = method()
    net.on_epoch(START, Noise(), look)
    assert torch.allclose(net.centroids.norm(dim=2), torch.ones(3, K), atol=1e-5)
    assert torch.allclose(net.bank.norm(dim=2), torch.ones(2, N), atol=1e-5)
    assert not net.centroids.requires_grad
    before = net.centroids.clone()
    out = net(views(look, batch))
    assert all(torch.allclose(q.norm(dim=1), torch.ones(B), atol=1e-5) for q in out.q.values())
    out.loss.mean().backward()
    net.after_step(after(net, out, at=START))
    assert torch.equal(net.centroids, before)
    net.on_epoch(Progress(10, 100, 1, 10), Noise(), look)
    assert not torch.equal(net.centroids, before)


@pytest.mark.parametrize("local", [0, 4, 6])
def test_the_banks_take_the_clean_embeddings_of_the_first_two_crops_after_the_step(local, look, batch):
    net = method(local)
    net.on_epoch(START, Noise(), look)
    before = net.bank.clone()
    out = net(views(look, batch, local))
    assert torch.equal(net.bank, before)
    net.after_step(after(net, out, at=START))
    others = torch.arange(N) >= B
    for crop in range(2):
        assert torch.equal(net.bank[crop, :B], out.q[crop].detach())
        assert torch.equal(net.bank[crop, others], before[crop, others])
    assert not net.bank.requires_grad


def test_heads_take_the_banks_in_turn_and_label_every_image(look):
    net = method()
    assert (net.assigned == MISSING).all()
    net.on_epoch(START, Noise(), look)
    for h in range(3):
        assert torch.equal(net.assigned[h], nearest(net.bank[h % 2], net.centroids[h]))
    assert (net.assigned >= 0).all()


def test_the_banks_are_filled_before_the_first_epoch_only(look, monkeypatch):
    net, passes = method(), []
    monkeypatch.setattr(net, "embed", lambda *a, **k: passes.append(1) or DeepCluster.embed(net, *a, **k))
    net.on_epoch(START, Noise(), look)
    assert len(passes) == 3  # 40 images in batches of 16
    net.on_epoch(Progress(10, 100, 1, 10), Noise(), look)
    assert len(passes) == 3


def test_images_without_an_embedding_or_a_place_in_the_data_have_no_label_and_no_part_in_the_loss(look, batch):
    net = method()
    net.on_epoch(START, Noise(), look)
    net.bank[:, 3] = 0
    net.on_epoch(Progress(10, 100, 1, 10), Noise(), look)
    assert (net.assigned[:, 3] == MISSING).all()
    before = net.bank.clone()
    v = views(look, batch)
    out = net(replace(v, index=torch.tensor([0, 1, 2, 3, -1, -1])))
    assert (out.t[0][3:] == MISSING).all()
    assert (out.loss[:3] > 0).all()
    assert torch.count_nonzero(out.loss[3:]) == 0
    net.after_step(after(net, out, at=START))
    assert torch.equal(net.bank[:, 4:], before[:, 4:])  # the last row, which -1 would name, included
    with pytest.raises(TypeError, match="index"):
        net.target(v.x[:, 0], None)


def test_crops_of_all_sizes_share_the_batch_of_the_projectors_norm(look, batch):
    net, batches = method(4), []
    net.projector.register_forward_hook(lambda m, x, y: batches.append(len(x[0])))
    net(views(look, batch, 4))
    assert batches == [6 * B]


def test_the_logs_tell_cluster_sizes_and_agreement_with_labels_and_with_the_epoch_before(look, batch):
    net, images = method(), Noise()
    net.on_epoch(START, images, look)
    first = net.assigned.clone()
    net.on_epoch(Progress(10, 100, 1, 10), images, look)
    logs = net.logs(after(net, net(views(look, batch))))
    sizes = [net.assigned[h].bincount(minlength=K) for h in range(3)]
    assert set(MEASURED) < set(logs)
    assert logs["cluster_min"] == pytest.approx(np.mean([float(s.min()) for s in sizes]))
    assert logs["cluster_max"] == pytest.approx(np.mean([float(s.max()) for s in sizes]))
    assert logs["empty_clusters"] == sum(int((s == 0).sum()) for s in sizes)
    assert 0 < logs["cluster_entropy"] <= np.log(K)
    for name, other in (("nmi_labels", [images.targets] * 3), ("nmi_previous", first)):
        expected = [normalized_mutual_info_score(net.assigned[h], other[h]) for h in range(3)]
        assert logs[name] == pytest.approx(np.mean(expected), abs=1e-5)
    assert torch.equal(net.snapshot(images, look)["assigned"], net.assigned.int())


def test_impossible_settings_of_deepcluster_are_refused():
    for options in ({"prototypes": 1}, {"heads": 0}, {"iterations": 0}, {"temperature": 0.0}):
        ((key, value),) = options.items()
        with pytest.raises(HardlabError, match=f"{key}={value}"):
            method(**options)
    with pytest.raises(HardlabError, match=r"prototypes=41: .* 40 images"):
        method(prototypes=41)


def test_the_loss_falls_under_fixed_clusters(look, batch):
    net = method()
    net.on_epoch(START, Noise(), look)
    v = views(look, batch)
    opt = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    values = []
    for _ in range(15):
        loss = net(v).loss.mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        values.append(loss.item())
    assert values[-1] < values[0] * 0.8


# ------------------------------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize("rung", recipes.RUNGS)
@pytest.mark.parametrize(("name", "crops"), [("deepcluster", 2), ("deepcluster-6crop", 6), ("deepcluster-8crop", 8)])
def test_the_recipes_have_the_published_crops_and_rates(name, crops, rung):
    run = recipes.recipe(name, rung)
    assert run.recipe == name
    assert 2 + (run.local.count if run.local else 0) == crops
    if rung == "paper":  # 0.6 at 256 images; 4.8 at 4096
        assert run.optim.lr * run.batch_size / 256 == pytest.approx(4.8 if crops == 8 else 0.6)
        assert run.optim.final_lr == pytest.approx(run.optim.lr * run.batch_size / 256 / 1000)


@pytest.mark.parametrize("name", ["deepcluster", pytest.param("deepcluster-6crop", marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_in_mid_epoch_ends_bitwise_like_one_that_was_not(name, tmp_path, monkeypatch):
    run = small_run(name)
    # in mid-epoch, and with an epoch's last step
    whole, parts = whole_and_parts(run, tmp_path, monkeypatch, 2, 4)
    a = learned(whole)["method"]
    assert {"bank", "assigned", "centroids", "measured"} < set(a)
    assert same(learned(whole), learned(parts))
    assert rows(whole) == rows(parts)
    _, opened, about = run_folder.open_run(whole)
    assert about["state"] == "done"
    assert torch.equal(opened.centroids, a["centroids"])
    assert (whole / "snapshots").exists()


def test_the_loss_is_solo_learns_deepclusterv2_loss_on_the_mean():
    """solo-learn's package does not install any more; these are the few lines of solo/losses/deepclusterv2.py."""

    def theirs(outputs, assignments):  # (H,V,N,K), (H,N)
        total = 0.0
        for h in range(len(outputs)):
            scores = outputs[h].reshape(-1, outputs.size(-1))
            targets = assignments[h].repeat(outputs.size(1))
            total = total + torch.nn.functional.cross_entropy(scores, targets, ignore_index=-1)
        return total / len(outputs)

    torch.manual_seed(0)
    net = DeepCluster(nets.Tiny(width=4), dim=8, hidden=16, prototypes=10)
    net.centroids.copy_(torch.nn.functional.normalize(torch.randn_like(net.centroids), dim=2))
    q = [torch.nn.functional.normalize(torch.randn(12, 8), dim=1) for _ in range(2)]
    t = torch.randint(0, 10, (12, len(net.centroids)))
    scores = torch.stack([torch.stack([z @ c.T / net.temperature for z in q]) for c in net.centroids])
    actual = net.score({0: q[0], 1: q[1]}, {0: t}).mean()
    assert actual.item() == pytest.approx(theirs(scores, t.T).item(), rel=1e-5)
