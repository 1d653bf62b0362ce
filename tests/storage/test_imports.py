"""A user's files: each imports the modules of its own folder, whatever else has their names."""

import hashlib
import sys
import types
import typing

import pytest

from ardor.errors import ConfigError
from ardor.storage.code import digest_of
from ardor.storage.imports import require_package, resolve
from ardor.storage.signature import Signature


def write(folder, **files):
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/') if not name.endswith('__') else name[:-2] + '/__init__'}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


STATEMENTS = {
    "module": ("from parts import act", {"parts": "act = {0!r}"}),
    "whole module": ("import parts\nact = parts.act", {"parts": "act = {0!r}"}),
    "package": ("from parts import act", {"parts__": "from .sub import act", "parts__sub": "act = {0!r}"}),
    "module of a package": ("import parts.sub\nact = parts.sub.act", {"parts__": "", "parts__sub": "act = {0!r}"}),
    "module of a package by name": ("import parts.sub as s\nact = s.act", {"parts__": "", "parts__sub": "act = {0!r}"}),
    "folder without __init__": ("from parts import sub\nact = sub.act", {"parts__sub": "act = {0!r}"}),
    "through a second module": ("from more import act", {"more": "from parts import *", "parts": "act = {0!r}"}),
    "a package's import of itself": (
        "from parts.sub import act",
        {"parts__": "", "parts__sub": "from parts.last import act", "parts__last": "act = {0!r}"},
    ),
    "a package's import of a module beside it": (
        "from more import act", {"more__": "from parts import act", "parts": "act = {0!r}"},
    ),
    "inside a function": ("def act():\n    from parts import act\n    return act", {"parts": "act = {0!r}"}),
    "inside a helper's function": ("from more import act", {
        "more": "def act():\n    import parts\n    return parts.act", "parts": "act = {0!r}",
    }),
    "by importlib": ("import importlib\nact = importlib.import_module('parts').act", {"parts": "act = {0!r}"}),
    "by __import__": ("act = __import__('parts').act", {"parts": "act = {0!r}"}),
    "a circle": ("act = 0\nimport parts\nact = parts.get()", {"parts": "import net\ndef get(): return {0!r}"}),
}  # fmt: skip


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("statement", STATEMENTS)
def test_each_file_imports_the_helpers_of_its_folder(tmp_path, statement, there, monkeypatch):
    text, helpers = STATEMENTS[statement]
    present = types.SimpleNamespace(act="the process's", sub="the process's")
    if there:  # imported by the user's own process
        monkeypatch.setitem(sys.modules, "parts", present)
    got, path = {}, list(sys.path)
    for folder in ("a", "b"):
        write(tmp_path / folder, net=text, **{name: helper.format(folder) for name, helper in helpers.items()})
        got[folder] = resolve(f"{tmp_path / folder / 'net.py'}:act", "model")
    assert {folder: act() if callable(act) else act for folder, act in got.items()} == {"a": "a", "b": "b"}
    assert sys.path == path
    assert sys.modules.get("parts") is (present if there else None)
    assert not {"more", "net", "parts.sub"} & set(sys.modules)


def test_an_edited_helper_is_imported_anew_and_the_same_one_once(tmp_path):
    write(tmp_path, net="from parts import Act", method="from parts import Act", parts="class Act: size = 1")
    first, other = (resolve(f"{tmp_path / name}:Act", "model") for name in ("net.py", "method.py"))
    assert first is other  # two files of one folder share a helper
    write(tmp_path, parts="class Act: size = 2")  # in the same second, of the same length
    assert resolve(f"{tmp_path / 'net.py'}:Act", "model").size == 2
    assert first.size == 1


def test_nothing_installed_is_shadowed(tmp_path):
    write(tmp_path, net="import numpy, json, ardor\nmade = numpy.ones, json.dumps, ardor.evaluate",
          numpy="", json="", ardor="")  # fmt: skip
    assert all(map(callable, resolve(f"{tmp_path / 'net.py'}:made", "model")))


def test_classes_of_helpers_resolve_their_annotations(tmp_path):
    helper = (
        "from __future__ import annotations\nfrom dataclasses import dataclass, field\n"
        "@dataclass\nclass Other:\n    n: int = 1\n"
        "@dataclass\nclass Act:\n    other: Other = field(default_factory=Other)\n"
    )
    write(tmp_path, net="from parts.sub import Act", parts__="", parts__sub=helper)
    act = resolve(f"{tmp_path / 'net.py'}:Act", "model")
    assert typing.get_type_hints(act)["other"] is type(act().other)
    assert sys.modules[act.__module__].__file__ == str(tmp_path / "parts" / "sub.py")


def test_nothing_is_written_beside_a_users_file(tmp_path):
    write(tmp_path, net="from parts import act", parts="act = 1")
    resolve(f"{tmp_path / 'net.py'}:act", "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.py", "parts.py"]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_digest_is_of_the_helpers_too(tmp_path, statement):
    text, helpers = STATEMENTS[statement]
    digests = []
    for value, folder in ((1, "a"), (2, "a"), (1, "b")):
        write(tmp_path / folder, net=text, unused=f"value = {len(digests)}",
              **{name: helper.format(value) for name, helper in helpers.items()})  # fmt: skip
        digests.append(digest_of(tmp_path / folder / "net.py"))
    assert digests[0] != digests[1]
    assert digests[0] == digests[2]  # a copy elsewhere


def test_the_code_of_an_object_is_its_files_with_their_helpers(tmp_path):
    write(tmp_path, method="from parts import scale\nclass Mine:\n    def terms(self): return scale", parts="scale = 1")
    codes = []
    for text in ("scale = 1", "scale = 2"):
        write(tmp_path, parts=text)
        signature = Signature()
        signature.add("method", resolve(f"{tmp_path / 'method.py'}:Mine", "method")())
        codes.append(signature.code)
        assert signature.plain
    assert codes[0] != codes[1]
    alone = Signature()
    write(tmp_path, alone="class Mine: pass")
    alone.add("method", resolve(f"{tmp_path / 'alone.py'}:Mine", "method")())
    assert alone.code == hashlib.sha256(b"class Mine: pass").hexdigest()[:16]  # as a run of the first version has it


def test_a_mistyped_kind_of_name_is_named_right():
    with pytest.raises(ConfigError, match=r'expected robustbnch to import \(did you mean "robustbench:"\?\), for the'):
        resolve("robustbnch:Chen2021LTD_WRN34_10", "net")
    with pytest.raises(ConfigError, match="expected nothing_like_it to import, for the net"):
        resolve("nothing_like_it:Net", "net")


def test_a_torchvision_of_another_index_is_named_where_a_package_does_not_import(tmp_path, monkeypatch):
    (tmp_path / "needs_vision.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="install torchvision again, from the same index as torch"):
        require_package("needs_vision", "timm", "timm:resnet18")
