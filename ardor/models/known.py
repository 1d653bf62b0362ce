"""Known teachers: published robust nets that the builders here and timm can hold, and their figures, in known.csv.

Ids, networks, accuracies and licences are those of RobustBench (github RobustBench/robustbench at 78fcc9e: model_zoo/,
model_info/, LICENSE; Croce et al., NeurIPS 2021); plain addresses are from the authors' own pages (github
google-deepmind/deepmind-research, adversarial_robustness; github wzekai99/DM-Improves-AT).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import nn

from ardor.errors import ConfigError, ModelError
from ardor.models.timm_nets import is_timm
from ardor.models.wide_resnet import CIFAR10, CIFAR100
from ardor.storage.config import arguments, as_text, number
from ardor.storage.imports import nearest

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Known:
    """One published net: its builder, the places of its weights, and its published figures.

    Parameters
    ----------
    id, data
        RobustBench's id, and cifar10, cifar100 or imagenet.
    builder, depth, width, sub_block1
        The builder here and its options; of timm's nets, which include torchvision's, only the name.
    clean, autoattack
        Shares of the test images (10,000 of CIFAR, 5,000 of ImageNet) that are classified correctly, the second under
        AutoAttack in `norm` at `eps`.
    drive
        Id of the file at Google Drive, which needs a browser.
    paper, url
        Addresses of the paper and of the file; url is "" where there is no plain one.
    extra
        Training data beyond the data set's own.
    eps, norm
        The radius on the [0, 1] scale, and the norm.
    licence
        Of the weights.
    shape
        (C, H, W) of an image.
    preprocessing
        RobustBench's word for what is done to a larger image; Res256Crop224: the short side to 256, the centre 224.
    """

    id: str
    data: str
    builder: str
    depth: int
    width: int
    clean: float
    autoattack: float
    drive: str
    paper: str
    url: str = ""
    sub_block1: bool = False
    extra: str = "none"
    eps: float = number("8/255")
    norm: str = "Linf"
    licence: str = "MIT"
    shape: tuple[int, int, int] = (3, 32, 32)
    preprocessing: str = ""

    @property
    def name(self) -> str:
        """The name for `load`, unique among the data sets."""
        return f"robustbench:{self.data}/{self.id}"

    @property
    def classes(self) -> int:
        """Number of classes of the data."""
        return 1000 if self.data == "imagenet" else int(self.data.removeprefix("cifar"))

    @property
    def network(self) -> str:
        """The architecture in the field's short form."""
        if self.builder == "resnet18":
            return "ResNet-18"
        if is_timm(self.builder):
            return self.builder
        return f"WRN-{self.depth}-{self.width}" + (" SiLU" if self.builder == "wide_resnet_silu" else "")

    @property
    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and std of the net's first layer, or None where it takes raw images in [0, 1]."""
        if is_timm(self.builder):
            return IMAGENET
        if self.builder != "wide_resnet_silu":
            return None
        return CIFAR100 if self.data == "cifar100" else CIFAR10

    @property
    def options(self) -> dict[str, Any]:
        """Options of the builder other than classes."""
        if is_timm(self.builder):
            return dict(zip(("mean", "std"), IMAGENET, strict=True))
        if self.builder == "resnet18":
            return {}
        sub_block1 = {"sub_block1": True} if self.sub_block1 else {}
        return {"depth": self.depth, "width": self.width, **sub_block1}

    @property
    def page(self) -> str:
        """The file's page at Google Drive, for a browser."""
        return f"https://drive.google.com/file/d/{self.drive}/view"

    def place(self, root: str | Path) -> Path:
        """The path of the file in RobustBench's layout, where `load` expects it."""
        return Path(root) / self.data / self.norm / f"{self.id}.pt"


def find(name: str, classes: int | None = None) -> Known | None:
    """The known net that `ID`, `DATA/ID` or either after `robustbench:` means, or None.

    classes: selects the data set where two have a net of one id; None is CIFAR-10, as in RobustBench.
    """
    name = name.removeprefix("robustbench:")
    if "/" in name:
        return KNOWN.get(name)
    matches = [known for known in KNOWN.values() if known.id == name]
    return next((known for known in matches if known.classes == classes), matches[0] if matches else None)


def get(name: str, classes: int | None = None) -> Known:
    """As `find`, but raises ConfigError where there is none."""
    if known := find(name, classes):
        return known
    plain = name.removeprefix("robustbench:")
    choices = KNOWN if "/" in plain else dict.fromkeys(known.id for known in KNOWN.values())
    raise ConfigError(
        f'expected a known teacher, got "{name}"{nearest(plain, choices)}: ardor.models.KNOWN has them; any other file '
        "is loaded by its network, say wide_resnet, with --model.weights FILE.pt"
    )


def known_of(net: nn.Module) -> Known | None:
    """The record of a net that `load` built from a known name, or None."""
    return find(str(getattr(net, "built_as", {}).get("name", ""))) if hasattr(net, "loaded_from") else None


def require_known(net: nn.Module, shape: tuple[int, ...], classes: int, who: str = "teacher") -> None:
    """Refuse a known net for data of another shape (C, H, W) or other classes.

    Its pooling takes any size, so that no forward pass fails. Raises ModelError.
    """
    known = known_of(net)
    if known and (known.shape != tuple(shape) or known.classes != classes):
        trained, data = (" x ".join(map(str, sides)) for sides in (known.shape, shape))
        raise ModelError(
            f"expected a {who} for images of {data} and {classes} classes, got {known.name}, which takes {trained} "
            f"and has {known.classes}: choose data or a {who} that fit"
        )


def table() -> str:
    """The known teachers as a Markdown table, that of docs/reference/teachers.md."""
    head = (
        "id",
        "data",
        "network",
        "images",
        "images enter",
        "clean %",
        "AutoAttack %",
        "eps",
        "extra data",
        "licence",
        "file",
    )
    rows = [head, ("---",) * len(head), *map(_row, KNOWN.values())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _row(known: Known) -> tuple[str, ...]:
    file = f"[plain]({known.url}), [Drive]({known.page})" if known.url else f"[Drive]({known.page})"
    enter = "raw" if known.mean_std is None else "normalised inside"
    network = known.network + (" + sub_block1" if known.sub_block1 else "")
    shares = (f"{100 * share:.2f}" for share in (known.clean, known.autoattack))
    name = f"[{known.id}]({known.paper})"
    images = " ".join([" x ".join(map(str, known.shape[1:])), known.preprocessing]).strip()
    return name, known.data, network, images, enter, *shares, as_text(known.eps), known.extra, known.licence, file


def _read_table() -> dict[str, Known]:
    text = files("ardor.models").joinpath("known.csv").read_text(encoding="utf-8")
    rows = ({key: cell for key, cell in row.items() if cell} for row in csv.DictReader(text.splitlines()))
    nets = (Known(**arguments(row, "known", Known)) for row in rows)
    return {f"{net.data}/{net.id}": net for net in nets}


KNOWN = _read_table()
"""DATA/ID to the record: CIFAR-10's, CIFAR-100's, ImageNet's."""
