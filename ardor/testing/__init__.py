"""The contracts of an attack and of a method, for the tests of your own: `check_attack(MyAttack())`.

Each check raises AssertionError with a sentence that says what was expected and what came, and returns nothing. Nets
given to them are copied. Attacks are checked in float64, so that rounding never decides the sign of a gradient, and on
images of which half the values are exactly 0 or 1, where an attack through a clamp would see no gradient.
"""

from ardor.testing.attack import check_attack
from ardor.testing.method import check_method
from ardor.testing.shared import TinyNet as TinyNet
from ardor.testing.shared import global_rng as global_rng
from ardor.testing.shared import problem as problem
from ardor.testing.shared import require_same as require_same
from ardor.testing.shared import snapshot as snapshot

__all__ = ["TinyNet", "check_attack", "check_method"]
