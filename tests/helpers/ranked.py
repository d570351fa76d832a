"""One of several processes of a test: compares many runs, together and alone, and writes what it found.

`torchrun ranked.py OUT`; ``VARIANTS`` are options that the pairs of the matrix leave at rest. Each method and strategy
is compared once on a whole network; all other runs on one of a single convolution, unless HARDLAB_FAULTS=long.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from shallow import Shallow

from hardlab import nets, ranks
from hardlab.config import Run
from hardlab.workbook import parallel

CROPS = {"local": {"name": "simclr_cifar", "count": 2, "options": {"size": 12}}}
VARIANTS = {
    "moco, both views queries": (("moco",), {"method.symmetric": True, "method.total": "sum"}),
    "moco, one batch of norms": (("moco",), {"method.bn": "plain", "optim.name": "lars"}),
    "moco, small crops": (("moco",), CROPS),
    "adco, alternative objective": (("moco", "adco"), {"hard.adco.objective": "alternative", "hard.adco.wrt": "unit"}),
    "adco, filled by keys": (
        ("moco", "adco"),
        {"hard.adco.init": "keys", "hard.adco.size": 14, "hard.adco.fill_keys": False, "hard.adco.renorm": True},
    ),
    "adco without keys of the batch": (("simclr", "adco"), {"hard.adco.inbatch_keys": False}),
    "cutmix, a box an image": (("byol", "cutmix"), {"hard.cutmix.per": "sample", "hard.cutmix.bn": "aux"}),
    "cutmix, one softmax": (("moco", "cutmix"), {"hard.cutmix.labels": "soft"}),
    "cutmix of adversarial views": (("moco", "adversarial", "cutmix"), {"hard.cutmix.source": "both"}),
    "cutmix of learned views": (("simclr", "stn", "cutmix"), {}),
    "attack towards another image": (
        ("byol", "adversarial"),
        {"hard.adversarial.aim": "towards", "hard.adversarial.start": "random", "hard.adversarial.norm": "l2"},
    ),
    "attack on the clean view": (("simclr", "adversarial"), {"hard.adversarial.against": "clean"}),
    "iou, exempt by chance": (("simsiam", "iou"), {"hard.iou.alternate": "random", "hard.iou.start": 0.05}),
    "generated, single images": (
        ("byol", "generated"),
        {"hard.generated.positives": "view", "hard.generated.count": 4},
    ),
    "generated, summed objectives": (("simclr", "generated"), {"hard.generated.combine": "sum"}),
    "generated, then chosen": (("simclr", "generated", "hvs"), {"hard.generated.learn": "gan"}),
    "byol, buffers averaged": (("byol",), {"method.average": "all"}),
    "hvs, running statistics": (("simclr", "hvs"), {"hard.hvs.statistics": "running", "hard.hvs.colour": "static"}),
    "hvs, labels again": (("dino", "hvs"), {**CROPS, "hard.hvs.labels": "reused", "hard.hvs.limit": 3}),
    "dino, small crops, a trained gain": (("dino",), {**CROPS, "method.gain": "learned", "method.bn": True}),
    "deepcluster, small crops": (("deepcluster", "double"), CROPS),
    "hnssl, two gradients": (("hnssl",), {"method.student": "gradient"}),
    "ibot, random depth": (("ibot",), {"backbone.drop_path": 0.4, "method.patch_head": "own"}),
    "mined, some anchors": (("moco", "mined"), {"hard.mined.mine": "threshold"}),
    "mined, all": (("simclr", "mined"), {"hard.mined.mine": "all", "hard.mined.reduction": "mean"}),
    "hcl on a queue, attacked": (("moco", "hcl", "adversarial"), {"optim.clip": 0.1}),
    "gan, augmented": (("gan",), {"method.diffaugment": True, "method.d_steps": 1, "method.keep_from": 1}),
    "norms of each process": (("simsiam", "hvs"), {"sync_bn": False}),
    "sas, random": (("simsiam", "sas"), {"hard.sas.pick": "random", "optim.name": "larc"}),
}


def variants() -> dict[str, Run]:
    return {name: parallel.small(*parts).with_(changes) for name, (parts, changes) in VARIANTS.items()}


if __name__ == "__main__":
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    with ranks.joined(cuda=False), parallel.double_precision():
        runs, whole = parallel.pairs() | variants(), nets.Tiny
        few = runs.keys() if os.environ.get("HARDLAB_FAULTS") == "long" else parallel.pairs(every=False).keys()
        rows = []
        for net, names in ((whole, few), (Shallow, runs.keys() - few)):
            nets.Tiny = net  # a quarter of the exchanges between processes: each layer of norms has one
            found = parallel.compare({name: run for name, run in runs.items() if name in names})
            rows += [d._asdict() | {"equal": d.equal} for d in found]
        nets.Tiny = whole
        rows += [{"what": what, "equal": equal} for what, _, equal in parallel.goes_on(out.parent)]
        if ranks.writes():
            out.write_text(json.dumps(rows))
