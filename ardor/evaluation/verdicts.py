"""evaluate: a verdict per image and attack, from which every accuracy derives.

The attacks of an independent suite each start from all correctly classified images and are judged at their final
iterate. Those of a sequential one each see the survivors of the attacks before, and any iterate counts. Work is cut
into batches that follow from the data and earlier verdicts alone, and every image has its own random stream: verdicts
do not depend on batch order, batch composition, process or interruption.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ardor.attacks import APGD, CW, FAB, FGSM, PGD, Square, Suite
from ardor.attacks.rounds import fitted, has_rounds, rounds_of
from ardor.attacks.suites import named
from ardor.data.split import Split
from ardor.engine.compiling import compiled, require_compiler
from ardor.engine.flops import CountedNet
from ardor.engine.modes import attack_view, device_of
from ardor.errors import ConfigError, DataError
from ardor.evaluation import checks, findings
from ardor.evaluation.attacked import attacked
from ardor.evaluation.checks.net import logits_of
from ardor.evaluation.identity import empty_report, identity_of_report
from ardor.evaluation.journal import Batch, BatchVerdict, Journal
from ardor.evaluation.live import cleared, shown
from ardor.evaluation.progress import ProgressCallback, ProgressMeter, line_of
from ardor.evaluation.report import BROKEN, NOT_ATTEMPTED, ROBUST, Report
from ardor.models import require_fit
from ardor.models.fit import require_gradient
from ardor.noise import seeded
from ardor.storage.arguments import typed
from ardor.storage.files import write_atomic
from ardor.types import Attack, Threat

ITERATED = (PGD, CW, APGD, FAB)
NEW_STARTS = 10
"""Starts of APGD on each loss that the images get which Square alone broke."""


@typed
def evaluate(
    net: nn.Module,
    data: Split,
    suite: Suite | str,
    *,
    threat: Threat | None = None,
    batch: int = 256,
    seed: int = 0,
    journal: str | Path | None = None,
    images: bool = False,
    compile: bool = False,
    progress: ProgressCallback | bool | None = True,
) -> Report:
    """Evaluate `net` on every image of `data` under every attack of `suite`.

    Modes, parameter gradients and the global random generator are restored.

    Parameters
    ----------
    net : nn.Module
        (B, C, H, W) in [0, 1] -> logits (B, classes).
    data : Split
        N images with labels.
    suite : Suite or str
        The attacks, independent or sequential; or the name of a suite: paper, quick, autoattack, plus, rand, apgd,
        square.
    threat : Threat, optional
        Of a suite that is named; Linf 8/255 by default.
    batch : int
        Images computed at once, at least 1; part of the result's identity.
    seed : int
        Of the attacks' random starts.
    journal : str, Path or None
        A folder for the verdicts of finished batches: the same call continues an interrupted evaluation, and several
        processes with one journal share the work.
    images : bool
        Save adversarial.npy in the journal, (N, C, H, W) float32: for each image the first adversarial one, else the
        image itself.
    compile : bool
        Compile the net's passes without gradients, as Square's: see `ardor.engine.compiling`. Successes are confirmed
        on `net`, so it is no part of the result's identity.
    progress : callable or bool
        True shows a line on a terminal or in a notebook, and nothing elsewhere; False nothing. A function is called
        with each `Progress`: see `ProgressCallback`.

    Returns
    -------
    Report
        A verdict per image and attack, and findings.

    Raises
    ------
    ModelError
        Net and data do not fit, or logits are not finite.
    ThreatError
        An attack leaves its threat.
    RunError
        The journal is of another evaluation or cannot be written.
    DataError, ConfigError
        `batch` is below 1; a suite with another name, or with a threat beside its own; `images` without a journal,
        `compile` without a compiler, or an attack without a round.
    """
    if isinstance(suite, str):
        suite = named(suite, threat)
    elif threat is not None:
        raise ConfigError(
            f"expected a threat beside the name of a suite alone, got one beside the suite {suite.name}, which has its "
            f'own: pass for example "{suite.name}"'
        )
    if batch < 1:
        raise DataError(f"expected a batch of at least 1 image, got {batch}: type for example 256")
    if images and journal is None:
        raise ConfigError("expected a journal to keep the images in, got none: type --journal FOLDER")
    if compile:
        require_compiler("--compile", device_of(net))
    with seeded(seed):  # for a net that draws random numbers
        require_fit(net, data.shape, data.classes)
        if _follows_gradients(suite) and not hasattr(net, "without_gradients"):
            require_gradient(net, data.shape)
    batch = min(batch, len(data))
    attacks = {name: fitted(attack, data.classes) for name, attack in suite.attacks.items()}
    report = empty_report(net, data, suite, attacks, seed, batch)
    identity, show = identity_of_report(report, attacks), shown(progress, line_of)
    meter = ProgressMeter(attacks, len(data), data.classes, batch, suite.sequential, show)
    with cleared(show), seeded(seed), attack_view(net) as view, Journal.open(journal, identity, images) as book:
        view = compiled(net, data.shape, batch) if compile else view
        evaluation = _Evaluation(net, CountedNet(view, meter.tick), data, suite, report, book, meter)
        evaluation.run(attacks)
        if images:
            _merge_images(Path(str(journal)), book, data, batch, evaluation.rows)
    report.findings = _findings(net, data, report, suite, attacks)
    return report


@dataclass
class _Evaluation:
    """Fills a report: attacks run on the view, successes count on the net as given. rows: of a batch, by its stage."""

    net: nn.Module
    view: CountedNet
    data: Split
    suite: Suite
    report: Report
    book: Journal
    meter: ProgressMeter
    rows: dict[tuple[str, int], list[int]] = field(default_factory=dict)

    def run(self, attacks: dict[str, Attack]) -> None:
        """Evaluate the clean images, then every attack, stage by stage."""
        report, letters = self.report, [NOT_ATTEMPTED] * len(self.data)
        self._stage("clean", torch.arange(len(self.data)), letters, "clean", None, True)
        left = correct = _robust_rows(letters)
        for name, attack in attacks.items():
            start, letters = time.perf_counter(), [NOT_ATTEMPTED] * len(self.data)
            left = left if self.suite.sequential else correct
            rounds = rounds_of(attack, self.data.classes) if len(left) else []
            if len(left) and not rounds:
                raise ConfigError(f"expected at least one round of {name}, got none: let rounds(classes) list one")
            report.passes[name] = [0, 0]
            for number, one in enumerate(rounds):
                self.meter.enter(name, number, len(left))
                self._stage(f"{name}/{number}", left, letters, name, one, not has_rounds(attack))
                left = _robust_rows(letters)
            report.verdicts[name] = "".join(letters)
            if self.book.folder is None:  # with a journal the time depends on the number of processes
                report.seconds[name] = round(time.perf_counter() - start, 3)
        if self.suite.sequential:
            self._new_starts(attacks)

    def _new_starts(self, attacks: Mapping[str, Attack]) -> None:
        """Attack by gradient, from new starts, what Square alone broke: hidden gradients, or one start too few?"""
        report, classes = self.report, self.data.classes
        square, again = _again(attacks)
        if not again:
            return
        letters = [ROBUST if letter == BROKEN else NOT_ATTEMPTED for letter in report.verdicts[square]]
        left = _robust_rows(letters)
        if not len(left):
            return
        report.passes["new_starts"] = [0, 0]
        rounds = [one for attack in again for one in rounds_of(attack, classes)]
        self.meter.announce("new_starts", len(rounds), sum(attack.cost(classes) for attack in again))
        for number, one in enumerate(rounds):
            self.meter.enter("new_starts", number, len(left))
            self._stage(f"new_starts/{number}", left, letters, "new_starts", one, False)
            left = _robust_rows(letters)
        report.new_starts = "".join(letters)

    def _stage(
        self, stage: str, rows: Tensor, letters: list[str], name: str, attack: Attack | None, padded: bool
    ) -> None:
        """Evaluate `rows` in even batches, here or in another process; update `letters` and the passes."""
        index = self.data.index.cpu()
        chunks = rows.tensor_split(math.ceil(len(rows) / self.report.batch)) if len(rows) else ()
        batches = [Batch(number, chunk, index[chunk].tolist()) for number, chunk in enumerate(chunks)]
        for one, entry, fresh in self.book.complete(stage, batches, partial(self._judge, stage, name, attack, padded)):
            places = self.rows[stage, one.number] = one.rows.tolist()
            for row, letter in zip(places, entry.letters, strict=True):
                letters[row] = letter
            if attack is not None:
                forwards, backwards = self.report.passes[name]
                self.report.passes[name] = [forwards + entry.forwards, backwards + entry.backwards]
            self.meter.add(replace(entry, index=places), fresh)  # an index may be there twice

    def _judge(
        self, stage: str, name: str, attack: Attack | None, padded: bool, batch: Batch
    ) -> tuple[BatchVerdict, np.ndarray[Any, Any] | None]:
        """The verdicts of a batch, clean or attacked, and the images that fool the net.

        padded: the attack is one round on a batch padded to one shape; else it is one round of several, on survivors.
        """
        start, size, seed = time.perf_counter(), len(batch.rows), self.report.seed
        options: dict[str, Any] = {"batch": self.report.batch, "seed": seed, "rows": batch.rows, "pad": padded}
        threat = None if attack is None else self.suite.threat
        digest = hashlib.blake2b(f"{seed}/{stage}/{batch.number}".encode(), digest_size=7).digest()
        self.view.reset()
        with seeded(int.from_bytes(digest, "little")):  # a random net draws the same numbers in any process
            (one,) = attacked(self.view, self.data, attack, name if padded else stage, threat=threat, **options)
            right = (logits_of(self.net, one.x_adv, f" under {name}").argmax(1) == one.y)[:size]
        wrong = NOT_ATTEMPTED if attack is None else BROKEN
        letters = "".join(ROBUST if r else wrong for r in right.tolist())
        forwards, backwards = (n * size // len(one.x) for n in (self.view.forwards, self.view.backwards))
        seconds = round(time.perf_counter() - start, 3)
        verdict = BatchVerdict(stage, batch.number, batch.index, letters, forwards, backwards, seconds)
        if not self.book.images or BROKEN not in letters:
            return verdict, None
        return verdict, one.x_adv[:size][~right].float().cpu().contiguous().numpy()


def _again(attacks: Mapping[str, Attack]) -> tuple[str, list[APGD]]:
    """Square's name, and APGD from new starts on the losses that iterated attacks before it followed: [] for none.

    A loss that the suite has not is left out: what only that breaks shows a loss that misleads, not a start too few.
    """
    losses = dict[Literal["ce", "margin"], None]()
    for name, attack in attacks.items():
        if isinstance(attack, Square):
            return name, [APGD(attack.threat, loss=loss, restarts=NEW_STARTS) for loss in losses]
        if isinstance(attack, ITERATED):
            losses["ce" if getattr(attack, "loss", "margin") == "ce" else "margin"] = None
    return "", []


def _follows_gradients(suite: Suite) -> bool:
    """Whether gradients are all that its attacks follow: beside Square, those by gradient stay where they are."""
    attacks = suite.attacks.values()
    return any(isinstance(a, FGSM | PGD | CW | APGD | FAB) for a in attacks) and not any(
        isinstance(a, Square) for a in attacks
    )


def _robust_rows(letters: Sequence[str]) -> Tensor:
    return torch.tensor([row for row, letter in enumerate(letters) if letter == ROBUST], dtype=torch.int64)


def _findings(
    net: nn.Module, data: Split, report: Report, suite: Suite, run: dict[str, Attack]
) -> list[findings.Finding]:
    """Findings on the data, on the net by its first batch, and on the verdicts."""
    first = next(attacked(net, data, None, "clean", batch=report.batch))
    results = checks.data.of_data(data) + checks.net.of_net(net, first.x, first.y)
    results += checks.exported.of_file(net, first.x) + checks.attacks.of_report(report)
    results += findings.present(checks.attacks.few_classes(suite.attacks, run, data.classes))
    return findings.without_consequences(results)


def _merge_images(
    folder: Path, book: Journal, data: Split, batch: int, rows_of: Mapping[tuple[str, int], list[int]]
) -> None:
    """Write one array of all images row by row: memory does not grow with it."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(data), *data.shape)}
            np.lib.format.write_array_header_1_0(file, header)
            start = file.tell()
            for part in torch.arange(len(data)).split(batch):
                file.write(data.batch(part.to(data.labels.device))[0].cpu().numpy().astype("<f4").tobytes())
            written: set[int] = set()
            for entry in book.entries():
                rows = rows_of[entry.stage, entry.number]
                broken = [row for row, letter in zip(rows, entry.letters, strict=True) if letter == BROKEN]
                images = book.images_of(entry.stage, entry.number) if broken else ()
                for row, image in zip(broken, images, strict=True):
                    if row not in written:
                        file.seek(start + row * 4 * math.prod(data.shape))
                        file.write(image.astype("<f4").tobytes())
                written.update(broken)

    write_atomic(folder / "adversarial.npy", write)
