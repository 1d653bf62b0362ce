"""How far an evaluation is, what it has found so far, and how long it may still take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ardor.attacks.rounds import rounds_of
from ardor.evaluation.journal import BatchVerdict

EVERY = 0.2
"""Seconds between two reports while a batch is at work."""


@dataclass(frozen=True)
class Progress:
    """A moment of an evaluation.

    attack: "clean" at first. round, rounds: of this attack, counted from 1. done, todo: images of this round. robust:
    the share of all images that this attack, and in a sequential suite those before it, have not broken yet. share: of
    the whole work that is done, and seconds: left for the rest, at the pace of this process so far and with as many
    others as have helped; None before there is a pace. Both suppose that every survivor withstands the rest, so they
    are bounds.
    """

    attack: str
    round: int
    rounds: int
    done: int
    todo: int
    robust: float
    share: float
    seconds: float | None


class ProgressMeter:
    """Counts what is done, by this process or another, and tells `progress`.

    The unit is a pass of a batch, forward or back: on a small net a small batch takes hardly less than a full one.
    """

    def __init__(
        self,
        attacks: Mapping[str, Any],
        images: int,
        classes: int,
        batch: int,
        sequential: bool,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._progress, self._images, self._batch, self._sequential = progress, images, batch, sequential
        self._rounds = {"clean": 1} | {name: len(rounds_of(attack, classes)) for name, attack in attacks.items()}
        # what an attack costs a batch that withstands it; where one of a user's own does not say, nobody knows the rest
        costs = {name: getattr(attack, "cost", None) for name, attack in attacks.items()}
        self._known = all(callable(cost) for cost in costs.values())
        self._cost = {name: cost(classes) if callable(cost) else 1 for name, cost in costs.items()}
        self._began = self._told = self._since = time.monotonic()
        self._wrong: set[int] = set()
        self._fallen: set[int] = set()
        self._attack, self._round, self._todo, self._done, self._batches = "clean", 0, images, 0, 0
        self._worked = self._inside = 0.0
        self._own_passes = self._own_seconds = self._all_seconds = 0.0

    def enter(self, attack: str, number: int, todo: int) -> None:
        """Round `number`, from 0, of an attack begins on `todo` images."""
        if attack != self._attack and not self._sequential:
            self._fallen = set(self._wrong)
        self._attack, self._round, self._todo, self._done, self._batches = attack, number, todo, 0, 0
        self._since = time.monotonic()

    def add(self, entry: BatchVerdict, fresh: bool) -> None:
        """A batch is done. fresh: since this process began, and not found in the journal."""
        self._fallen |= {i for i, letter in zip(entry.index, entry.letters, strict=True) if letter != "r"}
        if entry.stage == "clean":
            self._wrong = set(self._fallen)
        self._done += len(entry.letters)
        self._batches += 1
        self._worked += self._each()
        if self._inside:  # it was this process that did it
            self._own_passes, self._own_seconds = self._own_passes + self._inside, self._own_seconds + entry.seconds
        self._all_seconds += entry.seconds if fresh else 0
        self._inside, self._since = 0.0, time.monotonic()
        self._tell()

    def tick(self, passes: int) -> None:
        """Inside a batch, `passes` of it have been made."""
        self._inside = passes
        if time.monotonic() - self._told >= EVERY:
            self._tell()

    def _tell(self) -> None:
        if self._progress is None:
            return
        self._told, left, done = time.monotonic(), self._left(), self._worked + min(self._inside, self._each())
        self._progress(
            Progress(
                self._attack,
                self._round + 1,
                self._rounds[self._attack],
                self._done,
                self._todo,
                1 - len(self._fallen) / self._images,
                done / (done + left) if done + left else 1.0,
                self._seconds(left),
            )
        )

    def _seconds(self, left: float) -> float | None:
        """The rest at this process's pace, over as many processes as were at work on average."""
        here = self._told - self._since if self._inside else 0.0
        passes, seconds = self._own_passes + self._inside, self._own_seconds + here
        if not left:
            return 0.0
        if not passes or not self._known:
            return None
        hands = max(1.0, (self._all_seconds + here) / max(self._told - self._began, 1e-9))
        return left * seconds / passes / hands

    def _each(self) -> float:
        """What a batch costs in a round of this attack."""
        return self._cost.get(self._attack, 1) / self._rounds[self._attack]

    def _left(self) -> float:
        """This round's open batches, this attack's later rounds, and the later attacks, if all survivors withstand."""
        names = list(self._rounds)
        standing = self._images - len(self._fallen)
        begin = standing if self._sequential else self._images - len(self._wrong)
        later = sum(self._cost[name] * self._count(begin) for name in names[names.index(self._attack) + 1 :])
        here = self._each() * (self._count(self._todo) - self._batches) - self._inside
        rounds = self._each() * (self._rounds[self._attack] - self._round - 1) * self._count(standing)
        return max(here, 0.0) + rounds + later

    def _count(self, images: int) -> int:
        """How many batches that makes."""
        return math.ceil(images / self._batch)
