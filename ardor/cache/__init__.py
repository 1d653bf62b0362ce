"""cache: the teacher's soft labels on clean images, computed once for each view of an image and kept on disk.

Crop and flip show an image in 162 views at most, and the teacher's weights stay, so its answers can be looked up
instead of computed again. `Keep` says where tables lie, `SoftLabels` is one, `Taught` the teacher that a method sees
for one batch.
docs/cache.md says what is promised.
"""

from ardor.cache.cost import Saving as Saving
from ardor.cache.cost import enumerable as enumerable
from ardor.cache.cost import saving as saving
from ardor.cache.keep import Keep as Keep
from ardor.cache.table import DTYPE as DTYPE
from ardor.cache.table import SoftLabels as SoftLabels
from ardor.cache.taught import Taught as Taught

__all__ = ["DTYPE", "Keep", "Saving", "SoftLabels", "Taught", "enumerable", "saving"]
