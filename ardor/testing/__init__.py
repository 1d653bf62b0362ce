"""Contract tests for third-party attacks and methods: `check_attack(MyAttack())`, `check_method(MyMethod())`.

Each raises AssertionError with what was expected and what was given, and returns None. Nets are copied. Attacks are
checked in float64, where rounding does not change the sign of a gradient, and on images of which half the values are
exactly 0 or 1, where the gradient through a clamp is zero.
"""

from ardor.testing.attack import check_attack
from ardor.testing.method import check_method
from ardor.testing.shared import TinyNet as TinyNet
from ardor.testing.shared import global_rng as global_rng
from ardor.testing.shared import problem as problem
from ardor.testing.shared import require_same as require_same
from ardor.testing.shared import snapshot as snapshot

__all__ = ["TinyNet", "check_attack", "check_method"]
