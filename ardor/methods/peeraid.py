"""PeerAiD (Jung et al., CVPR 2024): a peer of the student's size, trained along on the student's adversarial examples.

inner  max  KL(P(x) || S(x'))
outer  min  g1 CE(P(x'), y) + g2 KL(S(x') || P(x'))                                       for the peer P
            l1 CE(S(x'), y) + l2 t^2 KL(P^t(x') || S^t(x')) + l3 t^2 KL(S^t(x) || S^t(x'))  for the student
Targets are detached but for S(x), which keeps its gradient. In the authors' code S(x') in the peer's term does too, so
that a part of the peer's loss trains the student (`leak`); each KL is a mean over classes (`scale` 0.1 on CIFAR-10).
CIFAR-10: t = 5, g = (1, 0.1), l = (0, 1, 1); on CIFAR-100 g2 = 1. Ours: one pass of S on x' serves both losses, where
theirs passes it twice. P begins with weights of its own seed. Its SWA is the recipe's here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ardor.attacks import PGD
from ardor.engine.modes import attack_view
from ardor.losses import ce, kl
from ardor.models.fresh import untrained
from ardor.noise import Noise
from ardor.storage.arguments import check_fields
from ardor.types import Images, Labels, Maximiser


@dataclass
class PeerAiD:
    """Adversarial distillation from a peer that is trained along.

    Parameters
    ----------
    g1, g2
        Weights of the peer's cross-entropy and of the student as its target.
    l1, l2, l3
        Weights of the student's cross-entropy, of the peer as its target, and of its own prediction on x.
    t
        Temperature of the student's two KL terms.
    scale
        Factor of the three KL terms.
    leak
        Leave the gradient of S(x') in the peer's term, as released.
    weight_decay
        Of the peer.
    seed
        Seed of the peer's first weights.
    attack
        The inner maximisation.
    """

    config_name: ClassVar[str] = "peeraid"
    needs_teacher: ClassVar[bool] = False
    channels_last: ClassVar[bool] = True

    g1: float = 1.0
    g2: float = 0.1
    l1: float = 0.0
    l2: float = 1.0
    l3: float = 1.0
    t: float = 5.0
    scale: float = 1.0
    leak: bool = False
    weight_decay: float = 2e-4
    seed: int = 1
    attack: Maximiser = PGD(start="gaussian")
    peer_: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)

    def prepare(self, student: nn.Module, teacher: None, x: Images) -> None:
        """Create the peer."""
        self.peer_ = untrained(student, self.seed).train().requires_grad_(True)

    def parameters(self) -> Iterable[nn.Parameter]:
        """The peer's, with a weight decay of their own."""
        return self.peer_.parameters() if self.peer_ else ()

    def terms(
        self, student: nn.Module, teacher: None, x: Images, y: Labels, *, epoch: int, noise: Noise
    ) -> dict[str, Tensor]:
        """Per-example terms, (B,) each."""
        with attack_view(self.peer_) as net, torch.no_grad():
            soft = net(x)
        with attack_view(student) as net:
            x_adv = self.attack.maximise(lambda z: kl(soft, net(z)), x, noise)

        of_peer, robust, clean = self.peer_(x_adv), student(x_adv), student(x)
        target = robust if self.leak else robust.detach()
        student_kl = self.l2 * kl(of_peer.detach(), robust, self.t) + self.l3 * kl(clean, robust, self.t)
        return {
            "peer": self.g1 * ce(of_peer, y) + self.scale * self.g2 * kl(target, of_peer),
            "student": self.l1 * ce(robust, y) + self.scale * self.t**2 * student_kl,
        }
