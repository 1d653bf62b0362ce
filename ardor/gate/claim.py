"""Claim: what is said of a teacher, by the table of known ones or by the run that made it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ardor.checkpoint import read_tensors
from ardor.config import number, read_yaml
from ardor.errors import ConfigError
from ardor.report.runs import curve_of

AUTOATTACK = "AutoAttack"


@dataclass(frozen=True)
class Claim:
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


def claim_of(teacher: str | Path | None, net: nn.Module) -> Claim | None:
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
    return Claim(known.clean, known.autoattack, known.eps, known.id, AUTOATTACK, norm, known.data, known.shape)


def _of_run(folder: Path, checkpoint: str) -> Claim | None:
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
    return Claim(
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
