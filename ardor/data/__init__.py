"""Data sets as splits, in memory or not: `load` by name, `prepare` a store; `crop_flip` on the device."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from ardor.data.arrays import read_npz
from ardor.data.augment import crop_flip, view_of
from ardor.data.boxes import boxes_of
from ardor.data.cifar import read_cifar
from ardor.data.datasets import from_dataset
from ardor.data.digits import read_digits
from ardor.data.extra import with_extra
from ardor.data.folder import read_folder
from ardor.data.split import ExtraLabels, Split, cut
from ardor.data.store import read_store
from ardor.data.user import user_reader
from ardor.data.writing import prepare
from ardor.errors import ConfigError, DataError, shown
from ardor.storage.arguments import typed
from ardor.storage.config import arguments
from ardor.storage.imports import nearest

__all__ = [
    "Protocol", "Split", "boxes_of", "crop_flip", "cut", "from_dataset", "load", "load_test", "options_of", "prepare",
    "reader", "view_of", "with_extra",
]  # fmt: skip

Protocol: TypeAlias = Literal["holdout", "paper"]
"""holdout: val is cut from train. paper: the whole train set, and the test set as val, as in most published rows."""

Reader: TypeAlias = Callable[..., dict[str, Split]]
"""(name, root, download, **options) to the parts of a source: always "test", mostly "train", sometimes "val"."""

OWN = ("root", "val", "seed", "limit", "protocol", "download", "extra", "extra_share", "extra_labels")
"""Options of `load` for any source."""

PAPER_MARK = "test set took part in selection"
NAMED: dict[str, Reader] = {"cifar10": read_cifar, "cifar100": read_cifar, "digits": read_digits}
WITH_PATH: dict[str, Reader] = {"folder": read_folder, "npz": read_npz, "store": read_store}


@typed
def load(
    name: str,
    *,
    root: str = "data",
    val: float = 0.1,
    seed: int = 0,
    limit: int = 0,
    protocol: Protocol = "holdout",
    download: bool = False,
    extra: str | None = None,
    extra_share: float = 0.7,
    extra_labels: ExtraLabels = "file",
    **options: Any,
) -> tuple[Split, Split, Split]:
    """Train, val and test of a data set. `load(**split.source)` gives the same splits again.

    Parameters
    ----------
    name
        `digits`, `cifar10`, `cifar100`, `npz:PATH` (see read_npz), `folder:PATH` (see read_folder), `store:PATH` (see
        read_store) or `file.py:Name` (see user_reader).
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
    extra
        `npz:FILE` of generated or unlabelled images, added to train: see `with_extra`.
    extra_share
        Share of each batch that is of them.
    extra_labels
        file; or teacher, whose most likely class is then their label.
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
    source = {"name": name, "root": root, "val": val, "seed": seed, "limit": limit, "protocol": protocol, **options}
    parts = _read(source, download, options)
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
        # pixels of many files may fill the memory; those of other sources may be another's too
        train, held = cut(train, val, seed, reuse=name.startswith("folder:"))
    # limited after val is cut, so that every limit has the same val
    train = train.limit(limit, seed) if limit else train
    if extra is not None:
        first = int(parts["train"].index.max()) + 1
        train = with_extra(train, extra, extra_share, extra_labels, first=first)
    elif (extra_share, extra_labels) != (0.7, "file"):
        raise ConfigError(
            "expected data.extra for data.extra_share and data.extra_labels, got none: type --data.extra with npz:FILE"
        )
    return train, held, test


def load_test(
    name: str,
    *,
    root: str = "data",
    val: float = 0.1,
    seed: int = 0,
    limit: int = 0,
    protocol: Protocol = "holdout",
    download: bool = False,
    extra: str | None = None,
    extra_share: float = 0.7,
    extra_labels: ExtraLabels = "file",
    **options: Any,
) -> Split:
    """The test part of a data set, for evaluation; the source need not have a train part.

    Parameters and exceptions are those of `load`, so that `load_test(**split.source)` works; val, seed, limit and
    those of extra images have no effect.
    """
    source = {"name": name, "root": root, "val": val, "seed": seed, "limit": limit, "protocol": protocol, **options}
    return _read(source, download, options)["test"]


def options_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `load` in a config, in the types of its parameters and the source's. Raises ConfigError."""
    return arguments(config, "data", load, reader(str(config["name"])))


def reader(name: str) -> Reader:
    """The function that reads a source, called as `reader(name)(name, root, download, **options)`.

    Its other parameters are the options of the source. Raises ConfigError for a name that does not exist.
    """
    kind, colon, rest = name.partition(":")
    if name in NAMED:
        return NAMED[name]
    if kind in WITH_PATH and rest:
        return WITH_PATH[kind]
    if kind == "dataset" and colon:
        raise ConfigError(
            f'expected data that can be loaded, got "{shown(rest)}", which a program passed to from_dataset: '
            "do this in that program, or type --data with a name"
        )
    if colon and kind not in WITH_PATH:
        return user_reader(name)
    if os.path.isdir(name):
        raise ConfigError(f'expected data by its kind, got the folder "{name}": type --data folder:{name}')
    if os.path.isfile(name) and name.endswith(".npz"):
        raise ConfigError(f'expected data by its kind, got the file "{name}": type --data npz:{name}')
    choices = [*NAMED, *(f"{kind}:PATH" for kind in WITH_PATH), "file.py:Name"]
    got = f'"{shown(name)}", and there is no such folder{nearest(name, choices)}'
    raise ConfigError(f"expected data as one of {', '.join(choices)}, got {got}")


def _read(source: dict[str, Any], download: bool, options: Mapping[str, Any]) -> dict[str, Split]:
    """The parts of a source, always "test", mostly "train", sometimes "val", with `source` and marks for reports."""
    name, root, protocol = source["name"], str(source["root"]), source["protocol"]
    if protocol not in get_args(Protocol):
        expected = get_args(Protocol)
        raise ConfigError(
            f'expected protocol {" or ".join(expected)}, got "{protocol}"{nearest(str(protocol), expected)}'
        )
    read = reader(name)
    parameters = inspect.signature(read).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        allowed = [p.name for p in parameters if p.name not in ("name", "root", "download")]
        if unknown := sorted(set(options) - set(allowed)):
            every = [*OWN, *allowed]
            near = nearest(unknown[0], every)
            raise ConfigError(f'expected for data "{name}" the options {", ".join(every)}, got "{unknown[0]}"{near}')
    parts = read(name, Path(root), download, **options)
    if len({(split.shape, split.class_names) for split in parts.values()}) > 1:  # one net must fit all parts
        listed = "; ".join(f"{part}: {split.shape}, {split.classes} classes" for part, split in parts.items())
        raise DataError(
            f"{name}: expected images of one shape (C, H, W) and the same classes in all parts, got {listed}: "
            "resize (a folder's --data.size 224) or relabel one of them"
        )
    # a limit of 0 is left out, as in the configurations before there was one
    recorded = {key: value for key, value in source.items() if key != "limit" or value} | {"root": root}
    marks = (PAPER_MARK,) if protocol == "paper" else ()
    return {part: replace(split, source=dict(recorded), marks=(*split.marks, *marks)) for part, split in parts.items()}
