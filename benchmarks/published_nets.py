"""Our PGD and variance gap beside the record, on robust nets that others trained.

    python benchmarks/published_nets.py FOLDER

FOLDER holds checkpoints/ (archs.py, index.json, safetensors) and data/ (packs.py, packs). Prints, for each net, PGD-20
accuracy on the first 200 test images beside the figure recorded with the net (another implementation, other starts),
and for two of them variance, signed gap and accuracy over radii on the first 1,000, with Pearson's r.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ardor.attacks import PGD, Suite
from ardor.attacks.threat import Linf
from ardor.data.split import Split
from ardor.evaluation.variance import pearson, variance_gap
from ardor.evaluation.verdicts import evaluate

PACKS = {"MNIST": "mnist.pack.zip", "CIFAR-10": "cifar10_test.pack.zip"}
TREND = {
    "mnist_deeprobust_pgd": (5 / 100, 10 / 100, 15 / 100, 20 / 100, 25 / 100, 30 / 100, 35 / 100, 40 / 100),
    "cifar10_cnn_a_adv4": tuple(r / 255 for r in (1, 2, 3, 4, 6, 8, 10, 12)),
}


def module(path: Path) -> Any:
    sys.dont_write_bytecode = True
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


class Features(nn.Module):
    """A net cut before its last linear layer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]

    def features(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        handle = self.last.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
        self.net(x)
        handle.remove()
        return kept[0]

    def head(self, features: torch.Tensor) -> torch.Tensor:
        return self.last(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def main() -> int:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    index = json.loads((folder / "checkpoints" / "index.json").read_text())
    archs, packs = module(folder / "checkpoints" / "archs.py"), module(folder / "data" / "packs.py")
    for data, pack in PACKS.items():
        arrays = packs.read(folder / "data" / pack)
        x, y = torch.from_numpy(arrays["x_test"][:1000]), torch.from_numpy(arrays["y_test"][:1000])
        split = Split(x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous(), y, 10, data, "test")
        for name in [n for n, e in index.items() if e["data"] == data]:
            net = archs.build(name)
            for text, recorded in index[name]["pgd20_first200"].items():
                top, _, bottom = text.partition("/")
                threat = Linf(float(top) / float(bottom or 1))
                suite = Suite("pgd", threat, {"pgd": PGD(threat, steps=20)})
                ours = evaluate(net, split.take(slice(0, 200)), suite, batch=200).robust("pgd").value
                sys.stdout.write(f"{name}, eps {text}: PGD-20 ours {ours:.3f}, recorded {recorded:.3f}\n")
            if name in TREND:
                points = variance_gap(Features(net), split, TREND[name])
                for p in points:
                    gap = f"variance {p.variance:.3f} signed {p.signed:+.3f}"
                    sys.stdout.write(f"  eps {p.eps:.4f} {gap} accuracy {p.accuracy:.3f}\n")
                sys.stdout.write(f"{name}: Pearson's r {pearson(points):.3f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
