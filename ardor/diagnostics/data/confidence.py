"""The images of a file of which a net is most confident, for training beside real ones: `keep_confident`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ardor.data.extra import read_extra
from ardor.data.split import as_float
from ardor.engine.modes import attack_view, device_of
from ardor.errors import ConfigError, ModelError, RunError
from ardor.evaluation.checks.net import logits_of
from ardor.storage.arguments import typed
from ardor.storage.files import require_writable, write_atomic
from ardor.storage.imports import cause_of


@dataclass(frozen=True)
class Kept:
    """What `keep_confident` wrote.

    Parameters
    ----------
    images, of
        Images kept, and in the file.
    least
        The lowest probability that the net gives the most likely class of an image that is kept.
    labelled
        Whether the labels are the file's; else they are the net's most likely classes.
    """

    images: int
    of: int
    least: float
    labelled: bool


@typed
def keep_confident(
    name: str,
    net: nn.Module,
    share: float,
    out: Path,
    *,
    batch: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Kept:
    """Write the share of a file's images on which a net's most likely class has the highest probability.

    The images keep their order, and their labels; where there are none, the net's most likely classes are written.

    Parameters
    ----------
    name
        `npz:FILE`, as `ardor.data.with_extra` takes it.
    net
        Images (B, C, H, W) in [0, 1] to logits.
    share
        Of all images of the file, whatever their class, above 0 and at most 1; one image at least.
    out
        A new file.
    batch
        Images at once.
    progress
        Called with the images that are done, and all.

    Raises
    ------
    ConfigError, DataError
        For a share out of range, and a file of another form.
    ModelError
        Where the net does not take the images.
    RunError
        Where `out` exists or cannot be written.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"expected a share above 0 and at most 1, got {share:g}: type --share 0.2")
    if out.suffix != ".npz":
        raise ConfigError(f"expected a name that ends in .npz, got {out}: type --out {out.name or 'kept'}.npz")
    _require_new(out)
    require_writable(out)
    images, labels = read_extra(name)
    confidence, predicted = _predicted(net, images, batch, progress)
    rows = confidence.argsort(descending=True, stable=True)[: max(1, round(share * len(images)))].sort().values
    content = {
        "image": images[rows].permute(0, 2, 3, 1).contiguous().numpy(),
        "label": (predicted if labels is None else labels)[rows].numpy(),
    }
    _require_new(out)
    write_atomic(out, lambda temporary: _save(temporary, content))
    return Kept(len(rows), len(images), float(confidence[rows].min()), labels is not None)


def _predicted(
    net: nn.Module, images: Tensor, batch: int, progress: Callable[[int, int], None] | None
) -> tuple[Tensor, Tensor]:
    """The probability of the most likely class of each image, and that class; (N,) each, on the CPU."""
    found = []
    with torch.no_grad(), attack_view(net):
        for start in range(0, len(images), batch):
            x = as_float(images[start : start + batch].contiguous()).to(device_of(net))
            try:
                found.append(logits_of(net, x).double().softmax(1).max(1))
            except RuntimeError as error:
                raise ModelError(
                    f"expected a net that takes images of {tuple(x.shape[1:])}, got {cause_of(error)}: type "
                    "--model with another one"
                ) from error
            if progress is not None:
                progress(start + len(x), len(images))
    return torch.cat([one.values.cpu() for one in found]), torch.cat([one.indices.cpu() for one in found])


def _require_new(out: Path) -> None:
    if out.exists():
        raise RunError(f"expected a new file, got {out}, which is there: type --out with another name")


def _save(path: Path, content: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:  # to a path without .npz numpy adds it
        np.savez(file, **content)  # type: ignore[arg-type]
