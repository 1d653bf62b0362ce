"""The progress of an evaluation: images done, robust accuracy so far, and an estimate of the time left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ardor.attacks.rounds import rounds_of
from ardor.evaluation.journal import BatchVerdict

EVERY = 0.2
"""Seconds between two reports within a batch."""


@dataclass(frozen=True)
class Progress:
    """A moment of an evaluation.

    attack: "clean" at first. round, rounds: of this attack, counted from 1. done, todo: images of this round. robust:
    the share of all images that this attack, and in a sequential suite those before it, have not broken yet. share: of
    the work, in [0, 1]. seconds: the time left, at the pace of this process and the mean number of processes so far;
    None before there is a pace. Both assume that every survivor withstands the rest, so they are bounds.
    """

    attack: str
    round: int
    rounds: int
    done: int
    todo: int
    robust: float
    share: float
    seconds: float | None


ProgressCallback: TypeAlias = Callable[[Progress], None]
"""Called after each batch, and every `EVERY` seconds within one."""


class ProgressMeter:
    """Counts finished work, of this process and others, and reports it.

    The unit is a pass of a batch, forward or back: on a small net a small batch takes hardly less than a full one.

    Parameters
    ----------
    attacks : Mapping
        The attacks by name, in order.
    images, classes : int
        Of the split.
    batch : int
        Images per batch, at most.
    sequential : bool
        Whether each attack runs on the survivors of those before.
    callback : ProgressCallback or None
        Receives the reports.
    """

    def __init__(
        self,
        attacks: Mapping[str, Any],
        images: int,
        classes: int,
        batch: int,
        sequential: bool,
        callback: ProgressCallback | None,
    ) -> None:
        self._images, self._batch, self._sequential, self._callback = images, batch, sequential, callback
        self._rounds = {"clean": 1} | {name: len(rounds_of(attack, classes)) for name, attack in attacks.items()}
        # passes for a batch that withstands the attack; without a third-party attack's cost no time is estimated
        costs = {name: getattr(attack, "cost", None) for name, attack in attacks.items()}
        self._has_costs = all(map(callable, costs.values()))
        self._cost: dict[str, float] = {"clean": 1} | {
            name: cost(classes) if callable(cost) else 1 for name, cost in costs.items()
        }
        self._start = self._reported = time.monotonic()
        self._wrong: set[int] = set()
        self._broken: set[int] = set()
        self._completed = self._current = 0.0  # passes: of finished batches, and of the batch that is computed here
        self._local_passes = self._local_seconds = self._all_seconds = 0.0
        self._attack = "clean"
        self.enter("clean", 0, images)

    def announce(self, attack: str, rounds: int, cost: float) -> None:
        """Add an attack after all others, with its passes for an image that withstands it."""
        self._rounds[attack], self._cost[attack] = rounds, cost

    def enter(self, attack: str, number: int, todo: int) -> None:
        """Start round `number`, from 0, of an attack on `todo` images."""
        if attack != self._attack and not self._sequential:
            self._broken = set(self._wrong)
        self._attack, self._round, self._todo, self._done = attack, number, todo, 0
        self._open, self._batch_start = self._batches(todo), time.monotonic()

    def add(self, entry: BatchVerdict, fresh: bool) -> None:
        """Count a finished batch. fresh: computed since this process started, here or elsewhere."""
        self._broken |= {i for i, letter in zip(entry.index, entry.letters, strict=True) if letter != "r"}
        if entry.stage == "clean":
            self._wrong = set(self._broken)
        self._done += len(entry.letters)
        self._open -= 1
        self._completed += self._batch_cost
        if self._current:  # computed by this process
            self._local_passes += self._current
            self._local_seconds += entry.seconds
        self._all_seconds += entry.seconds if fresh else 0
        self._current, self._batch_start = 0.0, time.monotonic()
        self._report()

    def tick(self, passes: int) -> None:
        """Count `passes` within the current batch."""
        self._current = passes
        if time.monotonic() - self._reported >= EVERY:
            self._report()

    @property
    def _batch_cost(self) -> float:
        """Passes for a batch in a round of this attack."""
        return self._cost[self._attack] / self._rounds[self._attack]

    def _batches(self, images: int) -> int:
        return math.ceil(images / self._batch)

    def _report(self) -> None:
        if self._callback is None:
            return
        self._reported, left = time.monotonic(), self._left()
        done = self._completed + min(self._current, self._batch_cost)
        robust, share = 1 - len(self._broken) / self._images, done / (done + left) if done + left else 1.0
        place = self._attack, self._round + 1, self._rounds[self._attack], self._done, self._todo
        self._callback(Progress(*place, robust, share, self._time_left(left)))

    def _left(self) -> float:
        """Passes of this round's open batches, this attack's later rounds, and the later attacks."""
        names = list(self._rounds)
        survivors = self._images - len(self._broken)
        left = min(survivors, self._todo)  # new starts are on images that Square broke
        start = survivors if self._sequential else self._images - len(self._wrong)
        later = sum(self._cost[name] for name in names[names.index(self._attack) + 1 :]) * self._batches(start)
        rounds = self._batch_cost * (self._rounds[self._attack] - self._round - 1) * self._batches(left)
        return max(self._batch_cost * self._open - self._current, 0.0) + rounds + later

    def _time_left(self, passes: float) -> float | None:
        """Seconds for `passes` at this process's pace, over the mean number of processes at work."""
        elapsed = self._reported - self._batch_start if self._current else 0.0
        local_passes, local_seconds = self._local_passes + self._current, self._local_seconds + elapsed
        if not passes:
            return 0.0
        if not local_passes or not self._has_costs:
            return None
        processes = max(1.0, (self._all_seconds + elapsed) / max(self._reported - self._start, 1e-9))
        return passes * local_seconds / local_passes / processes


def line_of(now: Progress) -> str:
    """An evaluation in one line: attack, images, robust accuracy so far, and the time left."""
    rounds = f" {now.round}/{now.rounds}" if now.rounds > 1 else ""
    left = "" if now.seconds is None else f", at most {duration(now.seconds)} left"
    done = f"{now.done}/{now.todo} images, {100 * now.robust:.2f} % robust so far"
    return f"{now.attack}{rounds}: {100 * now.share:.0f} %, {done}{left}"


def duration(seconds: float) -> str:
    """45 s, 12 min or 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
