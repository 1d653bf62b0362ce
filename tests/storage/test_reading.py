"""Files that are read: bounded, each key once, and a wrong type is one sentence with the file and the key."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Required, TypedDict

import pytest
import yaml

from ardor.errors import ArdorError, ConfigError
from ardor.storage.config import read_yaml
from ardor.storage.reading import LARGEST, checked, parse_json, parse_yaml


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("recipe:\n  epochs: 30\n  lr: 0.1\n  epochs: 3\n", "epochs on line 2 and again on line 4"),
        ("method:\n  attack:\n    steps: 1\n    start: zero\n    steps: 2\n", "steps on line 3 and again on line 5"),
        ("method: sat\ndata: digits\nmethod: kd\n", "method on line 1 and again on line 3"),
        ("a: {b: 1, c: 2, b: 1}\n", "b on line 1 and again on line 1"),
        ("a: [{b: 1}, {b: 1, 'b': 2}]", "b on line 1"),
        ("1: a\n01: b\n", "01 on line 2"),
        ("1: a\ntrue: b\n", "on line 1 and again on line 2"),
        ("? [a]\n: 1\n", "words as keys"),
        ("a: &x [1]\nb: *x\n", "the alias x on line 1"),
        ("a: *x\n", "alias"),
        ("a: !!python/object/apply:os.system [touch x]\n", "the tag"),
        ("a: !!binary aGVsbG8=\n", "the tag"),
        ("a: !x 1\n", "the tag"),
        ("a: 016\n", "016 on line 1"),
        ("a: -016\n", "-016 on line 1"),
        ("a: 1:30\n", "1:30 on line 1"),
        ("a: 1:30.5\n", "1:30.5 on line 1"),
        ("a: .nan\n", "NaN|nan"),
        ("a: -.inf\n", "inf"),
        ("a: 1.0e+999\n", "inf"),
        (f"a: {'9' * 5000}\n", "cannot be read"),
        ("a: " + "[" * 100_000, "levels"),
        ("a: " + "{a: " * 50_000, "levels"),
        ("a: " + "- " * 10_000 + "1", "cannot be read|levels"),
        ("a: 1\n---\nb: 2\n", "cannot be read"),
        ("a: \x00\n", "cannot be read"),
        ("- a\n", "key: value"),
        ("", "key: value"),
        ("a: " + "x" * LARGEST["YAML"], "at most"),
    ],
    ids=lambda text: text[:20],
)
def test_yaml_that_is_refused(tmp_path, text, words):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as raised:
        read_yaml(path)
    assert "r.yaml" in str(raised.value)
    assert len(str(raised.value)) < 500 + len(str(path))


def test_yaml_that_is_read_as_before(tmp_path):
    content = {
        "a": 1, "b": "8/255", "c": [0.1, 1e-7, None, True], "d": {"e": "016", "f": "1:30", "g": "2024-01-01"},
        "h": "*x", "i": "&x", "j": "!x", "k": "=", "<<": "x", "l": -3, "m": 0, "n": 0.5, "o": "x: y\n", "p": "ümlaut",
    }  # fmt: skip
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    assert read_yaml(path) == content
    assert parse_yaml("a: 1_000\nb: 0x1F\nc: yes\nd: 2024-01-01\ne: 0.05\nf: 08", "r") == {
        "a": 1000, "b": 31, "c": True, "d": "2024-01-01", "e": 0.05, "f": "08",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 1}', '{"b": [{"a": 1, "a": 2}]}', '{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}', "[1]", "1",
        "", "{", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", '{"a": ' + "[" * 100 + "]" * 100 + "}",
        '{"a": ' + "9" * 5000 + "}", b"\xff", b'{"a": "\xff"}',
    ],
    ids=str,
)  # fmt: skip
def test_json_that_is_refused(text):
    with pytest.raises(ConfigError, match=r"in r\.json"):
        parse_json(text, "r.json")


class Part(TypedDict, total=False):
    name: str


class Needed(TypedDict, total=False):
    n: Required[int]
    name: str


@dataclasses.dataclass
class Thing:
    n: int
    of: dict[str, list[float]]
    part: Part
    kind: Literal["a", "b"] = "a"
    pair: tuple[int, int] = (1, 2)
    other: Any = None
    maybe: str | None = None
    either: dict[str, str] | str = ""
    needed: Needed | None = None


SOUND = {"n": 3, "of": {"x": [1, 0.5]}, "part": {"name": "p", "more": [1]}, "pair": [3, 4]}


def test_what_is_read_becomes_what_is_expected():
    assert checked(SOUND, Thing, "t.json") == Thing(3, {"x": [1.0, 0.5]}, {"name": "p", "more": [1]}, "a", (3, 4))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": "3"}, "a whole number as n in t.json, got '3'"),
        ({"n": True}, "a whole number as n"),
        ({"n": 1.0}, "a whole number as n"),
        ({"n": 2**70}, "a whole number as n"),
        ({"n": None}, "a whole number as n"),
        ({"of": [1]}, "keys with values as of"),
        ({"of": {"x": 1}}, "a list as of.x"),
        ({"of": {"x": [1, "2"]}}, r"a finite number as of.x\[1\]"),
        ({"part": {"name": 1}}, "text as part.name"),
        ({"kind": "c"}, "one of a, b as kind"),
        ({"pair": [1]}, "a list of 2 as pair"),
        ({"maybe": 3}, "text or null as maybe"),
        ({"either": {"m": 1}}, "text as either.m"),
        ({"either": [1]}, "keys with values or text as either"),
        ({"needed": {"name": "x"}}, "the key needed.n "),
        ({"extra": 3}, "known keys in t.json, got the key extra"),
        ({"n": ...}, "the key n in t.json, got none"),
    ],
    ids=str,
)
def test_another_type_is_one_sentence(change, words):
    value = {k: v for k, v in {**SOUND, **change}.items() if v is not ...}
    with pytest.raises(ArdorError, match=words):
        checked(value, Thing, "t.json")
