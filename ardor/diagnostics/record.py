"""Claim: what is said of a teacher, by the table of known ones or by the run that made it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ardor import attacks
from ardor import data as datasets
from ardor.attacks.threat import BY_NAME
from ardor.data.split import Split
from ardor.errors import ConfigError
from ardor.storage.config import number, read_yaml
from ardor.storage.runs import curve_of
from ardor.storage.tensors import read_tensors
from ardor.types import Attack

AUTOATTACK = "AutoAttack"


@dataclass(frozen=True)
class Record:
    """A teacher's record.

    clean: accuracy in [0, 1]. robust: the same under `attack` within `eps` of `norm` ("linf" or "l2"); None where
    nothing is said. of: whose record it is. data, shape (C, H, W): which images it is about; None where unknown.
    """

    clean: float
    robust: float | None
    eps: float | None
    of: str
    attack: str = AUTOATTACK
    norm: str = "linf"
    data: str | None = None
    shape: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        for value in (self.clean, self.robust):
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"expected a record in [0, 1], got {value:g}: type 0.6925 for 69.25 %")
        if self.robust is not None and self.eps is None:
            raise ConfigError("expected an eps with a robust accuracy, got none: say for which it was measured")


def claim_of(teacher: str | Path | None, net: nn.Module) -> Record | None:
    """The record of the teacher called `teacher`, loaded as `net`: a run's own, or a known teacher's; else None.

    A run's data are not read. Raises CheckpointError and ConfigError where the run's files are damaged.
    """
    if teacher is not None and (Path(teacher) / "config.yaml").is_file():
        return _of_run(Path(teacher), Path(str(getattr(net, "loaded_from", None) or "best")).stem)
    from ardor.models.known import known_of

    known = known_of(net)
    if known is None:
        return None
    norm = known.norm.lower()
    return Record(known.clean, known.autoattack, known.eps, known.id, AUTOATTACK, norm, known.data, known.shape)


def _of_run(folder: Path, checkpoint: str) -> Record | None:
    """What the metrics say of the epoch that the checkpoint was saved in; None where nothing was validated."""
    epoch = read_tensors(folder / f"{checkpoint}.safetensors")[1].get("epoch")
    line = next((line for line in curve_of(folder) if str(line.get("epoch")) == epoch), {})
    of = "averaged" if checkpoint == "averaged" else "val"
    if line.get(f"{of}_clean") is None:
        return None
    config = read_yaml(folder / "config.yaml")
    attack = _mapping(_mapping(config.get("recipe")).get("val_attack"))
    threat = _mapping(attack.get("threat"))
    said = line.get(f"{of}_robust") is not None and "eps" in threat
    return Record(
        line[f"{of}_clean"],
        line[f"{of}_robust"] if said else None,
        number(threat["eps"]) if said else None,
        f"{folder} ({checkpoint})",
        f"{attack.get('name')}-{attack['steps']}" if "steps" in attack else str(attack.get("name")),
        str(threat.get("name")).lower(),
        _mapping(config.get("data")).get("name"),
    )


def _mapping(said: Any) -> dict[str, Any]:
    return said if isinstance(said, dict) else {}


@dataclass(frozen=True)
class NetRecord:
    """What a net's checkpoint or paper says of it.

    clean: accuracy in [0, 1] on `data`, or on the images the doctor is given where that is None. robust: the same under
    `attack`, whose noise has the seed `seed`; None where nothing is said.
    """

    clean: float
    robust: float | None = None
    attack: Attack | None = None
    data: Split | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for value in (self.clean, self.robust):
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"expected a record in [0, 1], got {value:g}: type 0.6925 for 69.25 %")


def record_of(run: str | Path, checkpoint: str = "best") -> NetRecord | None:
    """What a run's metrics say of its checkpoint, on its own validation images; None where they were not looked at.

    Raises CheckpointError, ConfigError and DataError where files or images are not there.
    """
    folder = Path(run)
    epoch = read_tensors(folder / f"{checkpoint}.safetensors")[1].get("epoch")
    line = next((line for line in curve_of(folder) if str(line.get("epoch")) == epoch), {})
    of = "averaged" if checkpoint == "averaged" else "val"
    if line.get(f"{of}_clean") is None:
        return None
    config = read_yaml(folder / "config.yaml")
    recipe = config["recipe"]
    val = datasets.load(**config["data"])[1]
    val = val.limit(recipe["val_size"], recipe["seed"]) if recipe["val_size"] else val
    attack = _made(recipe["val_attack"])
    return NetRecord(line[f"{of}_clean"], line[f"{of}_robust"] if attack else None, attack, val, recipe["seed"])


def _made(said: Any) -> Any:
    """One of our attacks or threats from the words of a config; None for a user's own."""
    kinds = {name.lower(): getattr(attacks, name) for name in attacks.__all__} | BY_NAME
    kind = kinds.get(str(said.get("name")).lower()) if isinstance(said, dict) else None
    if kind is None:
        return None
    return kind(**{key: _made(v) if isinstance(v, dict) else _read(v) for key, v in said.items() if key != "name"})


def _read(value: Any) -> Any:
    with contextlib.suppress(ConfigError):
        return number(value) if isinstance(value, str) else value
    return value
