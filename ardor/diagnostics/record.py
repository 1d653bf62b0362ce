"""Record: the accuracies that are claimed for a net, by the run that trained it or by the list of known nets."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ardor import data as datasets
from ardor.data.split import Split
from ardor.errors import ConfigError
from ardor.models import known as known_nets
from ardor.storage.arguments import check_fields
from ardor.storage.config import build, number
from ardor.storage.runs import Run, mapping
from ardor.storage.trust import require_no_code
from ardor.types import Attack

AUTOATTACK = "AutoAttack"


@dataclass(frozen=True)
class Record:
    """Accuracies that are claimed for a net.

    Parameters
    ----------
    clean
        Accuracy in [0, 1].
    robust
        Accuracy under `attack`, in [0, 1]; None where none is claimed.
    eps
        Radius of `robust`, on the [0, 1] scale of the images.
    of
        The net that the record is of, for messages.
    attack
        Name of the attack.
    norm
        linf or l2.
    data
        Name of the data set; None where unknown.
    shape
        (C, H, W) of the images; None where unknown.
    replay
        The attack itself; None where it cannot be run again.
    seed
        Seed of its noise.

    Raises
    ------
    ConfigError
        For an accuracy outside [0, 1], or a robust one without eps.
    """

    clean: float
    robust: float | None = None
    eps: float | None = None
    of: str = ""
    attack: str = AUTOATTACK
    norm: str = "linf"
    data: str | None = None
    shape: tuple[int, int, int] | None = None
    replay: Attack | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        for value in (self.clean, self.robust):
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"expected a record in [0, 1], got {value:g}: type 0.6925 for 69.25 %")
        if self.robust is not None and self.eps is None:
            raise ConfigError("expected an eps with a robust accuracy, got none: add the eps of its measurement")


def record_of(name: str | Path | None, net: nn.Module) -> Record | None:
    """The record of `net`, loaded by `name`: of its run, or of a known net; else None.

    Raises CheckpointError and ConfigError where the run's files are damaged.
    """
    if name is not None and Run(name).exists:
        return record_of_run(name, Path(str(getattr(net, "loaded_from", None) or "best")).stem)
    known = known_nets.known_of(net)
    if known is None:
        return None
    norm = known.norm.lower()
    return Record(known.clean, known.autoattack, known.eps, known.id, AUTOATTACK, norm, known.data, known.shape)


def record_of_run(folder: str | Path, checkpoint: str = "best") -> Record | None:
    """The metrics of a run's checkpoint; None where it was not validated. The images are not read.

    Raises CheckpointError and ConfigError where files are missing or damaged.
    """
    run = Run(folder)
    measured = run.record(checkpoint)
    if measured is None:
        return None
    attack, threat, config = measured.attack, mapping(measured.attack.get("threat")), run.config
    robust = measured.robust if "eps" in threat else None
    replay = None
    with suppress(ConfigError, TypeError):  # third-party code, which is not imported, or of another version
        require_no_code(attack, run.folder)
        replay = build(attack, "attack")
    return Record(
        measured.clean,
        robust,
        None if robust is None else number(threat["eps"]),
        f"{run.folder} ({checkpoint})",
        f"{attack.get('name')}-{attack['steps']}" if "steps" in attack else str(attack.get("name")),
        str(threat.get("name")).lower(),
        mapping(config.get("data")).get("name"),
        replay=replay,
        seed=mapping(config.get("recipe")).get("seed") or 0,
    )


def validation_images(folder: str | Path, trust_code: bool = False) -> Split:
    """The images that a run was validated on. Raises DataError where they are missing, ConfigError for code."""
    run = Run(folder)
    recipe = mapping(run.config.get("recipe"))
    val = datasets.load(**datasets.options_of(run.part("data", trust_code=trust_code)))[1]
    size = recipe.get("val_size")
    return val.limit(size, recipe.get("seed") or 0) if size else val
