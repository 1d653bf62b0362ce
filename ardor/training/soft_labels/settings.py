"""Where soft labels are kept between runs: a folder with one table for each teacher, data set and augmentation."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ardor.data.split import Split
from ardor.storage.config import to_yaml
from ardor.training.recipe import Recipe
from ardor.training.soft_labels.savings import crop_of, enumerable
from ardor.training.soft_labels.table import DTYPE, SoftLabels, identity_of

log = logging.getLogger(__name__)

CUT = ("root", "val", "seed", "limit", "protocol", "download")
"""Words about data that say where they lie and which part is taken: an image is the same image."""


@dataclass(frozen=True)
class SoftLabelCache:
    """folder: of all tables; they find their own names. dtype: of the logits; float16 takes half the room."""

    folder: str | Path
    dtype: DTYPE = "float32"

    def table(self, teacher: nn.Module, train: Split, recipe: Recipe) -> SoftLabels | None:
        """The table of `teacher`, on its device, for the views of `train` that `recipe` draws.

        None where there can be none, and the log says why. Raises RunError where the folder cannot be used.
        """
        why = enumerable(recipe)
        if why is None and not hasattr(os, "pwrite"):
            why = "soft labels are not kept: this system cannot write at a position of a file (os.pwrite)"
        if why is not None:
            log.warning(why)
            return None
        padding, flip = crop_of(recipe)
        identity = identity_of(teacher, train, padding=padding, flip=flip, classes=train.classes, dtype=self.dtype)
        options = {k: v for k, v in train.source.items() if k not in CUT}  # of a user's own data they make others
        digest = hashlib.sha256(f"{train.name}\n{options}\n{to_yaml(identity)}".encode()).hexdigest()[:12]
        name = "".join(c if c.isalnum() else "_" for c in train.name)[-40:]
        return SoftLabels.open(
            Path(self.folder) / f"{name}-{digest}", teacher, train, padding=padding, flip=flip, dtype=self.dtype
        )
