"""The journal of an evaluation: the verdicts of every finished batch, appended once and never changed.

identity.yaml     what is judged: net, data, suite, batch, seed; a folder belongs to one identity
journal.jsonl     a line for each finished batch
images/           on request, the adversarial images of each finished batch
claims.lock       who works on what: a byte for each batch, locked by its process; the system frees those of a dead one

Any number of processes, on any machines that share the folder, may work on one journal: each takes batches that nobody
has taken, and reads the others' verdicts. What a batch holds follows from the identity and earlier verdicts alone, so
the result is the same whoever did it, and after any interruption. The file system must have working locks, as local
disks and NFS 4 do; where two machines cannot see each other's locks they do some batches twice, with equal verdicts.
"""

from __future__ import annotations

import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import numpy as np
from torch import Tensor

from ardor.errors import ConfigError, RunError
from ardor.storage.config import differences, few, read_yaml, to_yaml
from ardor.storage.files import refusal, write_atomic

log = logging.getLogger(__name__)

_OPEN: set[Path] = set()
POLL = 0.1
"""Seconds between two looks at what the other processes have done."""


@dataclass(frozen=True)
class BatchVerdict:
    """A finished batch: its letters, one an image, and what it cost.

    stage: "clean" or "ATTACK/ROUND". number: of the batch in its stage. index: the images' positions in the data set.
    """

    stage: str
    number: int
    index: list[int]
    letters: str
    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Batch:
    """Work to do: the batch called `number` in its stage, rows of the split and their data set indices."""

    number: int
    rows: Tensor
    index: list[int]


Work = Callable[[Batch], tuple[BatchVerdict, np.ndarray[Any, Any] | None]]
"""Judges a batch: its entry, and the images to keep, if any, in the order of the letters "b"."""


class Journal:
    """Where verdicts are kept: in `folder`, or only in memory where it is None."""

    def __init__(self, folder: Path | None, images: bool = False) -> None:
        self.folder, self.images = folder, images
        self._known: dict[tuple[str, int], BatchVerdict] = {}
        self._old: set[tuple[str, int]] = set()
        self._read_to = 0
        self._stages: list[str] = []
        self._claims: BinaryIO | None = None

    @staticmethod
    @contextmanager
    def open(folder: str | Path | None, identity: Mapping[str, Any], images: bool = False) -> Iterator[Journal]:
        """Make or enter a journal; images: keep them. Raises RunError where it is another's or cannot be used."""
        journal = Journal(None if folder is None else Path(folder), images)
        if journal.folder is None:
            yield journal
            return
        name = journal.folder.resolve()
        if name in _OPEN:  # the system's locks are a process's, not a thread's
            raise RunError(f"expected one evaluation on {folder} in a process, got a second: start another process")
        _OPEN.add(name)
        try:
            journal._enter(journal.folder, identity)
            yield journal
        finally:
            _OPEN.discard(name)
            if journal._claims is not None:
                journal._claims.close()

    def settle(self, stage: str, batches: Sequence[Batch], work: Work) -> Iterator[tuple[Batch, BatchVerdict, bool]]:
        """Every batch with its entry, and whether it was made since the journal was opened: by `work`, or elsewhere.

        A stage is settled when all its batches are, so the next one may build on it.
        """
        if stage not in self._stages:
            self._stages.append(stage)
        pending = {batch.number: batch for batch in batches}
        while pending:
            self._read()
            for number in [n for n in pending if self._is_done(stage, n)]:
                batch = pending.pop(number)
                yield batch, self._require_same(batch, self._known[stage, number]), (stage, number) not in self._old
            for batch in pending.values():
                entry = self._take(stage, batch, work)
                if entry is not None:
                    del pending[batch.number]
                    yield batch, entry, True
                    break
            else:
                if pending:
                    time.sleep(POLL)

    def entries(self, attacks: Iterable[str]) -> Iterator[BatchVerdict]:
        """What is known, in the order of the attacks, their rounds and batches."""
        order = {name: place for place, name in enumerate(attacks)}

        def place(key: tuple[str, int]) -> tuple[int, int, int]:
            name, _, number = key[0].rpartition("/")
            return order[name], int(number), key[1]

        for key in sorted((key for key in self._known if key[0].rpartition("/")[0] in order), key=place):
            yield self._known[key]

    def images_of(self, stage: str, number: int) -> np.ndarray[Any, Any]:
        """The images that a batch kept. Raises RunError where they are gone."""
        path = self._images(stage, number)
        try:
            return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]
        except (OSError, ValueError, EOFError) as error:
            raise RunError(
                f"expected the images that the journal names, got {path} ({error}): type the same again"
            ) from error

    def _is_done(self, stage: str, number: int) -> bool:
        """Whether a batch is known, with its images where they are wanted; lost or damaged ones are made again."""
        entry = self._known.get((stage, number))
        if entry is None or not self.images or "b" not in entry.letters:
            return entry is not None
        try:
            return len(self.images_of(stage, number)) == entry.letters.count("b")
        except RunError:
            return False

    def _enter(self, folder: Path, identity: Mapping[str, Any]) -> None:
        path = folder / "identity.yaml"
        if folder.exists() and not folder.is_dir():
            raise RunError(f"expected a folder for the journal, got the file {folder}: type --journal with a new name")
        others = {p.name for p in folder.iterdir() if p.suffix != ".tmp"} if folder.is_dir() else set()
        if others - {"claims.lock"} and not path.exists():
            raise RunError(f"expected an empty folder or a journal, got {folder} with other files: name a new one")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._claims = (folder / "claims.lock").open("ab")
        except OSError as error:
            raise refusal(folder / "claims.lock", error) from error
        with self._locked(0):
            if not path.exists():
                write_atomic(path, lambda temporary: temporary.write_text(to_yaml(identity), encoding="utf-8"))
        try:
            present = read_yaml(path)
        except ConfigError as error:
            raise RunError(f"expected the identity of a journal, got {path}: type --journal with a new name") from error
        changed = sorted(differences(identity, present), key=lambda text: text.partition(":")[0].count("."))
        if changed:
            raise RunError(
                f"expected the journal of this evaluation, got {folder} made for another ({few(changed)}): "
                "type --journal with a new name"
            )
        self._read()
        self._old = set(self._known)

    def _take(self, stage: str, batch: Batch, work: Work) -> BatchVerdict | None:
        """Do a batch, unless another process does it now or has just done it."""
        if self.folder is None:
            return work(batch)[0]
        place = 1 + self._stages.index(stage) * 2**24 + batch.number
        if not self._lock(place, wait=False):
            return None
        try:
            self._read()
            if self._is_done(stage, batch.number):
                return None
            entry, images = work(batch)
            if images is not None:
                write_atomic(self._images(stage, batch.number), lambda temporary: _save(temporary, images))
            self._append(entry)
            return entry
        finally:
            self._unlock(place)

    def _images(self, stage: str, number: int) -> Path:
        assert self.folder is not None
        return self.folder / "images" / f"{quote(stage, safe='')}-{number}.npy"

    def _append(self, entry: BatchVerdict) -> None:
        """One line, whole and durable before anybody relies on it; what a kill cut short is cleared away first."""
        assert self.folder is not None
        path = self.folder / "journal.jsonl"
        text = json.dumps(asdict(entry))
        line = json.dumps({"sum": zlib.crc32(text.encode()), "entry": asdict(entry)}) + "\n"
        with self._locked(0):
            try:
                with path.open("ab+") as file:
                    _cut(file)
                    file.write(line.encode())
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise refusal(path, error) from error
        self._known[entry.stage, entry.number] = entry

    def _read(self) -> None:
        """Take in the lines that have come since the last look."""
        path = None if self.folder is None else self.folder / "journal.jsonl"
        if path is None or not path.exists() or path.stat().st_size <= self._read_to:
            return
        with path.open("rb") as file:
            file.seek(self._read_to)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in filter(None, whole.splitlines()):
            entry = _parse(line)
            if entry is None:
                log.warning("a damaged line in %s is ignored: its batch is judged again", path)
            else:
                self._known[entry.stage, entry.number] = entry

    def _require_same(self, batch: Batch, entry: BatchVerdict) -> BatchVerdict:
        if entry.index != batch.index or len(entry.letters) != len(batch.index):
            raise RunError(
                f"expected batch {entry.number} of {entry.stage} in {self.folder} to be of the images that earlier "
                "verdicts leave, got others: the file was changed; type --journal with a new name"
            )
        return entry

    @contextmanager
    def _locked(self, place: int) -> Iterator[None]:
        self._lock(place, wait=True)
        try:
            yield
        finally:
            self._unlock(place)

    def _lock(self, place: int, wait: bool) -> bool:
        try:
            import fcntl  # here, for Windows has none: only a journal needs it
        except ImportError as error:
            raise RunError(
                "expected a system with file locks for a journal, got one without: call ardor.evaluate without one"
            ) from error
        assert self._claims is not None
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
            return True
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            raise RunError(
                f"expected a file system with locks for {self.folder}, got {error.strerror or error}: "
                "type --journal with a folder on another disk"
            ) from error

    def _unlock(self, place: int) -> None:
        import fcntl

        assert self._claims is not None
        fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, place)


def _save(path: Path, images: np.ndarray[Any, Any]) -> None:
    with path.open("wb") as file:  # given a name, numpy would add .npy to it
        np.save(file, images, allow_pickle=False)


def _cut(file: BinaryIO) -> None:
    """Clear away the end of a line that a kill cut short."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 1, 0))
    if size and file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)


def _parse(line: bytes) -> BatchVerdict | None:
    try:
        content = json.loads(line)
        entry = BatchVerdict(**content["entry"])
        same = zlib.crc32(json.dumps(asdict(entry)).encode()) == content["sum"]
    except (ValueError, KeyError, TypeError):
        return None
    return entry if same else None
