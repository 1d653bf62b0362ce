"""One file from the network: complete and verified under its final name, or absent; a cut transfer is resumed."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import logging
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from filelock import lock_descriptor

from ardor.errors import ArdorError, DataError, shown
from ardor.storage.files import LONGEST, refusal, replace, shortened, write_text
from ardor.storage.imports import cause_of

CHUNK = 1 << 20
TIMEOUT = 30  # seconds without a byte
PATIENCE, SLOWEST = 120, 1024  # seconds after which a transfer of fewer bytes a second ends; the next call resumes it
MOST = 1 << 34  # bytes of a file: above those of every archive and net that is known
PAGES = {"text/html": "an HTML page", "application/xhtml+xml": "an HTML page", "application/json": "JSON"}

logger = logging.getLogger(__name__)


def fetch(
    url: str,
    target: Path,
    *,
    md5: str | None = None,
    most: int = MOST,
    check: Callable[[Path], object] | None = None,
    error: type[ArdorError] = DataError,
) -> Path:
    """Download `url` to `target`. A partial transfer stays beside it in a .part file, which the next call resumes.

    A web page or JSON is refused, and a file that changed on the server is downloaded from its start.

    Parameters
    ----------
    url
        Address of the file.
    target
        Path of the file.
    md5
        Of the complete file, where it is known; else that of the server's x-goog-hash header, if it sends one.
    most
        Bytes of the largest file that is accepted.
    check
        Called with the complete file before that gets its final name; raises an ArdorError for a wrong one.
    error
        Type of the error for a failed download.

    Returns
    -------
    Path
        `target`.

    Raises
    ------
    ArdorError
        `error`, or RunError where the folder cannot be written.
    """
    logger.info("downloading %s to %s", url, target)
    part = part_of(url, target)
    try:
        with _locked(part) as file:
            server_md5 = _transfer(url, part, file, most)
            _verify(part, md5 or server_md5, check)
            os.fsync(file.fileno())
            replace(part, target)  # before the lock is released, so that no other call resumes this one's file
            _version_file(part).unlink(missing_ok=True)
    except _DownloadError as problem:
        expected = f" of md5 {md5}" if md5 else ""
        raise error(
            f"expected the file{expected} from {url}, got {problem}: try again, which resumes where it stopped, "
            f"or fetch it by hand and put it at {target}; nothing was put there"
        ) from problem
    except OSError as problem:
        raise refusal(target, problem) from problem
    return target


def part_of(url: str, target: Path) -> Path:
    """The path of a partial transfer of `url`, with the suffix of the target, which selects the reader."""
    digest = hashlib.sha256(url.encode()).hexdigest()[:12]
    return target.with_name(shortened(f".{target.stem}.{digest}.part{target.suffix}", LONGEST - len(".etag")))


class _DownloadError(Exception):
    """What was received in place of the file."""


def _version_file(part: Path) -> Path:
    """The file with the server's name of the version that `part` is of."""
    return part.with_name(f"{part.name}.etag")


def _remove(part: Path) -> None:
    part.unlink()
    _version_file(part).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[IO[bytes]]:
    """`part` open for appending, locked against other processes until this one closes it or dies."""
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab") as file:
        # not on Windows, where a lock excludes this process's own reader of the part
        if sys.platform != "win32" and not lock_descriptor(file.fileno(), blocking=False):
            raise _DownloadError("another process that is downloading it")
        if not part.exists() or not os.path.samestat(os.fstat(file.fileno()), part.stat()):
            raise _DownloadError("another process that has just finished with it")
        try:
            yield file
        finally:
            if part.exists() and not part.stat().st_size:
                _remove(part)


def _transfer(url: str, part: Path, file: IO[bytes], most: int) -> str | None:
    """Append the missing bytes to `part`. Returns the md5 of the server's x-goog-hash header, if it sends one."""
    size = file.tell()
    version = _version_file(part).read_text(encoding="utf-8") if size and _version_file(part).is_file() else ""
    with _request(url, size if version else 0, version) as response:
        if response.status != 416:  # else the part is complete: a kill came before its verification
            if kind := PAGES.get(response.headers.get_content_type()):
                raise _DownloadError(kind)  # with the part unchanged: a log-in page is no reason to lose it
            if response.status != 206:  # the complete file, from a server without ranges or after a change
                _restart(part, file, response)
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {size}-") or (
                _version(response) not in ("", version)
            ):
                raise _DownloadError("another part of it than the requested one")
            _append(response, file, most)
        match = re.search(r"md5=([\w+/]+=*)", ",".join(response.headers.get_all("x-goog-hash") or []))
        return base64.b64decode(match[1]).hex() if match else None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects within one scheme: https stays https, and nothing else is followed."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """The request of the new address. Raises _DownloadError for another scheme."""
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme != req.type and not (req.type == "http" and scheme == "https"):
            raise _DownloadError(f"a redirection from {req.type} to {shown(newurl)}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_Redirects)


def _request(url: str, size: int, version: str) -> Any:
    """The response with the bytes from `size` on, if the server's file is still `version`, else with all.

    Its status is 416 where there are no further bytes and `size` is that of the file (RFC 9110, section 14.4).
    """
    headers = {"User-Agent": "ardor"} | ({"Range": f"bytes={size}-", "If-Range": version} if size else {})
    try:
        return _OPENER.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if size and error.code == 416:
            if error.headers.get("Content-Range") == f"bytes */{size}" and _version(error) in ("", version):
                return error
            error.close()
            return _request(url, 0, "")  # the part is longer than the file, so it is none of it
        raise _DownloadError(f"the answer {error.code} ({error.reason})") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _DownloadError(f"no answer ({cause_of(error)})") from error


def _restart(part: Path, file: IO[bytes], response: Any) -> None:
    """Empty the part. The version is written before the bytes: a part without one is never resumed."""
    file.seek(0)
    file.truncate()
    _version_file(part).unlink(missing_ok=True)
    if version := _version(response):
        write_text(_version_file(part), version)


def _version(response: Any) -> str:
    """A name of the file's version that If-Range accepts: a strong ETag, or the date of its last change."""
    etag: str = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else str(response.headers.get("Last-Modified", ""))


def _append(response: Any, file: IO[bytes], most: int) -> None:
    """Append the body. Raises _DownloadError for one that is cut, larger than `most`, or slower than SLOWEST."""
    start, begin, length = time.monotonic(), file.tell(), response.length  # None where the server sends none
    if begin + (length or 0) > most:
        raise _DownloadError(f"{begin + length:,} bytes, where at most {most:,} are expected")
    while chunk := _read(response, file, CHUNK if length is None else min(CHUNK, begin + length - file.tell())):
        file.write(chunk)
        if file.tell() > most:
            raise _DownloadError(f"more than the {most:,} bytes that are expected")
        seconds = time.monotonic() - start
        if seconds > PATIENCE and file.tell() - begin < SLOWEST * seconds:
            file.flush()
            raise _DownloadError(f"less than {SLOWEST:,} bytes a second after {file.tell():,} bytes")
    file.flush()
    if length is not None and file.tell() < begin + length:
        raise _DownloadError(f"{file.tell():,} of {begin + length:,} bytes")


def _read(response: Any, file: IO[bytes], size: int) -> bytes:
    """The next bytes, as they come; apart from writing them, so that a full disk is distinct from a lost connection."""
    try:
        chunk: bytes = response.read1(size) if size else b""
        return chunk
    except (OSError, http.client.HTTPException) as error:
        file.flush()
        raise _DownloadError(f"{cause_of(error)} after {file.tell():,} bytes") from error


def _verify(part: Path, md5: str | None, check: Callable[[Path], object] | None) -> None:
    """Check the complete file, and remove a wrong one: resuming it would end the same."""
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() if md5 else None
    if digest != md5:
        size = part.stat().st_size
        _remove(part)
        raise _DownloadError(f"a file of {size:,} bytes and md5 {digest}")
    try:
        if check:
            check(part)
    except ArdorError as error:
        _remove(part)
        raise _DownloadError(f"a file that is refused ({error})") from error
