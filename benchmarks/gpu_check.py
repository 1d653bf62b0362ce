"""What only a machine with a GPU can show, in at most ten minutes: one command, results as they come.

    python benchmarks/gpu_check.py --data npz:cifar10.npz --out gpu_check     # or: make gpu-check DATA=npz:cifar10.npz
    python benchmarks/gpu_check.py --tiny --device cpu --out /tmp/check       # as its test runs it; no figure counts

Each part is a process of its own with its own share of the time, so that a part that hangs, fails or takes the GPU down
takes no other with it. A part writes each result as a line of OUT/gpu_check.jsonl when it has it; OUT/gpu_check.md is
written again after every part.

machine      the device, its memory and its peak in bfloat16 (--peak in TFLOP/s, else by its name, else unknown)
tests        those of tests/ that a GPU concerns, where pytest is installed; one process of NCCL; a run in float16
steps        one RSLAD step, released beside ours: ResNet-18, batch 128 and 512, float32, bfloat16, compiled, float16
teacher      ResNet-18 by adversarial training in bfloat16, as many epochs as fit
autoattack   official AutoAttack (pyautoattack or fra31's) beside ours on 512 images of that net, or of --weights
rslad        ResNet-18 by RSLAD from that teacher, as many epochs as fit

The released step is `released_step` of rslad_step.py, written from its description. Needs torch 2.8 or newer. Without
--data the images are made up: speeds hold, accuracies mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import inspect
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from rslad_step import EPS, STEP, released_step  # noqa: E402

from ardor import data as datasets  # noqa: E402
from ardor import epochs, evaluate, methods, models  # noqa: E402
from ardor.attacks import PGD, suites  # noqa: E402
from ardor.attacks.threat import Linf  # noqa: E402
from ardor.data.split import Split  # noqa: E402
from ardor.engine.flops import macs  # noqa: E402
from ardor.engine.modes import freeze  # noqa: E402
from ardor.noise import Noise  # noqa: E402
from ardor.training.loop import train_epoch  # noqa: E402
from ardor.training.optimisers import SGD  # noqa: E402
from ardor.training.recipe import Recipe  # noqa: E402
from ardor.training.state import TrainState, make_optimiser  # noqa: E402

SHARES = {"machine": 0.02, "tests": 0.13, "steps": 0.25, "teacher": 0.22, "autoattack": 0.2, "rslad": 0.18}
"""Of the minutes. What a part leaves over goes to the later ones."""

PEAKS = {
    "B200": 2250, "H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "L40": 181, "L4": 121,
    "A10G": 70, "A10": 125, "RTX 4090": 165, "RTX 3090": 71,
}  # fmt: skip
"""TFLOP/s in bfloat16, dense, with sums in float32, by a part of the device's name: the makers' data sheets."""

BFLOAT16 = {"precision": "bfloat16", "attack_precision": "bfloat16", "teacher_precision": "bfloat16"}
OURS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": BFLOAT16,
    "float16": BFLOAT16 | {"precision": "float16"},
    "bfloat16, compiled": BFLOAT16 | {"compile": True},
}
"""The forms of our step; compilation takes a minute at first, so it is the last."""
TESTS = (
    "tests/training/test_float16.py", "tests/training/test_plan.py", "tests/training/test_engine.py",
    "tests/engine/test_precision.py", "tests/engine/test_twin.py", "tests/attacks",
)  # fmt: skip
FIRST, LEAST, MOST = 2, 3, 50
"""Samples of a step: the first are not counted; then at least, and at most, so many."""


@dataclass
class Words:
    """The command line, with what --tiny makes of it."""

    part: str | None
    device: str
    data: str | None
    weights: Path | None
    out: Path
    minutes: float
    peak: float | None
    tiny: bool
    seconds: float
    tests: list[str] = field(default_factory=list)

    @property
    def net(self) -> dict[str, Any]:
        """The net of every part."""
        return {"name": "small_cnn", "width": 4, "channels": 3} if self.tiny else {"name": "resnet18"}

    @property
    def batches(self) -> tuple[int, ...]:
        """Of the steps."""
        return (8, 16) if self.tiny else (128, 512)

    @property
    def attacked(self) -> int:
        """Images under AutoAttack."""
        return 4 if self.tiny else 512

    def write(self, **result: Any) -> None:
        """A line of the results, at once."""
        with (self.out / "gpu_check.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"part": self.part, **result}) + "\n")
        print(json.dumps({"part": self.part, **result}), flush=True)

    def splits(self) -> tuple[Split, Split, Split]:
        """Train, val and test: of --data, else made up, whose brightness tells their class."""
        if self.data:
            return datasets.load(self.data)
        n, held, side = (64, 16, 8) if self.tiny else (20_000, 1_000, 32)
        index = torch.arange(n + 2 * held)
        levels = (index % 10)[:, None, None, None] / 20
        images = (255 * (Noise(0, index, "images").uniform((3, side, side)) / 2 + levels)).to(torch.uint8)
        whole = Split(images, index % 10, 10, "made up", "train")
        return whole.take(slice(0, n)), whole.take(slice(n, n + held)), whole.take(slice(n + held, None))


# Parts


def machine(words: Words) -> None:
    """The device and the versions."""
    name = torch.cuda.get_device_name() if words.device.startswith("cuda") else words.device
    memory = torch.cuda.get_device_properties(0).total_memory if words.device.startswith("cuda") else None
    peak = words.peak or next((tera for key, tera in PEAKS.items() if key in name), None)
    words.write(
        device=name, torch=torch.__version__, cuda=torch.version.cuda, memory_gb=memory and round(memory / 1e9, 1),
        peak_tflops=peak or "unknown", data=words.data or "made up: speeds hold, accuracies mean nothing",
    )  # fmt: skip


def tests(words: Words) -> None:
    """pytest, NCCL in one process, and a run in float16, each a process."""
    words.write(what="pytest", **_pytest(words))
    if not words.device.startswith("cuda"):
        words.write(what="nccl and float16", skipped="no GPU")
        return
    train = ["-m", "ardor", "train", "sat", "--data", "digits", "--recipe.epochs", "1", "--recipe.device", "cuda"]
    launched = ["-m", "torch.distributed.run", "--nproc_per_node", "1", "--standalone"]
    commands = {
        "nccl, one process": [*launched, *train, "--run", str(words.out / "runs" / "nccl")],
        "float16": [*train, "--recipe.precision", "float16", "--run", str(words.out / "runs" / "float16")],
    }
    for what, command in commands.items():
        code, tail = _run([sys.executable, *command], words.seconds / 3)
        words.write(what=what, passed=code == 0, tail=tail[-300:])


def _pytest(words: Words) -> dict[str, Any]:
    if importlib.util.find_spec("pytest") is None:
        return {"skipped": "pytest is not installed"}
    chosen = [test for test in words.tests or TESTS if (HERE.parent / test.partition("::")[0]).exists()]
    if not chosen:
        return {"skipped": "no tests beside this script"}
    workers = (
        ["-n", "4"] if importlib.util.find_spec("xdist") and not words.tiny else ["-p", "no:xdist", "-o", "addopts="]
    )
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--maxfail", "10", *workers, *chosen]
    code, tail = _run(command, words.seconds / 2, HERE.parent)
    return {"passed": code == 0, "tail": tail[-500:]}


def _run(command: list[str], seconds: float, folder: Path | None = None) -> tuple[int | str, str]:
    """The exit code of a command in a folder, here by default, or why there is none, and its output."""
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        text, _ = process.communicate(timeout=seconds)
        return process.returncode, text
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        text, _ = process.communicate()
        return f"stopped after {seconds:.0f} s", text


def steps(words: Words) -> None:
    """Released and ours, for each form and batch as many samples as the time allows."""
    begun, shape = time.monotonic(), words.splits()[0].shape
    teacher = models.build(**words.net, seed=1).to(words.device)
    work = 26 * macs(models.build(**words.net), shape) + macs(teacher, shape)  # 26F + 1T of RSLAD
    seconds = words.seconds / (len(words.batches) * (len(OURS) + 1))
    reference: dict[int, float] = {}
    for form, changes in {"released, float32": None, **OURS}.items():
        for batch in words.batches:
            late = not words.tiny and time.monotonic() - begun > words.seconds
            if reference.keys() >= set(words.batches) and (late or (words.tiny and "compiled" in form)):
                words.write(form=form, batch=batch, skipped="no time left" if late else "a minute, of a tiny net")
                continue
            with _recorded(words, form=form, batch=batch), freeze(teacher):
                data = _noise(words, shape, batch)
                step = _released(words, teacher, data) if changes is None else _ours(words, teacher, data, changes)
                taken = _sampled(step, seconds, words.device)
                median = statistics.median(taken)
                reference.setdefault(batch, median)
                faster = round(reference[batch] / median, 2)
                words.write(form=form, batch=batch, faster=faster, **_speed(words, batch, work, taken))


def _noise(words: Words, shape: tuple[int, int, int], batch: int) -> Split:
    """A batch of noise on the device."""
    index = torch.arange(batch)
    images = Noise(0, index, "images").uniform(shape)
    return Split(images.to(words.device), (index % 10).to(words.device), 10, "noise", "train", index=index)


def _released(words: Words, teacher: nn.Module, data: Split) -> Callable[[], Any]:
    net = models.build(**words.net, seed=2).to(words.device)
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=2e-4)
    start = (0.001 * Noise(0, data.index.cpu(), "method", 1).normal(data.shape)).to(words.device)
    images: Any = data.images
    return lambda: released_step(net, teacher, optimiser, images, start)


def _ours(words: Words, teacher: nn.Module, data: Split, changes: dict[str, Any]) -> Callable[[], Any]:
    if "float16" in changes.values() and not words.device.startswith("cuda"):
        raise RuntimeError("float16 is for GPUs")
    net = models.build(**words.net, seed=2).to(words.device)
    recipe = Recipe(batch=len(data), augment="none", lr=1e-3, device=words.device, **changes)
    method = methods.RSLAD(scale=0.1, attack=PGD(Linf(EPS), steps=10, step=STEP, start="gaussian"))
    scaler = torch.amp.GradScaler("cuda") if recipe.precision == "float16" else None
    state = TrainState(net, method, make_optimiser(net, method, recipe), scaler=scaler)
    return lambda: train_epoch(state, teacher, data, recipe, 1)


def _sampled(step: Callable[[], Any], seconds: float, device: str) -> list[float]:
    """Seconds of a step, as many as fit."""
    times: list[float] = []
    end = time.monotonic() + seconds
    while len(times) < FIRST + LEAST or (time.monotonic() < end and len(times) < FIRST + MOST):
        _synchronise(device)
        begun = time.perf_counter()
        step()
        _synchronise(device)
        times.append(time.perf_counter() - begun)
    return times[FIRST:]


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _speed(words: Words, batch: int, work: float, times: list[float]) -> dict[str, Any]:
    median = statistics.median(times)
    tera = 2 * work * batch / median / 1e12
    name = torch.cuda.get_device_name() if words.device.startswith("cuda") else words.device
    peak = words.peak or next((tera for key, tera in PEAKS.items() if key in name), None)
    share = f"{100 * tera / peak:.2g} %" if peak else "unknown"
    return {
        "ms": round(1e3 * median, 2), "images_per_second": round(batch / median), "tflops": float(f"{tera:.3g}"),
        "of_bfloat16_peak": share, "samples": len(times),
    }  # fmt: skip


def teacher(words: Words) -> None:
    """Adversarial training with PGD-3, in bfloat16, one cycle over the epochs that fit."""
    attack = PGD(Linf(EPS), steps=3, step=4 / 255)
    _train(words, "teacher", methods.SAT(attack=attack), None)


def rslad(words: Words) -> None:
    """RSLAD with PGD-10 from the teacher of this check."""
    found = words.out / "runs" / "teacher"
    if not (found / "last.safetensors").is_file():
        words.write(skipped="no teacher: the part `teacher` did not end an epoch")
        return
    attack = PGD(Linf(EPS), steps=10, step=STEP, start="gaussian")
    _train(words, "rslad", methods.RSLAD(attack=attack), models.load(found, checkpoint="last"))


def _train(words: Words, name: str, method: Any, taught_by: nn.Module | None) -> None:
    """As many epochs as fit, by the speed of a few steps; of part of the images where not even one fits."""
    train, val, _ = words.splits()
    half = {} if words.device == "cpu" else {"precision": "bfloat16", "attack_precision": "bfloat16"}
    half |= {} if taught_by is None or words.device == "cpu" else {"teacher_precision": "bfloat16"}
    batch, flip = (16, "none") if words.tiny else (128, "crop-flip")
    recipe = Recipe(
        epochs=1, batch=batch, lr=0.2, schedule="one-cycle", optimiser=SGD(weight_decay=5e-4), augment=flip,
        val_size=16 if words.tiny else 500, device=words.device, **half,
    )  # fmt: skip
    begun = time.monotonic()
    few = train.limit(min(len(train), 10 * batch))
    for _ in range(2):  # the first is a warm-up
        net = models.build(**words.net)
        speed = next(epochs(net, taught_by, method, few, recipe)).images_per_second
    left = 0.8 * (words.seconds - (time.monotonic() - begun))  # validation and the last save
    images = min(len(train), max(2 * batch, int(left * speed)))
    number = 1 if words.tiny else max(1, int(left * speed / images))
    end = time.monotonic() + left
    run = words.out / "runs" / name
    records = epochs(
        models.build(**words.net), taught_by, method, train.limit(images),
        replace(recipe, epochs=number, val_every=max(1, number // 2)), val=val, run=run,
        stop=lambda: time.monotonic() > end and not words.tiny,
    )  # fmt: skip
    for record in records:
        words.write(
            epoch=record.epoch, of=number, images=images, images_per_second=round(record.images_per_second),
            loss=round(record.loss, 4), val_clean=record.val_clean, val_robust=record.val_robust,
        )  # fmt: skip


def autoattack(words: Words) -> None:
    """The verdicts of the official code and of ours, in rounds of a quarter of the images until the time is spent."""
    official = _official()
    if official is None:
        words.write(skipped="no official AutoAttack: pip install pyautoattack==0.2.0")
        return
    net, test = _attacked(words)
    counts = {"official": 0, "ours": 0, "only official": 0, "only ours": 0, "images": 0, "clean": 0}
    seconds = {"official": 0.0, "ours": 0.0}
    end, size, last = time.monotonic() + 0.9 * words.seconds, max(2, len(test) // 4), 0.0
    for rows in torch.arange(len(test)).split(size):
        if counts["images"] and time.monotonic() + last > end and not words.tiny:
            break
        begun = time.monotonic()
        part = test.take(rows)
        theirs = _timed(seconds, "official", lambda part=part: _of_official(official, net, part, words.device))
        ours = _timed(seconds, "ours", lambda part=part: _of_ours(net, part))
        last = time.monotonic() - begun
        counts["images"] += len(part)
        counts["official"] += int(theirs.sum())
        counts["ours"] += int(ours.sum())
        counts["only official"] += int((theirs & ~ours).sum())
        counts["only ours"] += int((ours & ~theirs).sum())
        counts["clean"] += int(_right(net, part, words.device).sum())
        words.write(**counts, seconds={who: round(spent, 1) for who, spent in seconds.items()}, of=len(test))


def _attacked(words: Words) -> tuple[nn.Module, Split]:
    """The net, of --weights or of the part `teacher`, else with fresh weights; and its test images."""
    trained, test = words.out / "runs" / "teacher", words.splits()[2].limit(words.attacked)
    if words.weights:
        net = models.load(str(words.weights)) if words.weights.is_dir() else models.build(**words.net)
        if words.weights.is_file():
            net = models.load(words.net["name"], weights=str(words.weights))
    elif (trained / "last.safetensors").is_file():
        net = models.load(trained, checkpoint="last")
    else:
        net = models.build(**words.net)
        words.write(note="fresh weights: the part `teacher` did not end an epoch")
    return net.to(words.device).eval(), test


def _official() -> Any:
    """The class AutoAttack of pyautoattack, or of fra31's package, past autoattack.py beside this script."""
    for name in ("pyautoattack", "autoattack"):
        before = list(sys.path)
        sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != HERE]
        try:
            return importlib.import_module(name).AutoAttack
        except (ImportError, AttributeError):
            continue
        finally:
            sys.path[:] = before
    return None


def _of_official(official: Any, net: nn.Module, part: Split, device: str) -> Tensor:
    x, y, _ = part.batch(slice(None))
    x, y = x.to(device), y.to(device)
    with torch.random.fork_rng():
        attack = official(net, norm="Linf", eps=EPS, version="standard", device=device, seed=0)
        attack.verbose = False
        size = "bs" if "bs" in inspect.signature(attack.run_standard_evaluation).parameters else "batch_size"
        result = attack.run_standard_evaluation(x, y, **{size: len(x)})
    images = result[0] if isinstance(result, tuple) else result  # pyautoattack's has labels, too
    with torch.no_grad():
        return (net(images).argmax(1) == y).cpu()


def _of_ours(net: nn.Module, part: Split) -> Tensor:
    report = evaluate(net, part, suites.autoattack(Linf(EPS)), batch=len(part), progress=None)
    return torch.tensor(report.correct()["worst_case"])


def _right(net: nn.Module, part: Split, device: str) -> Tensor:
    x, y, _ = part.batch(slice(None))
    with torch.no_grad():
        return (net(x.to(device)).argmax(1).cpu() == y.cpu()).cpu()


def _timed(seconds: dict[str, float], who: str, run: Callable[[], Tensor]) -> Tensor:
    begun = time.monotonic()
    verdicts = run()
    seconds[who] += time.monotonic() - begun
    return verdicts


@contextlib.contextmanager
def _recorded(words: Words, **what: Any) -> Iterator[None]:
    """An error as a result, so that what comes after it is still measured."""
    try:
        yield
    except Exception as error:
        words.write(**what, error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


PARTS: dict[str, Callable[[Words], None]] = {
    "machine": machine, "tests": tests, "steps": steps, "teacher": teacher, "autoattack": autoattack, "rslad": rslad
}  # fmt: skip


# The whole


def check(words: Words, command: list[str]) -> int:
    """Every part in its process, with its share of what is left. 1 where a part failed or was stopped."""
    end, failed = time.monotonic() + 60 * words.minutes, False
    (words.out / "gpu_check.jsonl").write_text("", encoding="utf-8")
    for number, part in enumerate(PARTS):
        left = sum(list(SHARES.values())[number:])
        seconds = (end - time.monotonic()) * SHARES[part] / left
        start = 10  # of Python and torch
        child = [sys.executable, __file__, *command, "--part", part, "--seconds", f"{max(1.0, seconds - start):.1f}"]
        most = 600.0 if words.tiny else max(15.0, min(1.2 * seconds, end - time.monotonic()))
        code, text = _run(child, most)
        sys.stdout.write(text)
        if code != 0:
            failed = True
            replace(words, part=part).write(failed=str(code), tail=text[-1500:])
        (words.out / "gpu_check.md").write_text(summary(words.out / "gpu_check.jsonl"), encoding="utf-8")
    print(f"Written: {words.out / 'gpu_check.jsonl'}, {words.out / 'gpu_check.md'}")
    return int(failed)


def summary(path: Path) -> str:
    """The results as Markdown: a table for each part, of the keys that its lines have."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    text = ["# GPU check", ""]
    for part in dict.fromkeys(line["part"] for line in lines):
        results = [
            {key: value for key, value in line.items() if key != "part"} for line in lines if line["part"] == part
        ]
        keys = list(dict.fromkeys(key for result in results for key in result))
        text += [f"## {part}", "", f"| {' | '.join(keys)} |", "|" + "---|" * len(keys)]
        text += [f"| {' | '.join(_cell(result.get(key, '')) for key in keys)} |" for result in results] + [""]
    return "\n".join(text)


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "/")[-400:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="as ardor train takes it; default made-up images of 3 x 32 x 32")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu_check")))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--peak", type=float, help="of the chip in bfloat16, TFLOP/s")
    parser.add_argument("--weights", type=Path, help="a run, or a file of a ResNet-18's weights, for AutoAttack")
    parser.add_argument("--tests", nargs="+", default=[], help="of pytest, in place of the selection")
    parser.add_argument("--tiny", action="store_true", help="tiny nets and images: to try the script itself")
    parser.add_argument("--part", choices=list(PARTS), help="this part alone, in this process")
    parser.add_argument("--seconds", type=float, default=60.0, help="of --part")
    words = Words(**vars(parser.parse_args()))
    if words.device.startswith("cuda") and not torch.cuda.is_available():
        print("expected a GPU, got none: type --device cpu --tiny to try the script itself", file=sys.stderr)
        return 2
    words.out = words.out.resolve()
    words.out.mkdir(parents=True, exist_ok=True)
    if words.part is None:
        return check(words, sys.argv[1:])
    try:
        PARTS[words.part](words)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
