"""robustbench: names to nets: published weights in the builders' nets, or in those of their package."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from torch import nn

from ardor.errors import CheckpointError, ModelError
from ardor.models.builders import build
from ardor.models.known import Known, find, get
from ardor.models.reading import read
from ardor.models.weights import load_weights
from ardor.storage.download import fetch
from ardor.storage.imports import cause_of


def from_robustbench(
    name: str, *, weights: str | Path | None, state: str | None, root: str | Path, download: bool, classes: int | None
) -> tuple[nn.Module, str, Path | None]:
    """The net, its full name, and the file of its weights; see `load`."""
    plain = name.removeprefix("robustbench:")
    known = find(plain, classes)
    if known and classes not in (None, known.classes):
        raise ModelError(f"expected a net of {classes} classes, got {known.name}, which has {known.classes}: {OTHER}")
    if weights is None and not (known and (download or known.place(root).is_file())):
        package, problem = _robustbench()
        if package:
            return _from_package(package, plain, known, root, classes)
        raise CheckpointError(_missing(get(plain), root) + problem)
    known = known or get(plain)
    path = Path(weights) if weights is not None else known.place(root)
    if weights is None and not path.is_file():
        if not known.url:
            raise CheckpointError(_missing(known, root))
        fetch(known.url, path, check=read, error=CheckpointError)
    net = build(known.builder, classes=known.classes, **known.options)
    load_weights(net, path, state)
    return net, known.name, path


OTHER = "choose a teacher of these data"


def _missing(known: Known, root: str | Path) -> str:
    """The message for a file that does not exist, with the ways to get it."""
    download = f"type --teacher.download true, which fetches {known.url}, or " if known.url else ""
    return (
        f"expected the weights of {known.name} ({known.network}) at {known.place(root)}, got no such file: {download}"
        f"get it in a browser from {known.page} and put it there, or type --teacher.weights FILE for "
        "a file elsewhere"
    )


def _robustbench() -> tuple[ModuleType | None, str]:
    """The package's utils, or None and an addition to the message: it may be installed and not import."""
    try:
        return importlib.import_module("robustbench.utils"), ""
    except Exception as error:  # the package on the registry fails in several ways
        if isinstance(error, ModuleNotFoundError) and error.name == "robustbench":
            return None, ""
        return None, f"; the package robustbench is installed and does not import ({cause_of(error)})"


def _from_package(
    package: ModuleType, plain: str, known: Known | None, root: str | Path, classes: int | None
) -> tuple[nn.Module, str, None]:
    """The net of the package, which takes images in [0, 1] and downloads its weights itself."""
    data, _, name = plain.rpartition("/")
    data = known.data if known else data or ("imagenet" if classes == 1000 else f"cifar{classes or 10}")
    try:
        net = package.load_model(model_name=name, dataset=data, threat_model="Linf", model_dir=str(root))
    except Exception as error:  # no network, no such id, a truncated file: exceptions of the package
        raise CheckpointError(
            f"expected the package robustbench to load {name} for {data}, got {cause_of(error)}: check the id and the "
            f"network, and remove {root}/{data}/Linf/{name}.pt where a transfer was cut"
        ) from error
    if not isinstance(net, nn.Module):
        raise ModelError(f"expected a net from the package robustbench, got {type(net).__name__}: load it yourself")
    return net, f"robustbench:{data}/{name}", None
