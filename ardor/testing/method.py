"""The contract of a method, `ardor.types.Method`."""

from __future__ import annotations

import ast
import copy
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ardor.engine.modes import freeze
from ardor.noise import Noise
from ardor.storage.runs import Run
from ardor.testing.shared import Batch, TinyNet, global_rng, problem, require, require_same, same_tensors, snapshot
from ardor.training import checkpoint
from ardor.training.epoch import EpochRecord
from ardor.training.state import TrainState
from ardor.types import Images, Method, uses_labels


def check_method(
    method: Method,
    *,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    channels: int = 1,
    size: int = 8,
    classes: int = 10,
    seed: int = 0,
) -> None:
    """Check the contract of a method, in epochs 1 and 1000.

    Terms are finite, (B,) or (); the gradient reaches every parameter of the student and none of the teacher. Modes,
    flags, weights, the teacher's buffers, the images and the global random generators are unchanged. The same noise
    gives the same terms; `repr` is an expression of an equal method; learned state, in attributes that end in `_`, is
    restored from a checkpoint. A method whose `uses_labels` is False has the same terms with other labels.

    Parameters
    ----------
    method
        The method; it is copied.
    student, teacher
        Images (B, channels, size, size) to logits; None is a TinyNet of width 8 and 16. They are copied. A method with
        several teachers takes an nn.ModuleDict of them.
    channels, size, classes
        Shape of the images and number of classes.
    seed
        Seed of images and nets.

    Raises
    ------
    AssertionError
        With the first violation.
    """
    student = copy.deepcopy(student) if student is not None else TinyNet(channels, classes, 8, seed)
    teacher = copy.deepcopy(teacher) if teacher is not None else _teacher(method, channels, classes, seed)
    batch = problem(channels, size, classes, seed)
    student.train().requires_grad_(True)
    teacher.eval()
    # as in check_attack, one mode and one flag unlike the rest, where they change no value
    [m for m in student.modules() if not list(m.children())][-1].eval()
    list(student.parameters())[-1].requires_grad_(False)
    ready = _prepared(method, student, teacher, batch[0])
    for epoch in (1, 1000):
        _require_terms(ready, student, teacher, batch, epoch)
        _require_gradient(ready, student, teacher, batch, epoch)
    _require_repr(method)
    _require_state(ready, _prepared(method, student, teacher, batch[0]), student, teacher, batch)


def _teacher(method: Method, channels: int, classes: int, seed: int) -> nn.Module:
    """A net, or one for each name in `teachers` of the method's class."""
    names = getattr(type(method), "teachers", ())
    nets = {name: TinyNet(channels, classes, 16, seed + 1 + i) for i, name in enumerate(names)}
    return nn.ModuleDict(nets) if nets else TinyNet(channels, classes, 16, seed + 1)


def _prepared(method: Method, student: nn.Module, teacher: nn.Module, x: Images) -> Method:
    method = copy.deepcopy(method)
    if hasattr(method, "prepare"):
        with freeze(teacher):
            before, rng = (snapshot(student), snapshot(teacher)), global_rng()
            method.prepare(student, teacher, x)
            require_same(before[0], snapshot(student), method, "on the student, in prepare")
            require_same(before[1], snapshot(teacher), method, "on the teacher, in prepare")
        require(rng == global_rng(), method, "to draw within `seeded` in prepare", "a global random generator moved")
    return method


def _terms(method: Method, student: nn.Module, teacher: nn.Module, batch: Batch, epoch: int) -> dict[str, Tensor]:
    x, y, index = batch
    return method.terms(student, teacher, x, y, epoch=epoch, noise=Noise(0, index, "check_method", epoch))


def _require_terms(method: Method, student: nn.Module, teacher: nn.Module, batch: Batch, epoch: int) -> None:
    """Terms of the right shape, and no change but to the student's batch statistics."""
    results = []
    for _ in range(2):
        trial, net = copy.deepcopy(method), copy.deepcopy(student)
        with freeze(teacher):
            before, rng, given = (snapshot(net), snapshot(teacher)), global_rng(), [v.clone() for v in batch]
            constants = _constants(trial)
            results.append(_terms(trial, net, teacher, batch, epoch))
            before[0]["buffers"] = snapshot(net)["buffers"]  # batch statistics move
            require_same(before[0], snapshot(net), method, "on the student")
            require_same(before[1], snapshot(teacher), method, "on the teacher")
        require(rng == global_rng(), method, "to draw from `noise`", "a global random generator moved")
        require(all(map(torch.equal, given, batch)), method, "to copy its arguments", "arguments changed in place")
        require(constants == _constants(trial), method, "to learn in attributes that end in _", "another changed")
    _require_shapes(method, results[0], len(batch[0]))
    if not uses_labels(method):
        others = _terms(
            copy.deepcopy(method), copy.deepcopy(student), teacher, (batch[0], batch[1].flip(0), batch[2]), epoch
        )
        require(
            same_tensors(results[0], others), method, "to use no labels, as uses_labels says", "other terms by them"
        )
    require(same_tensors(*results), method, "to give the same terms for the same noise", "others")


def _require_shapes(method: Method, terms: dict[str, Tensor], rows: int) -> None:
    require(isinstance(terms, dict) and bool(terms), method, "to return a dict of terms", repr(terms))
    for name, term in terms.items():
        require(isinstance(term, Tensor), method, f"to return {name!r} as a tensor", repr(term))
        shape = tuple(term.shape)
        require(shape in ((rows,), ()), method, f"to return {name!r} as ({rows},) or a scalar", f"shape {shape}")
        require(bool(term.isfinite().all()), method, f"to return {name!r} finite", str(term))


def _require_gradient(method: Method, student: nn.Module, teacher: nn.Module, batch: Batch, epoch: int) -> None:
    """With a teacher that is not frozen, so that logits that are not detached give it a gradient."""
    method, student, teacher = copy.deepcopy(method), copy.deepcopy(student), copy.deepcopy(teacher)
    teacher.eval().requires_grad_(True)
    loss = torch.stack([term.mean() for term in _terms(method, student, teacher, batch, epoch).values()]).sum()
    require(loss.requires_grad, method, "to depend on the student", "constant terms")
    loss.backward()
    for name, p in student.named_parameters():
        reached = p.grad is not None and bool(p.grad.isfinite().all()) and bool((p.grad != 0).any())
        require(reached or not p.requires_grad, method, f"to move the student's {name}", f"the gradient {p.grad}")
    for name, p in teacher.named_parameters():
        require(p.grad is None, method, "to detach the teacher's logits", f"a gradient at its {name}")


def _require_repr(method: Method) -> None:
    """The repr consists of constructor calls and literals, and gives an equal method: reports contain it."""
    text = repr(method)
    classes = {type(part).__name__: type(part) for part in _parts(method)}
    for cls in sorted(classes.values(), key=lambda c: -len(c.__qualname__)):
        text = text.replace(cls.__qualname__, cls.__name__)
    try:
        again = _read(ast.parse(text, mode="eval").body, classes)
    except (SyntaxError, ValueError, TypeError, KeyError) as error:
        raise AssertionError(f"expected a repr that builds the method, got {text}: make it a dataclass") from error
    same = repr(again) == repr(method) if type(method).__eq__ is object.__eq__ else again == method
    fields: Any = getattr(method, "__dataclass_fields__", {})
    hidden = [name for name, f in fields.items() if f.init and not f.repr]
    require(same and not hidden, method, "to equal what its repr builds", f"{again!r}, without {hidden}")


def _parts(value: Any) -> Iterator[Any]:
    """A method, its attack, its attack's threat."""
    yield value
    for part in getattr(value, "__dict__", {}).values():
        if dataclasses.is_dataclass(part):
            yield from _parts(part)


def _read(node: ast.expr, classes: Mapping[str, Callable[..., Any]]) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        keywords = {str(k.arg): _read(k.value, classes) for k in node.keywords}
        return classes[node.func.id](*(_read(a, classes) for a in node.args), **keywords)
    return ast.literal_eval(node)


def _require_state(method: Method, fresh: Method, student: nn.Module, teacher: nn.Module, batch: Batch) -> None:
    """Save a method with learned state, load it into a new one, and compare."""
    net: Any = copy.deepcopy(student)
    _terms(method, net, teacher, batch, 1)
    if hasattr(method, "advance"):
        method.advance(net, epoch=1, last=True, average=None)
    for tensor in _learned(method).values():
        if tensor.is_floating_point():
            tensor.data.add_(torch.linspace(0.1, 0.2, tensor.numel(), dtype=tensor.dtype).reshape(tensor.shape))
    optimiser = torch.optim.SGD(student.parameters())
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Run(folder), EpochRecord(1, 1, 0.0, {}, 0.1, 0.0), TrainState(student, method, optimiser))
        checkpoint.resume(Run(folder), TrainState(student, fresh, optimiser))
    restored = same_tensors(_learned(method), _learned(fresh))
    require(restored, method, "to restore its learned state from a checkpoint", "less: create it in prepare")
    one, other = (_terms(copy.deepcopy(m), copy.deepcopy(student), teacher, batch, 1000) for m in (method, fresh))
    require(same_tensors(one, other), method, "to resume from its checkpoint", "other terms")


def _learned(method: object) -> dict[str, Tensor]:
    """The tensors of the attributes that end in one underscore; a checkpoint saves these only."""
    tensors: dict[str, Tensor] = {}
    for name, value in getattr(method, "__dict__", {}).items():
        learned, saved = name.endswith("_") and not name.endswith("__"), isinstance(value, Tensor | nn.Module)
        fits = learned == saved or (learned and value is None)
        require(fits, method, "to learn tensors and modules, named with a final _", f"{name}, {value!r}")
        if isinstance(value, nn.Module):
            tensors |= {f"{name}.{key}": tensor for key, tensor in value.state_dict().items()}
        elif isinstance(value, Tensor):
            tensors[name] = value
    return tensors


def _constants(method: object) -> dict[str, str]:
    return {k: repr(v) for k, v in getattr(method, "__dict__", {}).items() if not k.endswith("_")}
