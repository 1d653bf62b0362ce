"""The teacher's logits on clean images, computed once per view of an image and cached on disk.

Crop and flip give at most 162 views of an image, resized crops as many as `recipe.views`, and the teacher's weights do
not change, so its logits can be read instead of computed. `SoftLabelCache` is a folder of tables, `SoftLabels` one
table, `CachedTeacher` the teacher of one batch. docs/concepts/soft_labels.md has the guarantees.
"""

from ardor.training.soft_labels.savings import Saving, saving
from ardor.training.soft_labels.settings import SoftLabelCache
from ardor.training.soft_labels.table import SoftLabels
from ardor.training.soft_labels.teacher import CachedTeacher
from ardor.training.soft_labels.views import unnumbered

__all__ = ["CachedTeacher", "Saving", "SoftLabelCache", "SoftLabels", "saving", "unnumbered"]
