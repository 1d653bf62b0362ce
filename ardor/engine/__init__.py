"""How a pass is computed: modes, folding, precision, several processes, threads, FLOPs."""

from ardor.engine.folding import folded
from ardor.engine.modes import attack_view, freeze, train_mode

__all__ = ["attack_view", "folded", "freeze", "train_mode"]
