"""AWP, adversarial weight perturbation (Wu et al., NeurIPS 2020; github csdongxian/AWP), for any method.

v      the gradient of the method's own loss at the weights w
delta  gamma ||w|| v / ||v||, for each tensor of weights: no biases, no norms
The update's gradient is that at w + delta on the same x', the optimiser steps there, and delta is subtracted after it.
The first pass remembers the attack's and the teacher's answers, so that the second costs its outer passes alone. Batch
statistics are those of the second pass, what the method learns is that of the first, which has the attack. Weights of
nets that a method keeps may not change in `terms`, which is called twice, but in `advance`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ardor.engine.recorded import Recorded
from ardor.errors import ConfigError
from ardor.noise import Noise
from ardor.storage.config import few
from ardor.training.state import learned_by, set_learned
from ardor.types import Images, Objective


@dataclass
class Remembered:
    """An attack that answers each call once: after `replay` with the same images."""

    attack: Any
    answers: list[Images] = field(default_factory=list)
    calls: int = 0

    def maximise(self, objective: Objective, x: Images, noise: Noise) -> Images:
        """The attack's answer, or that of the same call before."""
        if self.calls == len(self.answers):
            self.answers.append(self.attack.maximise(objective, x, noise))
        self.calls += 1
        return self.answers[self.calls - 1]

    def replay(self) -> None:
        """Begin with the first answer again."""
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle look these up before there is an attack
            raise AttributeError(name)
        return getattr(self.__dict__["attack"], name)


def remembered(teacher: Any) -> Any:
    """A teacher, or a dict of several, that answers for the same images once."""
    if isinstance(teacher, Mapping):
        return {name: Recorded(net, again=True) for name, net in teacher.items()}
    return None if teacher is None else Recorded(teacher, again=True)


@contextlib.contextmanager
def perturbed(student: nn.Module, method: Any, gamma: float, backward: Callable[[], object]) -> Iterator[None]:
    """The student at w + delta, with the method's attack remembered; w + the update on exit, w after an error.

    Parameters
    ----------
    student : nn.Module
        In train mode.
    gamma : float
        Norm of delta, as a share of that of the weights.
    backward : callable
        Computes the gradients of the method's loss, of all processes, in `.grad`.

    Raises
    ------
    ConfigError
        Where `terms` changes the weights of a net that the method keeps.
    """
    attack = Remembered(method.attack) if hasattr(method, "attack") else None
    with _with_attack(method, attack):
        before, versions = _tensors(method), _versions(method)
        with _undone(student, method):
            backward()
        if changed := [name for name, version in _versions(method).items() if versions.get(name) != version]:
            raise ConfigError(
                f"expected terms of {type(method).__name__} that may be called twice in a step, for --recipe.awp, got "
                f"one that changes {few(changed)}: change it in advance(), or type --recipe.awp 0"
            )
        first = _tensors(method)
        _set_tensors(method, before)
        if attack is not None:
            attack.replay()
        deltas = _deltas(student, gamma)
        weights = [p.detach().clone() for p, _ in deltas]
        try:
            _add(deltas, 1)
            yield
        except BaseException:
            with torch.no_grad():
                for (p, _), w in zip(deltas, weights, strict=True):
                    p.copy_(w)
            raise
        _add(deltas, -1)
        _set_tensors(method, first)


@contextlib.contextmanager
def _with_attack(method: Any, attack: Remembered | None) -> Iterator[None]:
    if attack is None:
        yield
        return
    object.__setattr__(method, "attack", attack)  # also where the method is frozen
    try:
        yield
    finally:
        object.__setattr__(method, "attack", attack.attack)


@torch.no_grad()
def _deltas(student: nn.Module, gamma: float) -> list[tuple[nn.Parameter, Tensor]]:
    """The weights with their delta; none where a gradient is not finite."""
    pairs = []
    for name, p in student.named_parameters():
        if p.grad is not None and p.ndim > 1 and "weight" in name:
            delta = gamma * p.norm() / (p.grad.norm() + 1e-20) * p.grad
            pairs.append((p, torch.where(delta.isfinite().all(), delta, 0)))
    return pairs


@torch.no_grad()
def _add(deltas: list[tuple[nn.Parameter, Tensor]], sign: int) -> None:
    for p, delta in deltas:
        p.add_(delta, alpha=sign)


@contextlib.contextmanager
def _undone(student: nn.Module, method: Any) -> Iterator[None]:
    """Undo what a pass changes in batch statistics, of the student and of the method's nets."""
    nets = [student, *(value for value in learned_by(method).values() if isinstance(value, nn.Module))]
    before = [(buffer, buffer.clone()) for net in nets for buffer in net.buffers()]
    yield
    with torch.no_grad():
        for buffer, value in before:
            buffer.copy_(value)


def _versions(method: Any) -> dict[str, tuple[int, int]]:
    """The weights of the nets that a method keeps, by name: which tensor, and how often it was written in place."""
    nets = {name: value for name, value in learned_by(method).items() if isinstance(value, nn.Module)}
    return {f"{name}.{key}": (id(p), p._version) for name, net in nets.items() for key, p in net.named_parameters()}


def _tensors(method: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learned_by(method).items() if isinstance(value, Tensor)}


def _set_tensors(method: Any, tensors: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        set_learned(method, name, value.clone())
