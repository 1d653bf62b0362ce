"""The architecture in one page: the tensors that the packages exchange, and the protocols of threat, attack and method.

    data.load -> Split of Images and Labels          models.build, models.load -> nn.Module (a Net)
    training.epochs: Method.terms, which calls Maximiser.maximise within a Threat -> a trained net in a run folder
    evaluation.evaluate: each Attack of a suite -> a verdict per image and attack -> Report
    deployment.export -> ONNX or ExecuTorch file, evaluated by the same attacks

A protocol is matched by structure: a class with these functions needs no base class. `ardor.testing` checks the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from ardor.noise import Noise

Images: TypeAlias = Tensor
"""(B, C, H, W) floating point in [0, 1]; mean and standard deviation are the model's first layer."""

Logits: TypeAlias = Tensor
"""(B, classes) floating point, before any softmax."""

Labels: TypeAlias = Tensor
"""(B,) int64 in 0 .. classes - 1."""

PerExample: TypeAlias = Tensor
"""(B,) one loss per image, not yet reduced."""

Net: TypeAlias = Callable[[Images], Logits]
"""Images to logits. Methods on features also use `features(x)` -> (B, d) and `head(features)` -> logits."""

Objective: TypeAlias = Callable[[Images], PerExample]
"""The objective of an inner maximisation: any per-example function of the images."""


@runtime_checkable
class Threat(Protocol):
    """The allowed perturbations of x: Linf and L2 are in ardor.attacks.threat."""

    @property
    def eps(self) -> float:
        """The radius, on the [0, 1] scale of the images."""
        ...

    def start(self, x: Images, kind: str, noise: Noise) -> Images:
        """The first iterate of an attack, a new tensor."""
        ...

    def ascend(self, x: Images, grad: Tensor, step: float | Tensor) -> Images:
        """One step of steepest ascent in this norm; `step` is one length or one per image (B,)."""
        ...

    def project(self, x_adv: Images, x: Images) -> Images:
        """Projection onto the ball around x, clipped to [0, 1]."""
        ...


@runtime_checkable
class Attack(Protocol):
    """An evaluation attack: hyperparameters only; no model, data or mode."""

    def __call__(self, net: Net, x: Images, y: Labels, noise: Noise) -> Images:
        """Adversarial images (B, C, H, W) inside the threat; the caller computes the verdicts."""
        ...


@runtime_checkable
class Maximiser(Protocol):
    """An inner maximisation: the attack of a training method, on the method's objective."""

    def maximise(self, objective: Objective, x: Images, noise: Noise) -> Images:
        """Images near x on which the objective is large."""
        ...


@runtime_checkable
class Method(Protocol):
    """A training method: any object with `terms`; the loss is the sum of the means of its terms, each of them logged.

    Optional functions: `parameters()`, the parts trained besides the student, and `prepare(student, teacher, x)`, which
    creates them. Attributes that end in `_` are learned state and are checkpointed. `advance(student, *, epoch, last,
    average)` is called after each step of the optimiser, with whether it was the epoch's last and the weights of the
    recipe's EMA by name, or None: what `terms` may be called twice without, as weight perturbation does, changes there.

    Optional class attributes, not inherited by subclasses: `needs_teacher` (True: the teacher may not be None; False: a
    teacher is neither used nor recorded; default: it may be None), `wants_robust_teacher` (default True: the teacher is
    attacked before training), `wants_linear_teacher` (default False; True where its input gradients are matched, for
    which a natural teacher is of no use), `channels_last` (default False; True where `terms` calls no `view` on the
    images) and `uses_labels` (default True; False, or a property, where neither terms nor attack use y: images without
    a label are then trained on, and mixed ones). `least_images` (default 1) is the number of images that `terms` needs
    at once.
    """

    def terms(
        self, student: nn.Module, teacher: Any, x: Images, y: Labels, *, epoch: int, noise: Noise
    ) -> dict[str, Tensor]:
        """Named loss terms, each per example (B,) or a scalar where it is a batch statistic. epoch counts from 1."""
        ...


def uses_labels(method: Method) -> bool:
    """Whether a method uses hard labels: unless its own class has `uses_labels`, and that is False."""
    return bool(getattr(method, "uses_labels")) if "uses_labels" in vars(type(method)) else True  # noqa: B009
