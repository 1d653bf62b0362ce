"""Arguments of the types that their annotations name: for dataclasses and for the public functions.

NumPy's numbers and tensors without dimensions become Python's numbers; a list becomes a tuple where one is declared.
True and False are no numbers, 3.0 is no whole number, NaN and infinity are no values.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np
from torch import Tensor

from ardor.errors import ArdorError, ConfigError

P = ParamSpec("P")
R = TypeVar("R")

EXAMPLES = {
    "Split": "ardor.data.Split(images, labels, classes=10, name='mine', part='test'), of tensors of all the images",
    "Suite": "ardor.attacks.paper(ardor.Linf(8 / 255))",
    "Threat": "ardor.Linf(8 / 255)",
    "Linf": "ardor.Linf(8 / 255)",
    "Attack": "ardor.attacks.PGD(ardor.Linf(8 / 255))",
    "Maximiser": "ardor.attacks.PGD(ardor.Linf(8 / 255))",
    "Method": "ardor.methods.RSLAD()",
    "Recipe": "ardor.Recipe(epochs=30)",
    "Module": "ardor.models.load('runs/mine')",
    "SoftLabelCache": "SoftLabelCache('soft-labels')",
    "EMA": "EMA()",
    "Tensor": "torch.as_tensor(values)",
    "Report": "ardor.evaluate(net, test, suite)",
    "bool": "True",
    "int": "10",
    "float": "0.1",
    "str": "'mine'",
    "tuple": "(1, 2)",
}
"""What a user may type for a value of a type, by the type's name."""

SUITES = ("paper", "quick", "autoattack", "plus", "rand", "apgd", "square")
"""The suites of a threat alone: the words of the commands, and functions in Python."""


def typed(function: Callable[P, R]) -> Callable[P, R]:
    """A function that refuses arguments of other types than its annotations name. Raises ConfigError at the call."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        hints = _hints(function)
        for name, value in bound.arguments.items():
            if signature.parameters[name].kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
                bound.arguments[name] = _argument(name, value, hints.get(name, Any), function.__name__, ConfigError)
        return function(*bound.args, **bound.kwargs)

    return checked


def check_fields(thing: Any, error: type[ArdorError] = ConfigError, ranged: Sequence[str] = ()) -> None:
    """Refuse fields of another type than a dataclass declares, and normalise the others: a `__post_init__`.

    Numbers must be finite, but for those of the fields `ranged`, which the dataclass compares with a range.
    """
    cls: Any = type(thing)
    hints = _hints(cls)
    for field in dataclasses.fields(thing):
        if field.init:
            value = getattr(thing, field.name)
            checked = _argument(field.name, value, hints.get(field.name, Any), cls.__name__, error)
            if isinstance(checked, float) and field.name not in ranged and not math.isfinite(checked):
                raise error(
                    f"expected {field.name} of {cls.__name__} as a finite number, got {checked}: type for example 0.1"
                )
            if checked is not value:
                object.__setattr__(thing, field.name, checked)  # also where it is frozen


def require_value(key: str, value: Any, what: str, valid: Callable[[Any], bool]) -> None:
    """Refuse a value, of whatever type, that is not valid. Raises ConfigError.

    Parameters
    ----------
    key : str
        Dotted, as it is typed: "recipe.lr".
    what : str
        What is expected: "a number above 0".
    """
    # of another type, or a number that is not finite
    with contextlib.suppress(TypeError, ValueError, ArithmeticError, RuntimeError):
        if valid(value):
            return
    raise ConfigError(f"expected {key} as {what}, got {value!r}: type --{key} with such a value")


@functools.cache
def _hints(thing: Any) -> dict[str, Any]:
    """The annotations; none where those of a third-party file do not resolve."""
    with contextlib.suppress(NameError, TypeError):
        return typing.get_type_hints(thing)
    return {}


class _MismatchError(Exception):
    """What is expected, in words, and the name of the type."""


def _argument(name: str, value: Any, hint: Any, of: str, error: type[ArdorError]) -> Any:
    try:
        value = _as(value, hint)
    except _MismatchError as mismatch:
        words, kind = mismatch.args
        if isinstance(value, type):
            got, example = f"the class {value.__name__}", f"{value.__name__}()"
        else:
            plain = value is None or isinstance(value, bool | str | numbers.Number)
            got, example = repr(value)[:60] if plain else type(value).__name__, EXAMPLES.get(kind, kind)
            if kind == "Suite" and isinstance(value, str) and value in SUITES:
                example = f"ardor.attacks.suites.{value}(ardor.Linf(8 / 255))"
        raise error(f"expected {name} of {of} as {words}, got {got}: type for example {example}") from None
    if name == "seed" and value is not None and not 0 <= value < 2**63:
        raise error(
            f"expected seed of {of} as a whole number of 0 or more, below 2**63, got {value}: type for example 0"
        )
    return value


def _as(value: Any, hint: Any) -> Any:
    """The value in the type of a hint. Raises _MismatchError."""
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return _of_union(value, inner)
    if kind is typing.Literal:
        near = (*difflib.get_close_matches(value, inner, 1), *inner) if isinstance(value, str) else inner
        _required(value, isinstance(value, str) and value in inner, f"one of {', '.join(inner)}", repr(near[0]))
        return str(value)
    if kind in (bool, int, float, str):
        return _scalar(value, kind)
    if kind in (tuple, list, Sequence):
        return _sequence(value, kind, inner)
    if kind in (dict, Mapping):
        _required(value, isinstance(value, Mapping), "a dict", "dict")
        return {_as(k, inner[0]): _as(v, inner[1]) for k, v in value.items()} if inner else value
    if kind is Callable:
        return _required(value, callable(value), "a function", "function")
    if kind is Any or not isinstance(kind, type):
        return value
    a = "None" if kind is type(None) else f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"
    return _required(value, isinstance(value, kind) and not isinstance(value, type), a, kind.__name__)


def _required(value: Any, valid: bool, words: str, kind: str) -> Any:
    if not valid:
        raise _MismatchError(words, kind)
    return value


def _of_union(value: Any, options: Sequence[Any]) -> Any:
    mismatches = []
    for option in options:
        try:
            return _as(value, option)
        except _MismatchError as mismatch:
            mismatches.append(mismatch.args)
    raise _MismatchError(" or ".join(words for words, _ in mismatches), mismatches[0][1])


def _scalar(value: Any, kind: type) -> Any:
    """A value in one of Python's own types, from NumPy's and from a tensor without dimensions too."""
    if isinstance(value, np.generic | np.ndarray | Tensor) and value.ndim == 0:
        value = float(value) if isinstance(value, np.longdouble) else value.item()
    is_bool = isinstance(value, bool)
    if kind is bool:
        return _required(value, is_bool, "True or False", "bool")
    if kind is str:
        return str(_required(value, isinstance(value, str), "text", "str"))
    if kind is int:
        return int(_required(value, isinstance(value, numbers.Integral) and not is_bool, "a whole number", "int"))
    _required(value, isinstance(value, numbers.Real) and not is_bool, "a number", "float")
    with contextlib.suppress(OverflowError):  # a whole number beyond any float
        exact = isinstance(value, int | float) and float(value) == value
        return int(value) if exact and isinstance(value, int) else value if exact else float(value)
    raise _MismatchError("a number that a float can hold", "float")


def _sequence(value: Any, kind: Any, inner: tuple[Any, ...]) -> Any:
    if isinstance(value, np.ndarray | Tensor) and value.ndim == 1:
        value = value.tolist()
    fixed = kind is tuple and len(inner) > 1 and inner[1] is not ...
    valid = isinstance(value, list | tuple | range) and (not fixed or len(value) == len(inner))
    _required(value, valid, f"a list of {len(inner)} values" if fixed else "a list", "tuple")
    values = [_as(one, inner[i if fixed else 0]) for i, one in enumerate(value)] if inner else list(value)
    return values if kind is list or (kind is Sequence and isinstance(value, list)) else tuple(values)
