"""Data sets as in-memory splits: `load` by name, `crop_flip` on the device."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from ardor.data.arrays import read_npz
from ardor.data.augment import crop_flip, view_of
from ardor.data.cifar import read_cifar
from ardor.data.digits import read_digits
from ardor.data.folder import read_folder
from ardor.data.split import Split, cut
from ardor.data.user import user_reader
from ardor.errors import ConfigError, DataError
from ardor.storage.imports import nearest

__all__ = ["Protocol", "Split", "crop_flip", "cut", "load", "load_test", "reader", "view_of"]

Protocol: TypeAlias = Literal["holdout", "paper"]
"""holdout: val is cut from train. paper: the whole train set, and the test set as val, as most published rows did."""

Reader: TypeAlias = Callable[..., dict[str, Split]]
"""(name, root, download, **options) to what a source holds: always "test", mostly "train", sometimes "val"."""

PAPER_MARK = "test set took part in selection"
NAMED: dict[str, Reader] = {"cifar10": read_cifar, "cifar100": read_cifar, "digits": read_digits}
WITH_PATH: dict[str, Reader] = {"folder": read_folder, "npz": read_npz}


def load(
    name: str,
    *,
    root: str = "data",
    val: float = 0.1,
    seed: int = 0,
    limit: int = 0,
    protocol: Protocol = "holdout",
    download: bool = False,
    **options: Any,
) -> tuple[Split, Split, Split]:
    """Train, val and test of a data set. `load(**split.source)` gives the same splits again.

    Parameters
    ----------
    name
        `digits`, `cifar10`, `cifar100`, `npz:PATH` (see read_npz), `folder:PATH` (see read_folder) or `file.py:Name`
        (see user_reader).
    root
        Folder of the official archives, also for downloads.
    val
        Share below 1, or number, of train images that are held out as val, classes in proportion; a source's own val
        part replaces it.
    seed
        Seed of the choice of val and of limited train images.
    limit
        Largest number of train images, classes in proportion; 0 is all.
    protocol
        holdout; or paper: the whole train set, and the test set as val.
    download
        Download the official archive where it is absent.
    options
        Options of the source.

    Returns
    -------
    tuple of Split
        train, val, test: images (N, C, H, W), uint8 or float32 in [0, 1].

    Raises
    ------
    ConfigError
        For a name or option that does not exist.
    DataError
        For data that are absent, damaged or of another form.
    RunError
        Where root cannot be written.
    """
    parts = _parts(name, root, download, protocol, options)
    if "train" not in parts:
        raise DataError(
            f"{name}: expected a train and a test part, got a test part alone: "
            "evaluate on it with ardor.data.load_test, or add train images"
        )
    train, test = parts["train"], parts["test"]
    if protocol == "paper":
        held = replace(test, part="val")
    elif "val" in parts:
        held = parts["val"]
    else:
        train, held = cut(train, val, seed)
    train = train.limit(limit, seed) if limit else train  # after val was cut: another limit has the same val
    source = _source(name, root, val, seed, limit, protocol, options)
    return _signed(train, source), _signed(held, source), _signed(test, source)


def load_test(
    name: str,
    *,
    root: str = "data",
    val: float = 0.1,
    seed: int = 0,
    limit: int = 0,
    protocol: Protocol = "holdout",
    download: bool = False,
    **options: Any,
) -> Split:
    """The test part of a data set, for evaluation; the source need not have a train part.

    Parameters and exceptions are those of `load`, so that `load_test(**split.source)` works; val, seed and limit are
    kept in the source and change nothing here.
    """
    test = _parts(name, root, download, protocol, options)["test"]
    return _signed(test, _source(name, root, val, seed, limit, protocol, options))


def _source(
    name: str, root: str, val: float, seed: int, limit: int, protocol: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """What `load` was called with. A limit of 0 is left out: runs of before there was one are the same runs."""
    said = {"name": name, "root": str(root), "val": val, "seed": seed, "protocol": protocol}
    return {**said, **({"limit": limit} if limit else {}), **options}


def _signed(split: Split, source: dict[str, Any]) -> Split:
    """The split with what it was loaded by, and with what every report must say about that."""
    marks = (PAPER_MARK,) if source["protocol"] == "paper" else ()
    return replace(split, source=dict(source), marks=(*split.marks, *marks))


def reader(name: str) -> Reader:
    """The function that reads `name`, called as reader(name)(name, root, download, **options).

    All its other parameters are the source's options. Raises ConfigError for a name that does not exist.
    """
    kind, colon, rest = name.partition(":")
    if name in NAMED:
        return NAMED[name]
    if kind in WITH_PATH and rest:
        return WITH_PATH[kind]
    if colon and kind not in WITH_PATH:
        return user_reader(name)
    choices = [*NAMED, *(f"{kind}:PATH" for kind in WITH_PATH), "file.py:Name"]
    raise ConfigError(f'expected data as one of {", ".join(choices)}, got "{name}"{nearest(name, choices)}')


def _parts(name: str, root: str, download: bool, protocol: str, options: Mapping[str, Any]) -> dict[str, Split]:
    """What the source holds: always "test", mostly "train", sometimes "val"."""
    known = get_args(Protocol)
    if protocol not in known:
        raise ConfigError(f'expected protocol {" or ".join(known)}, got "{protocol}"{nearest(str(protocol), known)}')
    read = reader(name)
    _require_known(name, inspect.signature(read).parameters.values(), options)
    parts = read(name, Path(root), download, **options)
    _require_alike(name, parts)
    return parts


def _require_known(name: str, parameters: Collection[inspect.Parameter], options: Mapping[str, Any]) -> None:
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    allowed = [p.name for p in parameters if p.name not in ("name", "root", "download")]
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        every = ["root", "val", "seed", "limit", "protocol", "download", *allowed]
        raise ConfigError(
            f'expected for data "{name}" the options {", ".join(every)}, got "{unknown[0]}"{nearest(unknown[0], every)}'
        )


def _require_alike(name: str, parts: Mapping[str, Split]) -> None:
    """One net must fit all parts, and a label mean the same in each."""
    if len({(split.shape, split.class_names) for split in parts.values()}) > 1:
        listed = "; ".join(f"{part}: {split.shape}, {split.classes} classes" for part, split in parts.items())
        raise DataError(
            f"{name}: expected images of one shape (C, H, W) and the same classes in all parts, got {listed}: "
            "resize or relabel one of them"
        )
