"""The signature of an object: what it computes with, as texts that are equal in every process.

Settings (numbers, text, tensors, arrays, containers, attributes of objects) are taken by value, functions and classes
of a user's by their code, those of packages by their names. No address in memory, device or order of a set enters.
"""

from __future__ import annotations

import copyreg
import dis
import functools
import hashlib
import logging
import random
import sys
import sysconfig
import types
import weakref
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from ardor.storage.code import digest_of, in_packages
from ardor.storage.imports import content_of

_PLAIN = (bool, int, float, complex, str, torch.dtype, torch.Size, Path, range, slice, type(None), type(...))
_RANDOM = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
"""Their state moves with every call."""
_OPAQUE = (torch.device, logging.Logger, weakref.ref, types.FrameType, types.GeneratorType, np.ufunc, *_RANDOM)
_WRAPPERS = (property, staticmethod, classmethod, functools.cached_property)
_OWN_FORM = (
    *(set, frozenset, Tensor, np.ndarray, bytes, bytearray, nn.Module, functools.partial, *_WRAPPERS, *_OPAQUE),
    *(types.FunctionType, types.ModuleType, types.MethodType, types.BuiltinFunctionType),
)
"""Types that have a form of their own."""
_BUILT_IN = (list, tuple, dict, set, frozenset)
_GENERATED = ("__init__", "__repr__", "__eq__", "__setattr__", "__delattr__", "__hash__", "__replace__")
"""Methods that the decorator of a dataclass writes; its fields are class attributes."""
_HOOKS = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
_OF_MODULES = {
    *vars(nn.Module()),
    "built_as",
    "loaded_from",
    "loaded_state",
    "start",
    "_compiled_call_impl",
    "range_constraints",
}
"""Torch's bookkeeping, where a net comes from, the same computation compiled, and the batches that an export takes."""
DEPTH = 40
"""How deep an object is described, in attributes of attributes."""


class Signature:
    """Texts by the path of what they describe, such as "layers.0.act.eps"; and digests of the user's files.

    `plain` is whether everything was a number, text, or a container or dataclass of them.
    """

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.files: dict[str, str] = {}
        self.plain = True
        self._seen: dict[int, str] = {}
        self._kept: list[Any] = []  # an id is of one object only while it lives
        self._depth = 0

    @property
    def code(self) -> str | None:
        """A hash of the user's files, with what they import from their own folders; None where there are none."""
        digests = sorted(set(self.files.values()))
        return digests[0] if len(digests) == 1 else _hash("\n".join(digests)) if digests else None

    @property
    def digest(self) -> str:
        """A hash of texts and files: 16 hexadecimal digits."""
        return _hash("\n".join([*(f"{key}\t{text}" for key, text in self.texts.items()), str(self.code)]))

    def add(self, path: str, value: Any) -> None:
        """Describe `value` at `path`, and below it what it consists of."""
        if isinstance(value, Enum):
            self.texts[path] = f"{self._class(type(value))} {value.name}"
            self.add(f"{path}.value", value.value)
        elif isinstance(value, _PLAIN):
            kind = next(kind for kind in _PLAIN if isinstance(value, kind))  # a fraction such as 8/255 is a float
            self.texts[path] = f"{kind.__name__} {value!r}"
        elif isinstance(value, np.generic):
            self.texts[path] = f"{value.dtype} {value.item()!r}"
        elif isinstance(value, type):
            self.plain, self.texts[path] = False, self._class(value)
        elif id(value) in self._seen:
            self.texts[path] = f"is {self._seen[id(value)]}"
        elif self._depth < DEPTH:
            self._seen[id(value)] = path
            self._kept.append(value)
            self._depth += 1
            self.texts[path] = self._text(path, value)
            self._depth -= 1

    def alone(self, path: str, value: Any) -> None:
        """Describe `value` as `add` does, but what it shares with other values as if it were its own."""
        own = Signature()
        own.add(path, value)
        self.texts |= own.texts
        self.files |= own.files
        self.plain &= own.plain

    def net(self, path: str, net: nn.Module) -> None:
        """Describe the layers of a net, in order: their classes, settings, hooks; not their parameters and buffers."""
        names = {id(module): f"{path}{name}" for name, module in net.named_modules()}
        for module in net.modules():
            self._seen[id(module)] = names[id(module)]
            self._kept.append(module)
        weights: dict[int, str] = {}
        for name, module in ((names[id(module)], module) for module in net.modules()):
            children = {key: names[id(child)] for key, child in module.named_children()}
            tensors = [f"{key} {weights.setdefault(id(p), f'{name}.{key}')}" for key, p in module._parameters.items()]
            self.texts[name] = f"{self._class(type(module))} {children} {tensors}"
            if is_file(module):
                self.texts[name] += _array(dict(module.named_buffers())["digest"])
                continue
            if isinstance(module, torch.jit.ScriptModule):
                self.texts[name] += str(getattr(module, "code", ""))
                concrete = getattr(module, "_concrete_type", None)  # none after torch.jit.freeze
                for key in concrete.get_attributes() if concrete else ():
                    value = getattr(module, key, None)
                    if not isinstance(value, Tensor) and key not in _OF_MODULES:
                        self.add(f"{name}.{key}", value)
                continue
            if type(module).__module__.startswith("torch._dynamo"):  # the same computation as its child, compiled
                continue
            for hooks in _HOOKS:
                self._each(f"{name}.{hooks}", list(getattr(module, f"_{hooks}").values()))
            for key, value in vars(module).items():
                if key not in _OF_MODULES:
                    self.add(f"{name}.{key}", value)

    def _each(self, path: str, values: list[Any]) -> None:
        for i, value in enumerate(values):
            self.add(f"{path}[{i}]", value)

    def _text(self, path: str, value: Any) -> str:
        if isinstance(value, list | tuple):
            self._each(path, list(value))
            return f"{self._contained(path, value)} of {len(value)}"
        if isinstance(value, Mapping):
            keys = [repr(key) if isinstance(key, _PLAIN) else self._apart(key) for key in value]
            for key, one in zip(keys, value.values(), strict=True):
                self.add(f"{path}[{key}]", one)
            return f"{self._contained(path, value)} {keys}"
        if isinstance(value, fx.Graph):
            return str(value)
        if not isinstance(value, _OWN_FORM) and hasattr(value, "__dict__"):
            return self._attributes(path, value)
        self.plain = False  # what a config does not describe
        if isinstance(value, set | frozenset):
            return f"{self._contained(path, value)} {sorted(map(self._apart, value))}"
        if isinstance(value, Tensor | np.ndarray):
            return self._array(path, value)
        if isinstance(value, bytes | bytearray):
            return hashlib.sha256(value).hexdigest()
        if isinstance(value, types.FunctionType):
            return self._function(path, value)
        if isinstance(value, types.ModuleType):
            return self._file(value.__name__, getattr(value, "__file__", None)) or f"module {value.__name__}"
        return self._object(path, value)

    def _apart(self, value: Any) -> str:
        """A hash of a key or of an element of a set, which has no place; of one that is described, its path."""
        inner = Signature()
        inner._seen, inner._depth = dict(self._seen), self._depth
        inner.add("", value)
        return inner.digest

    def _contained(self, path: str, value: Any) -> str:
        """The type of a container; of a user's with its code and attributes."""
        return type(value).__name__ if type(value) in _BUILT_IN else self._attributes(path, value)

    def _array(self, path: str, value: Tensor | np.ndarray[Any, Any]) -> str:
        if isinstance(value, np.ndarray) and value.dtype.hasobject:
            self.add(f"{path}()", value.tolist())
            return f"{value.dtype} {value.shape}"
        return _array(value)

    def _object(self, path: str, value: Any) -> str:
        if isinstance(value, nn.Module):
            self.net(f"{path}.", value)
            for name, tensor in [*value.named_parameters(), *value.named_buffers()]:
                self.texts[f"{path}.{name}"] = _array(tensor)
        elif isinstance(value, types.MethodType):
            self._each(path, [value.__func__, value.__self__])
        elif isinstance(value, functools.partial):
            self._each(path, [value.func, value.args, value.keywords])
        elif isinstance(value, types.BuiltinFunctionType):
            self._each(path, [] if isinstance(value.__self__, types.ModuleType | type) else [value.__self__])
            return f"{value.__module__}.{value.__qualname__}"
        elif isinstance(value, _WRAPPERS):
            self._each(path, [getattr(value, name, None) for name in ("__func__", "func", "fget", "fset")])
        elif not isinstance(value, _OPAQUE) and not type(value).__module__.startswith("torch._"):
            return self._attributes(path, value)
        return f"{_name(type(value))} {getattr(value, '__name__', '')}"

    def _attributes(self, path: str, value: Any) -> str:
        """The class of an object, and its attributes; of one without, the arguments from which pickle builds a copy."""
        slots = [name for cls in type(value).__mro__ for name in vars(cls).get("__slots__", ())]
        named = {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})
        if not slots and not hasattr(value, "__dict__") and not isinstance(value, _BUILT_IN):
            try:
                reduce = copyreg.dispatch_table.get(type(value)) or (lambda value: value.__reduce_ex__(4))
                named = {"()": [list(part) if isinstance(part, Iterator) else part for part in reduce(value)[1:]]}
            except Exception:  # what cannot be copied, such as a lock, a file or a runtime's session
                named = {}
        for name, one in named.items():
            self.add(f"{path}.{name}", one)
        return self._class(type(value))

    def _function(self, path: str, function: types.FunctionType) -> str:
        code, name = function.__code__, function.__qualname__
        users = _is_users(code.co_filename)
        if users or ("<locals>" in name and not str(function.__module__).startswith("torch._")):
            for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
                try:
                    self.add(f"{path}.{variable}", cell.cell_contents)
                except ValueError:  # assigned later
                    self.texts[f"{path}.{variable}"] = "nothing"
            self._each(f"{path}()", [function.__defaults__, function.__kwdefaults__, vars(function)])
        if not users:
            return f"{function.__module__}.{name}"
        if file := self._file(str(function.__module__), code.co_filename):
            return f"{file}:{code.co_firstlineno} {name} {_code(code) if '<' in name else ''}"
        space = f"globals {self._seen.setdefault(id(function.__globals__), str(len(self._seen)))}"
        for variable in _globals(code):  # of a notebook or a shell: in place of a file, what the code refers to
            if f"{space} {variable}" not in self.texts and variable in function.__globals__:
                self.texts[f"{space} {variable}"] = ""  # before it is described: it may refer to itself
                self.add(f"{space} {variable}", function.__globals__[variable])
        return f"{name} {_code(code)}"

    def _class(self, cls: type) -> str:
        """The name of a class; its code and attributes at that path, of a package's class what a user replaced."""
        name = _name(cls)
        if id(cls) in self._seen or cls is object:
            return self._seen.get(id(cls), name)
        while f"class {name}" in self.texts:  # of another file
            name += "'"
        self._seen[id(cls)] = name
        self.texts[f"class {name}"] = " ".join(self._class(base) for base in cls.__mro__[1:])
        users = _is_users_class(cls)
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        if users and self._file(cls.__module__, file):
            self.texts[f"class {name}"] += f" {Path(str(file)).name}"
        for attribute, value in vars(cls).items():
            if attribute == "_abc_impl" or (attribute in _GENERATED and "__dataclass_fields__" in vars(cls)):
                continue
            functions = [value, *(getattr(value, f, None) for f in ("__func__", "func", "fget", "fset"))]
            functions = [f for f in functions if isinstance(f, types.FunctionType)]
            if attribute.startswith("__") and not functions and not callable(value):
                continue
            if users:
                own = functions and all(_is_method(f, f"{cls.__qualname__}.{attribute}", file) for f in functions)
            else:
                own = not any(_is_users(f.__code__.co_filename) for f in functions)
            if not own:
                self.add(f"class {name}.{attribute}", value)
        return name

    def _file(self, module: str, file: str | None) -> str:
        """The name of a user's file, with its digest in `files`; empty for another or none."""
        if not file or not _is_users(file) or not Path(file).is_file():
            return ""
        if file not in self.files:
            self.files[file] = content_of(module) or digest_of(Path(file))
        return Path(file).name


def is_file(module: nn.Module) -> bool:
    """Whether a net of this package is an exported file on its runtime, whose bytes are all that it computes."""
    return "digest" in module._buffers and type(module).__module__.startswith(f"{__name__.partition('.')[0]}.")


def digest_of_object(value: Any) -> str:
    """A hash of an object's signature: 16 hexadecimal digits."""
    signature = Signature()
    signature.add("", value)
    return signature.digest


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _array(value: Tensor | np.ndarray[Any, Any]) -> str:
    """The dtype, shape and bytes of a tensor or array; of one without bytes, such as a meta tensor, dtype and shape."""
    head = f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"{head} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if value.layout != torch.strided or value.is_meta or value.is_quantized:
        value = value.dequantize() if value.is_quantized else value.to_dense() if not value.is_meta else torch.zeros(0)
    flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return f"{head} {hashlib.sha256(flat.numpy().data).hexdigest()}"


@functools.cache
def _is_users(file: str) -> bool:
    """Whether code with this file name is a user's: of no package and not Python's own; also of a notebook."""
    places = Path(__file__).parents[1], Path(sysconfig.get_paths()["stdlib"])
    return not (file.startswith("<frozen") or in_packages(file) or any(map(Path(file).is_relative_to, places)))


def _is_users_class(cls: type) -> bool:
    """Whether a class is defined in a user's file, a notebook or a shell."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return cls.__module__ == "__main__" or (file is not None and _is_users(file))


def _is_method(function: types.FunctionType, name: str, file: str | None) -> bool:
    """Whether a function is as the file of its class defines it, with nothing from around the class."""
    code = function.__code__
    return (function.__qualname__, code.co_filename) == (name, file) and {*code.co_freevars} <= {"__class__"}


def _name(cls: type) -> str:
    """The name of a class, of a package's with its module."""
    return cls.__qualname__ if _is_users_class(cls) else f"{cls.__module__}.{cls.__qualname__}"


def _code(code: types.CodeType) -> str:
    """A hash of a code object, without the lines that it stands in."""
    constants = [_code(c) if isinstance(c, types.CodeType) else digest_of_object(c) for c in code.co_consts]
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    return _hash(repr((code.co_code, constants, names, code.co_flags, code.co_argcount, code.co_kwonlyargcount)))


def _globals(code: types.CodeType) -> Iterator[str]:
    """The global names that a code object and those inside it refer to."""
    yield from (i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals(constant)
