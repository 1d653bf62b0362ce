"""The journal of an evaluation: the verdicts of every finished batch, appended once and never changed.

identity.yaml     what is evaluated: net, data, suite, batch size, seed; a folder belongs to one identity
journal.jsonl     a line for each finished batch
images/           on request, the adversarial images of each finished batch
claims.lock       a byte for each batch, locked by the process that computes it; the system releases a dead one's;
                  its content is a line for each batch that was taken, with the process

Any number of processes, on any machines that share the folder, may work on one journal: each takes batches that no
other has taken, and reads the others' verdicts. The verdicts of a batch follow from the identity and earlier verdicts
alone, so the result does not depend on the process or on interruptions. The file system must have working locks, as
local disks and NFS 4 do; machines that do not share locks compute some batches twice, with equal verdicts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import quote

import numpy as np
from torch import Tensor

from ardor.errors import ConfigError, RunError
from ardor.storage.config import differences, few, read_yaml, to_yaml
from ardor.storage.files import refusal, shortened, write_atomic, write_text
from ardor.storage.locks import Waiting, own
from ardor.storage.reading import checked, parse_json

log = logging.getLogger(__name__)

_OPEN: set[Path] = set()
POLL = 0.1
"""Seconds between two reads of the journal while other processes compute the batches that are left."""


@dataclass(frozen=True)
class BatchVerdict:
    """The letters of a finished batch, one per image, and its cost.

    stage: "clean" or "ATTACK/ROUND". number: of the batch in its stage. index: the images' positions in the data set.
    forwards, backwards: images through the net. seconds: of computation.
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
    """A batch to evaluate: its number in its stage, its rows of the split, and their data set indices."""

    number: int
    rows: Tensor
    index: list[int]


Images: TypeAlias = np.ndarray[Any, Any]
Work: TypeAlias = Callable[[Batch], tuple[BatchVerdict, Images | None]]
"""Evaluates a batch: its verdict, and the images to save, if any, in the order of the letters "b"."""


class Journal:
    """The verdicts of an evaluation, in a folder or in memory; `Journal.open` makes one.

    Parameters
    ----------
    folder : Path or None
        None for memory only.
    images : bool
        Save the adversarial images too.
    """

    def __init__(self, folder: Path | None, images: bool = False) -> None:
        self.folder, self.images = folder, images
        self._known: dict[tuple[str, int], BatchVerdict] = {}
        self._old: set[tuple[str, int]] = set()
        self._read_to = 0
        self._stages: list[str] = []
        self._claims: FileIO | None = None

    @staticmethod
    @contextmanager
    def open(folder: str | Path | None, identity: Mapping[str, Any], images: bool = False) -> Iterator[Journal]:
        """Make a journal, or continue one of the same identity.

        Parameters
        ----------
        folder : str, Path or None
            None for memory only.
        identity : Mapping
            What is evaluated, as YAML can express it.
        images : bool
            Save the adversarial images too.

        Raises
        ------
        RunError
            The folder has other files or another identity, is in use by this process, or cannot be written or locked.
        """
        journal = Journal(None if folder is None else Path(folder), images)
        if journal.folder is None:
            yield journal
            return
        name = journal.folder.resolve()
        if name in _OPEN:  # the system's locks belong to a process, not to a thread
            raise RunError(f"expected one evaluation on {folder} in a process, got a second: start another process")
        _OPEN.add(name)
        try:
            journal._enter(journal.folder, identity)
            yield journal
        finally:
            _OPEN.discard(name)
            if journal._claims is not None:
                journal._claims.close()

    def complete(self, stage: str, batches: Sequence[Batch], work: Work) -> Iterator[tuple[Batch, BatchVerdict, bool]]:
        """Compute or read the verdict of every batch of a stage.

        The stage is complete when the iterator ends, so the next stage may depend on its verdicts.

        Parameters
        ----------
        stage : str
            "clean" or "ATTACK/ROUND".
        batches : sequence of Batch
            All batches of the stage, the same in every process.
        work : Work
            Evaluates a batch.

        Yields
        ------
        tuple of Batch, BatchVerdict and bool
            The bool is whether the verdict is newer than `Journal.open`.

        Raises
        ------
        RunError
            The journal has a batch of other images, or cannot be written.
        """
        if stage not in self._stages:
            self._stages.append(stage)
        pending, waiting = list(batches), Waiting()
        while pending:
            self._read()
            left = []
            for batch in pending:
                result = self._result(stage, batch, work)
                if result is None:
                    left.append(batch)
                else:
                    yield batch, *result
            if len(left) == len(pending):
                waiting(self._taken, stage, left[0].number)
                time.sleep(POLL)
            else:
                waiting = Waiting()
            pending = left

    def entries(self) -> list[BatchVerdict]:
        """The verdicts of the stages that were completed since `open`, in their order."""
        return sorted(
            (entry for entry in self._known.values() if entry.stage in self._stages),
            key=lambda entry: self._stages.index(entry.stage),
        )

    def images_of(self, stage: str, number: int) -> Images:
        """The saved images of a batch, (k, C, H, W) for k letters "b". Raises RunError where they are missing."""
        path = self._image_file(stage, number)
        try:
            return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]
        except (OSError, ValueError, EOFError) as error:
            raise RunError(
                f"expected the images that the journal names, got {path} ({error}): type the same again"
            ) from error

    def _is_done(self, stage: str, number: int) -> bool:
        """Whether a batch has its verdict and, on request, its images; missing or damaged ones are made again."""
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
            self._claims = (folder / "claims.lock").open("ab+", buffering=0)
        except OSError as error:
            raise refusal(folder / "claims.lock", error) from error
        with self._lock(0):
            if not path.exists():
                write_text(path, to_yaml(identity))
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

    def _result(self, stage: str, batch: Batch, work: Work) -> tuple[BatchVerdict, bool] | None:
        """The verdict of a batch, and whether it is new; None while another process computes it."""
        key = stage, batch.number
        if self._is_done(*key):
            return self._require_same(batch, self._known[key]), key not in self._old
        if self.folder is None:
            return work(batch)[0], True
        with self._lock(1 + self._stages.index(stage) * 2**24 + batch.number, wait=False) as locked:
            if not locked:
                return None
            self._read()
            if self._is_done(*key):  # by another process, between the last read and the lock
                return None
            self._claim(*key)
            entry, images = work(batch)
            if images is not None:
                write_atomic(self._image_file(*key), lambda temporary: _save(temporary, images))
            self._append(self.folder / "journal.jsonl", entry)
            return entry, True

    def _claim(self, stage: str, number: int) -> None:
        """Record this process as the one that has taken a batch, for the others' warnings."""
        assert self._claims is not None
        with contextlib.suppress(OSError):
            self._claims.write((json.dumps([stage, number, own()]) + "\n").encode())

    def _taken(self, stage: str, number: int) -> str:
        """A batch and the process that took it last, in words."""
        assert self._claims is not None
        # by the descriptor that holds the locks: to close another one of the same file would release them
        content = os.pread(self._claims.fileno(), os.fstat(self._claims.fileno()).st_size, 0)
        start = json.dumps([stage, number])[:-1].encode()
        process = "another process"
        with contextlib.suppress(IndexError, ValueError):
            process = json.loads([line for line in content.splitlines() if line.startswith(start)][-1])[2]
        return f"batch {number} of {stage} in {self.folder}, taken by {process}"

    def _image_file(self, stage: str, number: int) -> Path:
        assert self.folder is not None
        return self.folder / "images" / shortened(f"{quote(stage, safe='')}-{number}.npy")

    def _append(self, path: Path, entry: BatchVerdict) -> None:
        """Write one line durably, after removal of a line that a kill cut short."""
        content = asdict(entry)
        line = json.dumps({"sum": zlib.crc32(json.dumps(content).encode()), "entry": content}) + "\n"
        with self._lock(0):
            self._require_present()
            try:
                with path.open("ab+") as file:
                    _cut(file)
                    file.write(line.encode())
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise refusal(path, error) from error
        self._known[entry.stage, entry.number] = entry

    def _require_present(self) -> None:
        """Raise RunError where the folder was deleted, moved or replaced: it may be of another evaluation now."""
        assert self.folder is not None
        assert self._claims is not None
        try:
            present = os.path.samestat(os.fstat(self._claims.fileno()), (self.folder / "claims.lock").stat())
        except FileNotFoundError:
            present = False
        if not present:
            raise RunError(
                f"expected the journal {self.folder} as this process began it, got it deleted, moved or replaced "
                "meanwhile: put it back, or delete what is there, and type the same again"
            )

    def _read(self) -> None:
        """Read the lines that were appended since the last read."""
        if self.folder is None or not (path := self.folder / "journal.jsonl").exists():
            return
        with path.open("rb") as file:
            file.seek(self._read_to)
            text = file.read()
        complete = text[: text.rfind(b"\n") + 1]
        self._read_to += len(complete)
        for line in filter(None, complete.splitlines()):
            entry = _parse(line)
            if entry is None:
                log.warning("a damaged line in %s is ignored: its batch is evaluated again", path)
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
    def _lock(self, place: int, wait: bool = True) -> Iterator[bool]:
        """Lock a byte of claims.lock; without `wait`, yields False where another process has locked it."""
        assert self._claims is not None
        try:
            locked, waiting = _try_lock(self._claims, place), Waiting()
            while wait and not locked:
                waiting(lambda: f"{self.folder} to be written by another process, which stands still")
                time.sleep(0.001)
                locked = _try_lock(self._claims, place)
        except OSError as error:
            raise RunError(
                f"expected a file system with locks for {self.folder}, got {error.strerror or error}: "
                "type --journal with a folder on another disk"
            ) from error
        try:
            yield locked
        finally:
            if locked:
                _try_lock(self._claims, place, release=True)


def _try_lock(file: FileIO, place: int, release: bool = False) -> bool:
    """Lock or release a byte of a file; False where another process has locked it. Raises RunError and OSError."""
    try:
        import fcntl  # Windows has none, and only a journal needs it
    except ImportError as error:
        raise RunError(
            "expected a system with file locks for a journal, got one without: call ardor.evaluate without one"
        ) from error
    try:
        fcntl.lockf(file, fcntl.LOCK_UN if release else fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _save(path: Path, images: Images) -> None:
    with path.open("wb") as file:  # given a name, numpy would add .npy to it
        np.save(file, images, allow_pickle=False)


def _cut(file: BinaryIO) -> None:
    """Remove the end of a line that a kill cut short."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 1, 0))
    if file.read(1) not in (b"", b"\n"):
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def _parse(line: bytes) -> BatchVerdict | None:
    """The verdict of a line; None where the line is damaged."""
    try:
        content = parse_json(line, "a journal")
        entry: BatchVerdict = checked(content.get("entry"), BatchVerdict, "a journal")
    except ConfigError:
        return None
    return entry if zlib.crc32(json.dumps(content["entry"]).encode()) == content.get("sum") else None
