"""ardor: names to nets: those that the package itself has, in `shipped`.

Each is a folder as `ardor push --zoo` writes it: that of the Hub (see `hub`), with an entry that has its figures. Every
file that is read is compared with its SHA-256 first, and none names code.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from ardor.errors import CheckpointError, ConfigError, shown
from ardor.models.hub import CONFIG, WEIGHTS, from_folder
from ardor.storage.imports import nearest
from ardor.storage.reading import read_json
from ardor.storage.runs import mapping
from ardor.storage.sums import SUMS, recorded, sha256
from ardor.storage.trust import require_no_code

PREFIX = "ardor:"
SHIPPED = Path(__file__).parent / "shipped"
"""The folder of the nets in the package, a folder each."""
REPAIR = "install the package again, or type git checkout ardor/models/shipped in a copy of its repository"


def is_name(name: object) -> bool:
    """Whether a name is of a net of the package, existing or not."""
    return str(name).startswith(PREFIX)


def shipped() -> list[str]:
    """The names of the nets in the package, without `ardor:`."""
    return sorted(path.name for path in SHIPPED.glob("[!.]*") if path.is_dir())


def folder_of(name: str) -> Path:
    """The folder of a net, by its name with or without `ardor:`. Raises ConfigError, with the nearest right name."""
    plain, names = name.removeprefix(PREFIX), [PREFIX + each for each in shipped()]
    if PREFIX + plain not in names:
        raise ConfigError(
            f'expected a net of the package, got "{shown(name)}"{nearest(PREFIX + plain, names)}: '
            f"type {', '.join(names) or 'another name, for it has none'}"
        )
    return SHIPPED / plain


def from_zoo(name: str, classes: int | None) -> nn.Module:
    """The net called `ardor:NAME`. Raises ConfigError; CheckpointError for a file that was altered; ModelError."""
    folder = folder_of(name)
    require_unaltered(folder, (CONFIG, WEIGHTS))
    return from_folder(folder, classes)[0]


def training_of(name: str) -> dict[str, Any]:
    """The config of the run that a net is of, without places on a machine. Raises as `from_zoo`, and ConfigError."""
    folder = folder_of(name)
    require_unaltered(folder, (CONFIG,))
    training = mapping(read_json(folder / CONFIG).get("training"))
    require_no_code(training, folder / CONFIG, "training", advice="no net of the package names code")
    return training


def require_unaltered(folder: Path, files: Iterable[str]) -> None:
    """Refuse files whose SHA-256 is not the recorded one. Raises CheckpointError."""
    try:
        sums = recorded(folder)
        for file in files:
            expected, got = sums.get(file, "none"), sha256(folder / file)
            if got != expected:
                raise CheckpointError(
                    f"expected {folder / file} with the SHA-256 {expected[:16]} of {SUMS}, got {got[:16]}: it was "
                    f"altered or damaged; {REPAIR}"
                )
    except OSError as error:
        raise CheckpointError(
            f"expected {CONFIG}, {WEIGHTS} and {SUMS} in {folder}, got {error.strerror} for {error.filename}: {REPAIR}"
        ) from error
