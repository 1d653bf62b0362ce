"""CIFAR's python files are pickles, which can run any code: this reader admits arrays only."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from ardor.errors import DataError


def _latin1(text: str, codec: str = "latin1") -> bytes:
    """Replaces `_codecs.encode`, which accepts whatever codec the file names."""
    if codec != "latin1":
        raise ValueError(f"codec {codec}")
    return text.encode("latin1")


# numpy's constructor of arrays has moved between versions; the pickled form of an array has the present one.
_ARRAY = np.empty(0).__reduce__()[0]

ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _ARRAY,
    ("numpy._core.multiarray", "_reconstruct"): _ARRAY,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}


class _Unpickler(pickle.Unpickler):
    where = ""

    def find_class(self, module: str, name: str) -> Any:
        """Called for each import in the file, before it happens."""
        if (module, name) not in ADMITTED:
            raise DataError(
                f"expected a CIFAR file of arrays, got {self.where}, a pickle that asks for {module}.{name}: "
                "nothing was run; remove the file and get the official archive (--data.download true)"
            )
        return ADMITTED[module, name]


def read_pickle(content: bytes, where: str) -> dict[str, Any]:
    """The dictionary in a CIFAR python file, its keys as str. Runs no code of the file. Raises DataError."""
    unpickler = _Unpickler(io.BytesIO(content), encoding="latin1")  # written by Python 2, whose str is bytes
    unpickler.where = where
    try:
        batch = unpickler.load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(
            f"expected a complete CIFAR pickle, got {where} ({len(content):,} bytes), which does not read ({error}): "
            "it is truncated or foreign; remove it and get it again (--data.download true)"
        ) from error
    if not isinstance(batch, dict):
        raise DataError(f"expected a dictionary in {where}, got {type(batch).__name__}: get the official archive")
    return {as_text(key): value for key, value in batch.items()}


def as_text(text: Any) -> str:
    """A key or class name, which Python 2 wrote as bytes."""
    return text.decode("latin1") if isinstance(text, bytes) else str(text)
