"""onnxruntime-web, the runtime of the page: its npm package, fetched once by npm itself and held to a pinned hash."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ardor.errors import ConfigError, DataError
from ardor.storage.files import refusal, replace

VERSION = "1.22.0"
"""Of the versions since 1.20, which have one build for every browser, the one with the smallest wasm."""

INTEGRITY = "sha512-Ud/+EBo6mhuaQWt/OjaOk0iNWjXqJoeeMFr6xQEERZdIZH2OWpGzuujz7lfuOBjUa6TEE/sc4nb7Da5dNL34fg=="
"""The registry's own hash of the package."""

NAME = f"onnxruntime-web-{VERSION}.tgz"
PACK = f"npm pack onnxruntime-web@{VERSION}"
FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
LIMIT = 600  # seconds that npm may take


@dataclass(frozen=True)
class Runtime:
    """The files of the package that a page needs: the script, the glue module that the script loads, the wasm."""

    script: str
    glue: str
    wasm: bytes


def fetch(folder: Path) -> Path:
    """The package in `folder`, downloaded there by npm if it is not there yet, and checked.

    Parameters
    ----------
    folder : made where it does not exist.

    Returns
    -------
    Path
        The package's file.

    Raises
    ------
    ConfigError
        Without npm.
    DataError
        Where npm cannot fetch the package, or it is not the pinned one.
    RunError
        Where `folder` cannot be written.
    """
    path = folder / NAME
    if path.is_file():
        return path
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigError(
            f"expected npm, which fetches onnxruntime-web {VERSION}, got no such program: install Node.js, "
            f"or type {PACK} on a machine that has it and pass the file with --onnxruntime_web"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            package = _pack(npm, Path(temporary))
            _require_pinned(package)
            replace(package, path)
    except OSError as error:
        raise refusal(path, error) from error
    return path


def unpack(path: Path) -> Runtime:
    """The files of the package.

    Parameters
    ----------
    path : the package's file.

    Raises
    ------
    DataError
        For any other file than the pinned one.
    """
    _require_pinned(path)
    with tarfile.open(path) as archive:
        files = [archive.extractfile(f"package/dist/{name}") for name in FILES]
        script, glue, wasm = (file.read() for file in files if file is not None)
    return Runtime(script.decode(), glue.decode(), wasm)


def _pack(npm: str, folder: Path) -> Path:
    """Download the package into `folder` by npm, with the user's settings."""
    command = [npm, "pack", f"onnxruntime-web@{VERSION}", "--silent", "--ignore-scripts"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired as error:
        raise DataError(f"expected npm to fetch {NAME}, got nothing in {LIMIT} s: try again") from error
    if done.returncode or not (folder / NAME).is_file():
        got = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise DataError(
            f"expected npm to fetch {NAME}, got {got}: look at the network and npm's registry setting, or fetch it "
            f"elsewhere with {PACK} and pass the file with --onnxruntime_web"
        )
    return folder / NAME


def _require_pinned(path: Path) -> None:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha512").digest()
    except OSError as error:
        raise DataError(f"expected the package {NAME} at {path}, got {error.strerror}: make it with {PACK}") from error
    got = f"sha512-{base64.b64encode(digest).decode()}"
    if got != INTEGRITY:
        raise DataError(
            f"expected {NAME} of {INTEGRITY}, got {path} of {got}: delete that file, which is damaged or another "
            f"version, and make it with {PACK}"
        )
