"""How far an evaluation is, what it has found so far, and how long it may still take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ardor.attacks.rounds import rounds_of
from ardor.journal import Entry

EVERY = 0.2
"""Seconds between two reports while a batch is at work."""


@dataclass(frozen=True)
class Progress:
    """A moment of an evaluation.

    attack: "clean" at first. round, rounds: of this attack, counted from 1. done, todo: images of this round. robust:
    the share of all images that this attack, and in a sequential suite those before it, have not broken yet. passes:
    images passed through the net so far, forward or back. left: passes to come if every survivor withstands the rest,
    an upper bound. seconds: what they take at the pace since the start, all processes together; None before there is
    one.
    """

    attack: str
    round: int
    rounds: int
    done: int
    todo: int
    robust: float
    passes: int
    left: int
    seconds: float | None


class Meter:
    """Counts what is done, by this process or another, and tells `progress`."""

    def __init__(
        self,
        attacks: Mapping[str, Any],
        images: int,
        classes: int,
        sequential: bool,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._progress, self._images, self._sequential = progress, images, sequential
        self._rounds = {"clean": 1} | {name: len(rounds_of(attack, classes)) for name, attack in attacks.items()}
        # what an attack costs an image that withstands it; an attack of a user's own may not say
        self._cost = {name: getattr(attack, "cost", lambda classes: 0)(classes) for name, attack in attacks.items()}
        self._began = self._told = time.monotonic()
        self._wrong: set[int] = set()
        self._fallen: set[int] = set()
        self._attack, self._round, self._todo, self._done = "clean", 0, images, 0
        self._passes = self._fresh = self._inside = 0

    def enter(self, attack: str, number: int, todo: int) -> None:
        """Round `number`, from 0, of an attack begins on `todo` images."""
        if attack != self._attack and not self._sequential:
            self._fallen = set(self._wrong)
        self._attack, self._round, self._todo, self._done = attack, number, todo, 0

    def add(self, entry: Entry, fresh: bool) -> None:
        """A batch is done. fresh: since this process began, and not found in the journal."""
        spent = entry.forwards + entry.backwards
        self._fallen |= {i for i, letter in zip(entry.index, entry.letters, strict=True) if letter != "r"}
        if entry.stage == "clean":
            self._wrong = set(self._fallen)
        self._done += len(entry.letters)
        self._passes += spent
        self._fresh += spent if fresh else 0
        self._inside = 0
        self._tell()

    def tick(self, passes: int) -> None:
        """Inside a batch, `passes` of its images have gone through the net."""
        self._inside = passes
        if time.monotonic() - self._told >= EVERY:
            self._tell()

    def _tell(self) -> None:
        if self._progress is None:
            return
        self._told, left = time.monotonic(), self._left()
        fresh = self._fresh + self._inside
        self._progress(
            Progress(
                self._attack,
                self._round + 1,
                self._rounds[self._attack],
                self._done,
                self._todo,
                1 - len(self._fallen) / self._images,
                self._passes + self._inside,
                left,
                left / fresh * (self._told - self._began) if fresh else None,
            )
        )

    def _left(self) -> int:
        """This round's open images, this attack's later rounds, and the later attacks, if all survivors withstand."""
        names = list(self._rounds)
        standing = self._images - len(self._fallen)
        begin = standing if self._sequential else self._images - len(self._wrong)
        later = sum(self._cost[name] * begin for name in names[names.index(self._attack) + 1 :])
        each = self._cost.get(self._attack, 1) / self._rounds[self._attack]
        here = each * (self._todo - self._done) - self._inside
        return round(max(here, 0) + each * (self._rounds[self._attack] - self._round - 1) * standing + later)
