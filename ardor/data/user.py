"""`file.py:Name`: a third-party function that returns the data; its parameters are the options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ardor.data.arrays import PARTS, from_arrays
from ardor.data.split import Split
from ardor.errors import ConfigError, DataError
from ardor.storage.imports import resolve


def user_reader(reference: str) -> Callable[..., dict[str, Split]]:
    """The reader that calls what `file.py:Name` or `package.module:Name` names, with the options given to `load`.

    Parameters
    ----------
    reference
        A function that returns (train, val, test) as Splits, or (x_train, y_train, x_test, y_test), numpy or tensors,
        as `npz:PATH` has them. Its exceptions pass through.

    Raises
    ------
    ConfigError
        Where there is no such function, or it does not take the options.
    DataError
        Where it returns something else.
    """
    make = resolve(reference, "data set")
    if not callable(make):
        raise ConfigError(f"expected {reference} to be a function, got {type(make).__name__}: name a function")

    @functools.wraps(make)  # its signature has the options of the command line and of `load`
    def read(name: str, root: Path, download: bool, **options: Any) -> dict[str, Split]:
        try:  # before the call, so that a TypeError inside the function is not caught
            inspect.signature(make).bind(**options)
        except TypeError as error:
            listed = ", ".join(options) or "no options"
            raise ConfigError(f"expected {reference} to take {listed}, got {error}: pass its parameters") from error
        return _parts(reference, make(**options))

    return read


def _parts(reference: str, result: object) -> dict[str, Split]:
    given = result if isinstance(result, tuple | list) else ()
    if len(given) == 3 and all(isinstance(split, Split) for split in given):
        return {part: replace(split, part=part) for part, split in zip(PARTS, given, strict=True)}
    if len(given) == 4 and all(hasattr(array, "shape") for array in given):
        keys = ("x_train", "y_train", "x_test", "y_test")
        return from_arrays(reference, dict(zip(keys, given, strict=True)))
    got = ", ".join(type(v).__name__ for v in given) or type(result).__name__
    raise DataError(
        f"{reference}: expected three Splits (train, val, test) or four arrays (x_train, y_train, x_test, y_test), "
        f"got {got}: return one of the two"
    )
