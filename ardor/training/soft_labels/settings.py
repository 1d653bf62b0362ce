"""The folder of cached soft labels: one table for each teacher, data set and augmentation."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ardor.data.split import Split
from ardor.storage.arguments import check_fields
from ardor.storage.config import to_yaml
from ardor.training.recipe import Recipe
from ardor.training.soft_labels.table import DTYPE, SoftLabels, identity_of
from ardor.training.soft_labels.views import numbering, unnumbered

log = logging.getLogger(__name__)

CUT = ("root", "val", "seed", "limit", "protocol", "download", "extra_share", "extra_labels")
"""Options of data that change its place or the part that is taken, not an image."""


@dataclass(frozen=True)
class SoftLabelCache:
    """A folder of tables, which runs share.

    Parameters
    ----------
    folder : str or Path
        Of all tables; a table's name follows from teacher, data and augmentation.
    dtype : "float32" or "float16"
        Of the logits; float16 takes half the space.
    """

    folder: str | Path
    dtype: DTYPE = "float32"

    def __post_init__(self) -> None:
        check_fields(self)

    def table(self, teacher: nn.Module, train: Split, recipe: Recipe) -> SoftLabels | None:
        """The table of `teacher`, on its device, for the views of `train` that `recipe` draws.

        Returns
        -------
        SoftLabels or None
            None, with a warning, where the recipe's views have no numbers, and where the system cannot write at a
            position of a file (Windows).

        Raises
        ------
        RunError
            Where the folder cannot be used.
        """
        if not hasattr(os, "pwrite"):
            log.warning("soft labels are not kept: this system cannot write at a position of a file (os.pwrite)")
            return None
        if reason := unnumbered(recipe):
            log.warning("soft labels are not cached: %s", reason)
            return None
        identity = identity_of(teacher, train, classes=train.classes, dtype=self.dtype, **numbering(recipe))
        options = {k: v for k, v in train.source.items() if k not in CUT}  # options of a user's reader change images
        digest = hashlib.sha256(f"{train.name}\n{options}\n{to_yaml(identity)}".encode()).hexdigest()[:12]
        name = "".join(c if c.isalnum() else "_" for c in train.name)[-40:]
        return SoftLabels(Path(self.folder) / f"{name}-{digest}", identity, train)
