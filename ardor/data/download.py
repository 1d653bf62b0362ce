"""One official archive from the network: whole and verified under its final name, or not there at all."""

from __future__ import annotations

import hashlib
import http.client
import logging
import urllib.request
from pathlib import Path

from ardor.errors import DataError
from ardor.files import write_atomic

CHUNK = 1 << 20
TIMEOUT = 30  # seconds without a byte

logger = logging.getLogger(__name__)


def fetch(url: str, md5: str, target: Path) -> Path:
    """Stream `url` to a temporary file beside `target`, check its md5, then put it in place.

    Raises DataError where it cannot be had or is not the file expected, RunError where the folder cannot be written.
    """
    logger.info("downloading %s to %s", url, target)
    try:
        return write_atomic(target, lambda temporary: _stream(url, md5, temporary))
    except _DownloadError as error:
        raise DataError(
            f"expected the archive of md5 {md5} from {url}, got {error}: try again, or fetch it by hand and put it at "
            f"{target}; nothing was left there"
        ) from error


class _DownloadError(Exception):
    """What came instead of the archive."""


def _stream(url: str, md5: str, path: Path) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    size = 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, path.open("wb") as file:
            kind = answer.headers.get_content_type()
            while chunk := answer.read(CHUNK):
                digest.update(chunk)
                size += file.write(chunk)
            missing = answer.length or 0  # of what the server promised; None where it promised nothing
    except (OSError, http.client.HTTPException) as error:
        raise _DownloadError(f"{type(error).__name__}: {error} after {size:,} bytes") from error
    if missing:
        raise _DownloadError(f"{size:,} of {size + missing:,} bytes")
    if digest.hexdigest() != md5:
        what = "an HTML page" if kind == "text/html" else "a file"
        raise _DownloadError(f"{what} of {size:,} bytes and md5 {digest.hexdigest()}")
