"""One file from the network: whole and checked under its final name, or not there at all; a cut transfer goes on."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import logging
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from filelock import lock_descriptor

from ardor.errors import ArdorError, DataError
from ardor.storage.files import refusal, write_atomic

CHUNK = 1 << 20
TIMEOUT = 30  # seconds without a byte
PAGES = {"text/html": "an HTML page", "application/xhtml+xml": "an HTML page", "application/json": "JSON"}

logger = logging.getLogger(__name__)


def fetch(
    url: str,
    target: Path,
    *,
    md5: str | None = None,
    check: Callable[[Path], object] | None = None,
    error: type[ArdorError] = DataError,
) -> Path:
    """Bring `url` to `target`. What has come is kept beside it in a .part file, where the next call goes on.

    md5: of the whole file, where it is known. check: raises an ArdorError for a file that is not what was meant; it
    is shown the whole file before that gets its final name. A server that says the md5 itself (x-goog-hash) is held
    to it. A web page or JSON is no file, and a file that changed on the server begins anew. Raises `error`, or
    RunError where the folder cannot be written.
    """
    logger.info("downloading %s to %s", url, target)
    part = part_of(url, target)
    try:
        with _alone(part) as file:
            said = _transfer(url, part, file)
            _verify(part, md5 or said, check)
            os.fsync(file.fileno())
            os.replace(part, target)  # before the lock is gone, so that no other call goes on with this one's file
            _mark(part).unlink(missing_ok=True)
    except _DownloadError as problem:
        wanted = f" of md5 {md5}" if md5 else ""
        raise error(
            f"expected the file{wanted} from {url}, got {problem}: try again, which goes on where it stopped, "
            f"or fetch it by hand and put it at {target}; nothing was put there"
        ) from problem
    except OSError as problem:
        raise refusal(target, problem) from problem
    return target


def part_of(url: str, target: Path) -> Path:
    """Where what has come of `url` lies meanwhile. It keeps the ending, which says how to read the file."""
    digest = hashlib.sha256(url.encode()).hexdigest()[:12]
    return target.with_name(f".{target.stem}.{digest}.part{target.suffix}")


class _DownloadError(Exception):
    """What came instead of the file."""


def _mark(part: Path) -> Path:
    """Where the server's name for the version of which `part` is a part is kept."""
    return part.with_name(f"{part.name}.etag")


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[IO[bytes]]:
    """`part` open for appending, while no other process has it: the system lets go of the lock when this one dies."""
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab") as file:
        _lock(file)
        if not part.exists() or not os.path.samestat(os.fstat(file.fileno()), part.stat()):
            raise _DownloadError("another process that has just finished with it")
        try:
            yield file
        finally:
            if part.exists() and not part.stat().st_size:
                part.unlink()
                _mark(part).unlink(missing_ok=True)


def _lock(file: IO[bytes]) -> None:
    if sys.platform == "win32":  # where a lock keeps this process's own reader of the part out
        return
    if not lock_descriptor(file.fileno(), blocking=False):
        raise _DownloadError("another process that is downloading it")


def _transfer(url: str, part: Path, file: IO[bytes]) -> str | None:
    """Append what is missing in `part`. Returns the md5 that the server names, if it does."""
    have = file.tell()
    version = _mark(part).read_text(encoding="utf-8") if have and _mark(part).is_file() else ""
    with _ask(url, have if version else 0, version) as answer:
        if answer.status == 416:  # all of it is there: a kill came before it was checked
            return _md5_said(answer)
        if kind := PAGES.get(answer.headers.get_content_type()):
            raise _DownloadError(kind)  # before the part is touched: a log-in page says nothing of the file
        if not _goes_on(answer, have, version):
            _begin(part, file, answer)
        _copy(answer, file)
        return _md5_said(answer)


def _md5_said(answer: Any) -> str | None:
    found = re.search(r"md5=([\w+/]+=*)", ",".join(answer.headers.get_all("x-goog-hash") or []))
    return base64.b64decode(found[1]).hex() if found else None


def _ask(url: str, have: int, version: str) -> Any:
    """The server's answer for the bytes from `have` on, if its file is still the one called `version`, else for all.

    416 where there are none beyond: the whole file is there.
    """
    headers = {"User-Agent": "ardor"} | ({"Range": f"bytes={have}-", "If-Range": version} if have else {})
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:
            if _is_whole(error, have, version):
                return error
            error.close()
            return _ask(url, 0, "")  # the part is longer than the file, so it is not its part
        raise _DownloadError(f"the answer {error.code} ({error.reason})") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _DownloadError(f"no answer ({_cause(error)})") from error


def _is_whole(answer: Any, have: int, version: str) -> bool:
    """Whether a refusal of further bytes says that the file ends where the part does (RFC 9110, section 14.4)."""
    return answer.headers.get("Content-Range") == f"bytes */{have}" and _version(answer) in ("", version)


def _goes_on(answer: Any, have: int, version: str) -> bool:
    """Whether the answer is the rest of what is there; a server that cannot do so sends everything."""
    if answer.status != 206:
        return False
    follows = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
    if not follows or _version(answer) not in ("", version):
        raise _DownloadError("another part of it than was asked for")
    return True


def _begin(part: Path, file: IO[bytes], answer: Any) -> None:
    """From nothing. The version is written first: a part without one is never gone on with."""
    file.seek(0)
    file.truncate()
    _mark(part).unlink(missing_ok=True)
    if version := _version(answer):
        write_atomic(_mark(part), lambda path: path.write_text(version, encoding="utf-8"))


def _version(answer: Any) -> str:
    """What names the version of a file well enough for If-Range: a strong ETag, or when it was last changed."""
    etag: str = answer.headers.get("ETag", "")
    return etag if etag.startswith('"') else str(answer.headers.get("Last-Modified", ""))


def _copy(answer: Any, file: IO[bytes]) -> None:
    while chunk := _read(answer, file):
        file.write(chunk)
    file.flush()
    if answer.length:  # of what the server promised; None where it promised nothing
        raise _DownloadError(f"{file.tell():,} of {file.tell() + answer.length:,} bytes")


def _read(answer: Any, file: IO[bytes]) -> bytes:
    """The next bytes; apart from writing them, so that a full disk is not taken for a broken line."""
    try:
        chunk: bytes = answer.read(CHUNK)
        return chunk
    except (OSError, http.client.HTTPException) as error:
        file.flush()
        raise _DownloadError(f"{_cause(error)} after {file.tell():,} bytes") from error


def _verify(part: Path, md5: str | None, check: Callable[[Path], object] | None) -> None:
    """The whole file is what was meant, or it is thrown away: going on with it would end the same."""
    try:
        if md5:
            _require_md5(part, md5)
        if check:
            check(part)
    except (_DownloadError, ArdorError) as error:
        part.unlink()
        _mark(part).unlink(missing_ok=True)
        refused = f"a file that is refused ({error})" if isinstance(error, ArdorError) else str(error)
        raise _DownloadError(refused) from error


def _require_md5(part: Path, md5: str) -> None:
    with part.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise _DownloadError(f"a file of {part.stat().st_size:,} bytes and md5 {found}")


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
