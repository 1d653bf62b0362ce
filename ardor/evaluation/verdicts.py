"""evaluate: a verdict per image and attack, from which every accuracy derives.

The attacks of an independent suite each start from all correctly classified images and are judged at their final
iterate. Those of a sequential one each see the survivors of the attacks before, and any iterate counts. Work is cut
into batches that follow from the data and earlier verdicts alone, and every image has its own random stream; so neither
order, nor company, nor who does the work, nor an interruption can change a verdict.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ardor.attacks import Suite
from ardor.attacks.rounds import fitted, has_rounds, rounds_of
from ardor.data.split import Split
from ardor.engine.flops import CountedNet
from ardor.engine.modes import attack_view
from ardor.errors import ConfigError, DataError
from ardor.evaluation import checks, findings
from ardor.evaluation.attacked import attacked
from ardor.evaluation.checks.net import logits_of
from ardor.evaluation.identity import empty_report, identity_of_report
from ardor.evaluation.journal import Batch, BatchVerdict, Journal
from ardor.evaluation.progress import Progress, ProgressMeter
from ardor.evaluation.report import BROKEN, NOT_ATTEMPTED, ROBUST, Report
from ardor.models import require_fit
from ardor.noise import seeded
from ardor.storage.files import write_atomic
from ardor.types import Attack, Threat

ProgressCallback: TypeAlias = Callable[[Progress], None]
"""Called while work goes on, a few times a second at most, and after each batch."""


def evaluate(
    net: nn.Module,
    data: Split,
    suite: Suite,
    *,
    batch: int = 256,
    seed: int = 0,
    journal: str | Path | None = None,
    images: bool = False,
    progress: ProgressCallback | None = None,
) -> Report:
    """Judge `net` on every image of `data` under every attack of `suite`.

    batch: how many images are computed at once, part of a result's identity. seed: of the attacks' random starts.
    journal: a folder that keeps the verdicts of every finished batch, so that a stopped evaluation goes on and other
    processes may take a share of it. images: keep there, as adversarial.npy (N, C, H, W) float32, for each image the
    first adversarial one found, else the image itself. progress: see `Tell`.

    Modes, parameter gradients and the global random generator are as before afterwards. Raises ModelError where net and
    data do not fit or logits are not finite, ThreatError where an attack leaves its threat, RunError where the journal
    is of another evaluation or cannot be written.
    """
    if batch < 1:
        raise DataError(f"expected a batch of at least 1 image, got {batch}: type for example 256")
    if images and journal is None:
        raise ConfigError("expected a journal to keep the images in, got none: pass journal='runs/mine/journal', say")
    with seeded(seed):  # whatever the net itself draws: the global generator is as before afterwards
        require_fit(net, data.shape, data.classes)
    attacks = {name: fitted(attack, data.classes) for name, attack in suite.attacks.items()}
    report = empty_report(net, data, suite, attacks, seed, batch)
    meter = ProgressMeter(attacks, len(data), data.classes, batch, suite.sequential, progress)
    book_of = partial(Journal.open, journal, identity_of_report(report, net, attacks), images=images)
    with seeded(seed), attack_view(net) as view, book_of() as book:
        judge = _Judge(net, CountedNet(view, meter.tick), data, suite.threat, batch, seed, images)
        _settle(report, suite, attacks, judge, book, meter)
        if images:
            _merge_images(Path(str(journal)), book, data, attacks, report)
    report.findings = _findings(net, data, report, suite, attacks)
    return report


def _settle(
    report: Report, suite: Suite, attacks: dict[str, Attack], judge: _Judge, book: Journal, meter: ProgressMeter
) -> None:
    """Fill the report's verdicts, stage by stage."""
    data = judge.data
    clean = [NOT_ATTEMPTED] * len(data)
    _stage(book, "clean", torch.arange(len(data)), judge, judge.clean, clean, meter)
    alive = correct = _rows(clean)
    for name, attack in attacks.items():
        began, forwards, backwards = time.perf_counter(), 0, 0
        left = alive if suite.sequential else correct
        letters = [NOT_ATTEMPTED] * len(data)
        rounds = rounds_of(attack, data.classes) if len(left) else []
        if len(left) and not rounds:
            raise ConfigError(f"expected at least one round of {name}, got none: let rounds(classes) list one")
        for number, one in enumerate(rounds):
            stage = f"{name}/{number}"
            meter.enter(name, number, len(left))
            work = partial(judge.attacked, stage, name, one, not has_rounds(attack))
            for entry in _stage(book, stage, left, judge, work, letters, meter):
                forwards, backwards = forwards + entry.forwards, backwards + entry.backwards
            left = _rows(letters)
        alive = left if suite.sequential else alive
        report.verdicts[name] = "".join(letters)
        report.passes[name] = [forwards, backwards]
        if book.folder is None:  # a journal's own time depends on who took part
            report.seconds[name] = round(time.perf_counter() - began, 3)


def _stage(
    book: Journal,
    stage: str,
    rows: Tensor,
    judge: _Judge,
    work: Callable[[Batch], tuple[BatchVerdict, np.ndarray[Any, Any] | None]],
    letters: list[str],
    meter: ProgressMeter,
) -> list[BatchVerdict]:
    """Have every batch of a stage judged, by whomever, and write its letters down."""
    index = judge.data.index.cpu()
    chunks = rows.tensor_split(math.ceil(len(rows) / judge.batch)) if len(rows) else ()  # of even size, to share
    batches = [Batch(number, chunk, index[chunk].tolist()) for number, chunk in enumerate(chunks)]
    entries = []
    for one, entry, fresh in book.settle(stage, batches, work):
        for row, letter in zip(one.rows.tolist(), entry.letters, strict=True):
            letters[row] = letter
        entries.append(entry)
        meter.add(entry, fresh)
    return entries


def _rows(letters: Sequence[str]) -> Tensor:
    """The rows that are robust so far."""
    return torch.tensor([row for row, letter in enumerate(letters) if letter == ROBUST], dtype=torch.int64)


@dataclass
class _Judge:
    """Judges one batch: attacked on the view, decided by the net as given."""

    net: nn.Module
    view: CountedNet
    data: Split
    threat: Threat
    batch: int
    seed: int
    images: bool

    def clean(self, batch: Batch) -> tuple[BatchVerdict, None]:
        """Right or wrong without an attack."""
        began = time.perf_counter()
        with seeded(_unit_seed(self.seed, "clean", batch.number)):
            (one,) = attacked(self.net, self.data, None, "clean", batch=self.batch, rows=batch.rows, pad=True)
            right = (logits_of(self.net, one.x).argmax(1) == one.y)[: len(batch.rows)].tolist()
        letters = "".join(ROBUST if r else NOT_ATTEMPTED for r in right)
        return BatchVerdict("clean", batch.number, batch.index, letters, len(one.x), 0, _since(began)), None

    def attacked(
        self, stage: str, name: str, attack: Attack, whole: bool, batch: Batch
    ) -> tuple[BatchVerdict, np.ndarray[Any, Any] | None]:
        """Robust or broken under an attack that keeps its batch `whole`, or else under one round of an attack."""
        began, size = time.perf_counter(), len(batch.rows)
        self.view.reset()
        with seeded(_unit_seed(self.seed, stage, batch.number)):  # a net that is random itself meets the same numbers
            (one,) = attacked(
                self.view,
                self.data,
                attack,
                name if whole else stage,
                batch=self.batch,
                seed=self.seed,
                rows=batch.rows,
                pad=whole,
                threat=self.threat,
            )
            broken = (logits_of(self.net, one.x_adv, f" under {name}").argmax(1) != one.y)[:size]
        letters = "".join(BROKEN if b else ROBUST for b in broken.tolist())
        images = one.x_adv[:size][broken].float().cpu().contiguous().numpy() if self.images and broken.any() else None
        forwards, backwards = (n * size // len(one.x) for n in (self.view.forwards, self.view.backwards))
        return BatchVerdict(stage, batch.number, batch.index, letters, forwards, backwards, _since(began)), images


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 3)


def _unit_seed(seed: int, stage: str, number: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stage}/{number}".encode(), digest_size=7).digest(), "little")


def _findings(
    net: nn.Module, data: Split, report: Report, suite: Suite, run: dict[str, Attack]
) -> list[findings.Finding]:
    """What could make the figures wrong: seen on the data, on the first batch, and in the verdicts."""
    first = next(attacked(net, data, None, "clean", batch=report.batch))
    found = [*checks.of_data(data), *checks.of_net(net, first.x, first.y), *checks.of_file(net, first.x)]
    found += checks.of_report(report)
    few = checks.few_classes(suite.attacks, run, data.classes)
    return findings.without_consequences([*found, *([few] if few else [])])


def _merge_images(folder: Path, book: Journal, data: Split, attacks: dict[str, Attack], report: Report) -> None:
    """One array of the whole set, written row by row: memory does not grow with it."""
    row_of = {index: row for row, index in enumerate(report.index)}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(data), *data.shape)}
            np.lib.format.write_array_header_1_0(file, header)
            start = file.tell()
            for rows in torch.arange(len(data)).split(report.batch):
                file.write(data.batch(rows.to(data.labels.device))[0].cpu().numpy().astype("<f4").tobytes())
            seen: set[int] = set()
            for entry in book.entries(attacks):
                broken = [row_of[i] for i, letter in zip(entry.index, entry.letters, strict=True) if letter == BROKEN]
                images = book.images_of(entry.stage, entry.number) if broken else ()
                for row, image in zip(broken, images, strict=True):
                    if row not in seen:
                        file.seek(start + row * 4 * math.prod(data.shape))
                        file.write(image.astype("<f4").tobytes())
                seen.update(broken)

    write_atomic(folder / "adversarial.npy", write)
