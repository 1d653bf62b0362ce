"""AutoAttack `standard`: ours beside the official code and torchattacks, verdict by verdict and pass by pass.

    python benchmarks/autoattack.py NET EPS [--norm Linf] [--n 1000] [--third] [--twin] [--shared FOLDER] [--out FILE]
    python benchmarks/autoattack.py --table FILE

NET is a net of FOLDER/checkpoints (archs.py, index.json, safetensors) with its data in FOLDER/data (packs.py, packs),
or a run of `ardor train`, judged on its own test images. The attacks run in the order of `standard` in batches of 250,
each implementation in turn on the images that the official code has left, so that times are interleaved and every
difference is one of this attack. Ours gets the plain net; the gradient attacks of all start from the same noise (the
official code is handed ours), Square draws its own in each. --third adds torchattacks with steps=100, --twin ours on
the BN-folded, channels-last twin. Times are CPU seconds of one thread; forwards and backwards are images passed through
the net. Needs `pip install pyautoattack==0.2.0`, and for --third `pip install --no-deps torchattacks` with scipy and
tqdm.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from published_nets import PACKS, module
from pyautoattack import autopgd_base, fab_pt
from pyautoattack import square as official_square
from torch import Tensor, nn

from ardor import data as datasets
from ardor import models
from ardor.attacks import APGD, FAB, Square
from ardor.attacks.rounds import in_rounds
from ardor.attacks.threat import L2, Linf
from ardor.engine import folding
from ardor.engine.flops import CountedNet
from ardor.engine.modes import attack_view
from ardor.noise import Noise
from ardor.storage.config import as_text, read_yaml

BATCH = 250


class Watched(nn.Module):
    """A net that counts its images forward, and backward by whichever way a gradient is asked for."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.forwards, self.backwards = net, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        self.forwards += len(x)
        if logits.requires_grad and x.requires_grad:
            logits.register_hook(self._back)
        return logits

    def _back(self, grad: Tensor) -> None:
        self.backwards += len(grad)


class Starts:
    """The same start noise for everyone: ours, by the bytes of the clean image."""

    def __init__(self, x: Tensor, index: Tensor, threat: Linf | L2, name: str) -> None:
        self.rows = {image.numpy().tobytes(): i for image, i in zip(x, index.tolist(), strict=True)}
        self.threat, self.name, self.round = threat, name, 0

    def noise(self, x: Tensor) -> Noise:
        index = torch.tensor([self.rows[image.numpy().tobytes()] for image in x])
        return Noise(0, index, self.name).fork(str(self.round))

    def official(self, kind: type) -> type:
        starts = self

        class Given(kind):  # type: ignore[misc, valid-type]
            def attack_single_run(self, x: Tensor, y: Tensor, x_init: Tensor | None = None) -> Any:
                start = starts.threat.start(x, "surface", starts.noise(x))
                starts.round += 1
                return super().attack_single_run(x, y, x_init=start)

        return Given

    def third(self, attack: Any) -> Any:
        """torchattacks takes no start, so the numbers that it draws for one are ours."""
        run = attack.attack_single_run

        def given(x: Tensor, y: Tensor, **words: Any) -> Any:
            noise, shape = self.noise(x), x.shape[1:]
            self.round += 1
            draws = {
                "rand": lambda *_, **__: noise.uniform(shape, x.dtype),
                "randn": lambda *_, **__: noise.normal(shape, x.dtype),
            }
            with contextlib.ExitStack() as stack:
                for word, draw in draws.items():
                    stack.enter_context(mock.patch.object(torch, word, draw))
                return run(x, y, **words)

        attack.attack_single_run = given
        return attack


def official(name: str, net: nn.Module, threat: Linf | L2, starts: Starts) -> Any:
    words = {"norm": type(threat).__name__, "eps": threat.eps, "device": "cpu", "seed": 0}
    if name == "apgd_ce":
        return starts.official(autopgd_base.APGDAttack)(net, loss="ce", **words).perturb
    if name == "apgd_t":
        return starts.official(autopgd_base.APGDAttack_targeted)(net, **words).perturb
    if name == "fab_t":
        return fab_pt.FABAttack_PT(net, targeted=True, n_restarts=1, **words).perturb
    return official_square.SquareAttack(net, n_queries=5000, resc_schedule=False, p_init=0.8, **words).perturb


def third(name: str, net: nn.Module, threat: Linf | L2, starts: Starts) -> Any:
    import torchattacks

    words = {"norm": type(threat).__name__, "eps": threat.eps, "seed": 0}
    if name == "apgd_ce":
        return starts.third(torchattacks.APGD(net, steps=100, loss="ce", **words)).forward
    if name == "apgd_t":
        return starts.third(torchattacks.APGDT(net, steps=100, n_classes=10, **words)).forward
    if name == "fab_t":
        return torchattacks.FAB(net, steps=100, multi_targeted=True, n_classes=10, **words).forward
    return torchattacks.Square(net, n_queries=5000, resc_schedule=False, **words).forward


def ours(name: str, threat: Linf | L2) -> Any:
    return {
        "apgd_ce": APGD(threat),
        "apgd_t": APGD(threat, loss="dlr", targets=9),
        "fab_t": FAB(threat),
        "square": Square(threat),
    }[name]


def run_ours(name: str, net: nn.Module, view: Any, threat: Linf | L2, x: Tensor, y: Tensor, index: Tensor) -> Any:
    counted = CountedNet(view)
    began = time.process_time()
    x_adv = in_rounds(ours(name, threat), counted, x, y, Noise(0, index, name))
    right = net(x_adv).argmax(1) == y
    return right, time.process_time() - began, counted.forwards + len(x), counted.backwards


def run_theirs(make: Any, name: str, net: nn.Module, threat: Linf | L2, x: Tensor, y: Tensor, index: Tensor) -> Any:
    watched = Watched(net)
    attack = make(name, watched, threat, Starts(x, index, threat, name))
    net.requires_grad_(True)  # as its users have it: attack_view had switched it off
    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):
        x_adv = attack(x.clone(), y.clone()).detach()
    with torch.no_grad():
        right = watched(x_adv).argmax(1) == y
    spent = time.process_time() - began
    net.requires_grad_(False)
    assert float(threat.distance(x_adv, x).max()) <= threat.eps * 1.0001 + 1e-6
    return right, spent, watched.forwards, watched.backwards


def load(words: Any) -> tuple[nn.Module, Tensor, Tensor]:
    if (Path(words.net) / "config.yaml").exists():
        trained = read_yaml(Path(words.net) / "config.yaml")
        split = datasets.load_test(**trained["data"]).limit(words.n)
        x, y, _ = split.batch(slice(None))
        return models.load(words.net).eval(), x, y
    archs, packs = (module(words.shared / part) for part in ("checkpoints/archs.py", "data/packs.py"))
    entry = json.loads((words.shared / "checkpoints" / "index.json").read_text())[words.net]
    arrays = packs.read(words.shared / "data" / PACKS[entry["data"]])
    x, y = torch.from_numpy(arrays["x_test"][: words.n]), torch.from_numpy(arrays["y_test"][: words.n])
    x = (x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)).float() / 255
    return archs.build(words.net), x.contiguous(), y.long()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("net", nargs="?", default="")
    parser.add_argument("eps", nargs="?", default="8/255")
    parser.add_argument("--norm", default="Linf")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--third", action="store_true")
    parser.add_argument("--twin", action="store_true")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--attacks", nargs="+", default=["apgd_ce", "apgd_t", "fab_t", "square"])
    parser.add_argument("--table", type=Path, help="print what --out kept as Markdown, and do nothing else")
    words = parser.parse_args()
    if words.table:
        print(table([json.loads(line) for line in words.table.read_text().splitlines()]))
        return 0
    torch.set_num_threads(1)
    top, _, bottom = words.eps.partition("/")
    threat = (L2 if words.norm == "L2" else Linf)(float(top) / float(bottom or 1))
    net, x, y = load(words)
    with attack_view(net):
        judge(net, x, y, threat, words)
    return 0


def judge(net: nn.Module, x: Tensor, y: Tensor, threat: Linf | L2, words: Any) -> None:
    folded = folding._trace(net) if words.twin else None  # also of a net whose layers ardor does not know by name
    whose = ["official", "ours", *(["twin"] if words.twin else []), *(["third"] if words.third else [])]
    with torch.no_grad():
        right = net(x).argmax(1) == y
    standing = {who: right.clone() for who in whose}
    print(f"{words.net} {threat!r}: n = {len(x)}, clean {int(right.sum())}", flush=True)
    for name in words.attacks:
        rows = standing["official"].nonzero().squeeze(1)
        found: dict[str, list[Any]] = {who: [] for who in whose}
        for chunk in rows.split(BATCH) if len(rows) else ():
            for who in whose:
                args = (threat, x[chunk], y[chunk], chunk)
                if who in ("official", "third"):
                    made = run_theirs(official if who == "official" else third, name, net, *args)
                else:
                    made = run_ours(name, net, folded if who == "twin" else net, *args)
                found[who].append(made)
        row = {"net": words.net, "threat": repr(threat), "n": len(x), "clean": int(right.sum()), "attack": name}
        row["seen"] = len(rows)
        for who in whose:
            verdict = torch.cat([made[0] for made in found[who]]) if len(rows) else torch.zeros(0, dtype=torch.bool)
            standing[who][rows] &= verdict
            row[who] = {
                "robust": int(verdict.sum()),
                "seconds": round(sum(made[1] for made in found[who]), 2),
                "forwards": sum(made[2] for made in found[who]),
                "backwards": sum(made[3] for made in found[who]),
            }
        for who in whose[1:]:
            row[who]["differ"] = int((standing[who][rows] != standing["official"][rows]).sum())
        print(json.dumps(row), flush=True)
        if words.out:
            with words.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    final = {who: int(v.sum()) for who, v in standing.items()}
    apart = {who: int((v != standing["official"]).sum()) for who, v in standing.items() if who != "official"}
    row = {"net": words.net, "threat": repr(threat), "n": len(x), "attack": "standard"}
    row |= {"robust": final, "differ": apart}
    print(json.dumps(row), flush=True)
    if words.out:
        with words.out.open("a") as file:
            file.write(json.dumps(row) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each net and attack: what was seen and left, differences to the official code, cost and speed."""
    lines = [
        "| net, threat | attack | seen | robust: official | ours differ | twin differs | torchattacks differs "
        "| official / ours | forwards + backwards: official | ours |",
        "|:--|:--|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        if row["attack"] == "standard":
            continue
        cells = [str(row.get(who, {}).get("differ", "–")) for who in ("ours", "twin", "third")]
        ratio = row["official"]["seconds"] / row["ours"]["seconds"]
        passes = [f"{row[who]['forwards']:,} + {row[who]['backwards']:,}" for who in ("official", "ours")]
        norm, _, eps = row["threat"].rstrip(")").partition("(eps=")
        name = f"{Path(row['net']).name}, {norm} {as_text(float(eps))}, n = {row['n']}"
        left = [name, row["attack"], str(row["seen"]), str(row["official"]["robust"])]
        lines.append("| " + " | ".join([*left, *cells, f"{ratio:.2f}", *passes]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
