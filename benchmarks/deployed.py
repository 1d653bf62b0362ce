"""Nets on natural images before and after INT8: train them, export them, judge what is deployed.

    python benchmarks/deployed.py train FOLDER RUNS --net mobilenet_v2
    python benchmarks/deployed.py compare FOLDER RUNS --out docs/results/deployed.jsonl

FOLDER holds data/ (packs.py, packs) and checkpoints/ (archs.py, index.json, safetensors), as for published_nets.py.
`train` makes RUNS/NET, a few minutes of fast adversarial training (SAT with one step of 1.25 eps from a random start)
on 4,000 images of CIFAR-10 at eps 4/255: enough to have something to lose, far from what the net can do. `compare`
exports every net of RUNS and every published one to ONNX and to INT8, judges all forms on the same test images under
the suite `deployed`, and writes a row for each. It goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from published_nets import module
from torch import nn

from ardor import models
from ardor.attacks import PGD, suites
from ardor.attacks.threat import Linf
from ardor.data.split import Split
from ardor.deployment.variants import DeploymentReport
from ardor.deployment.variants.run_files import deploy, prepare
from ardor.methods import SAT
from ardor.training.loop import epochs
from ardor.training.optimisers import SGD
from ardor.training.recipe import Recipe

EPS = 4 / 255
PACKS = {"MNIST": ("mnist.pack.zip",), "CIFAR-10": ("cifar10_train_a.pack.zip", "cifar10_test.pack.zip")}
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def splits(folder: Path, data: str) -> tuple[Split, Split]:
    """Train (the first half of it for CIFAR-10) and test."""
    packs, arrays = module(folder / "data" / "packs.py"), {}
    for pack in PACKS[data]:
        arrays |= packs.read(folder / "data" / pack)
    made = []
    for part in ("train", "test"):
        x, y = (torch.from_numpy(arrays[next(k for k in arrays if k.startswith(f"{a}_{part}"))]) for a in "xy")
        x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous()
        names = NAMES if data == "CIFAR-10" else ()
        made.append(Split(x, y[: len(x)], 10, data, part, class_names=names))
    return made[0], made[1]


def train(asked: argparse.Namespace) -> None:
    whole, _ = splits(asked.folder, "CIFAR-10")
    val = Split(**vars(whole.take(slice(20000, 20200))) | {"part": "val"})
    attack = PGD(Linf(EPS), steps=1, step=1.25 * EPS)
    recipe = Recipe(
        epochs=asked.epochs,
        batch=64,
        lr=0.1,
        schedule="one-cycle",
        optimiser=SGD(weight_decay=5e-4),
        val_attack=PGD(Linf(EPS), steps=10),
        val_every=asked.epochs,
        device="cpu",
    )
    net = models.build(asked.net, classes=10)
    run = asked.runs / asked.net
    for epoch in epochs(net, None, SAT(attack=attack), whole.take(slice(0, asked.images)), recipe, val=val, run=run):
        print(epoch, flush=True)


def nets(asked: argparse.Namespace) -> Iterator[tuple[str, nn.Module, Path, str, float, dict[str, int]]]:
    """Name, net, its safetensors file, data, eps, and with how much it is judged."""
    for name in ("mobilenet_v2", "resnet18"):
        run = asked.runs / name
        if (run / "best.safetensors").exists():
            much = {"images": 200, "queries": 100, "batch": 64}
            yield name, models.load(run), run / "best.safetensors", "CIFAR-10", EPS, much
    index = json.loads((asked.folder / "checkpoints" / "index.json").read_text())
    archs = module(asked.folder / "checkpoints" / "archs.py")
    for name, about in index.items():
        eps = 0.3 if about["data"] == "MNIST" else 2 / 255
        weights = asked.folder / "checkpoints" / f"{name}.safetensors"
        yield name, archs.build(name), weights, about["data"], eps, {"images": 300, "queries": 500, "batch": 100}


def compare(asked: argparse.Namespace) -> None:
    parts = {data: splits(asked.folder, data) for data in PACKS}
    for name, net, weights, data, eps, much in nets(asked):
        if asked.net is not None and name not in asked.net:
            continue
        (calibrate, test), threat = parts[data], Linf(eps)
        folder = asked.runs / f"deployed-{name}"
        files = {"float32": weights, "onnx": folder / "best.onnx", "onnx-int8": folder / "best-int8.onnx"}
        check = test.limit(much["images"])
        # forced: a net whose INT8 file would be refused belongs in the table
        for form in prepare(net, files, calibrate, check, threat, force=True):
            print(name, form, flush=True)
        suite = suites.deployed(threat, net, much["queries"])
        reports = {form: folder / f"report-{form}.json" for form in files}
        made = deploy(net, files, check, suite, reports, batch=much["batch"], journal=True)
        made.save(folder / "deployed-best.json")
        print(f"{name}, {made}\n", flush=True)
    if asked.out:
        rows = [row(folder) for folder in sorted(asked.runs.glob("deployed-*")) if list(folder.glob("deployed-*.json"))]
        asked.out.write_text("".join(f"{json.dumps(each)}\n" for each in rows))


def row(folder: Path) -> dict[str, Any]:
    """What a comparison says, without what only its folder knows."""
    report = DeploymentReport.load(folder / "deployed-best.json").forms[0].report
    about = {"net": folder.name.removeprefix("deployed-"), "data": report.data["name"], "n": report.n}
    about |= {"eps": report.threat["eps"], "queries": report.attacks["square"]["queries"]}
    content = json.loads((folder / "deployed-best.json").read_text())
    for form in content["forms"]:
        for key in ("file", "sha256", "kept", "kept_sha256"):
            del form[key]
    return about | {k: v for k, v in content.items() if k not in ("format", "checkpoint")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = parser.add_subparsers(required=True)
    for word, function in (("train", train), ("compare", compare)):
        one = words.add_parser(word)
        one.set_defaults(function=function)
        one.add_argument("folder", type=Path)
        one.add_argument("runs", type=Path)
    words.choices["train"].add_argument("--net", required=True, choices=("mobilenet_v2", "resnet18"))
    words.choices["train"].add_argument("--images", type=int, default=4000)
    words.choices["train"].add_argument("--epochs", type=int, default=2)
    words.choices["compare"].add_argument("--net", nargs="*", help="only these; default all; none: only the rows")
    words.choices["compare"].add_argument("--out", type=Path, help="a row for each that is done, a line of JSON")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.function(asked)
    return 0


if __name__ == "__main__":
    sys.exit(main())
