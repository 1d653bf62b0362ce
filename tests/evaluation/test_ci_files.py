"""SARIF 2.1.0 and JUnit XML, by their own rules."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from safetensors.torch import save_file

import ardor
from ardor.cli.commands.doctor import _place_of
from ardor.cli.main import main
from ardor.cli.selection import NetWords
from ardor.evaluation.ci_files import Case, cases_of, junit, sarif
from ardor.evaluation.findings import Finding

FINDINGS = [
    Finding("zero_gradients", "error", 'half of the <gradients> & "logits" are 0 \x07', "look at the last layer"),
    Finding("small_val", "note", "few", "take more"),
    Finding("small_val", "warning", "fewer", "take more"),
]


def require_sarif(text):
    """The rules of the schema of 2.1.0 for what is used here, and GitHub's beyond it. Returns the results."""
    log = json.loads(text)
    assert log.keys() == {"$schema", "version", "runs"}
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    assert run.keys() <= {"tool", "results", "columnKind"}
    assert run["columnKind"] in ("utf16CodeUnits", "unicodeCodePoints")
    driver = run["tool"]["driver"]
    assert driver.keys() == {"name", "semanticVersion", "rules"}
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(ids) == len(set(ids)), "rules are unique"
    assert all(rule["shortDescription"]["text"] for rule in driver["rules"])
    for result in run["results"]:
        assert ids[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in ("none", "note", "warning", "error")
        assert result["message"]["text"]
        (location,) = result["locations"]
        place = location["physicalLocation"]
        assert re.fullmatch(r"[A-Za-z0-9._~:/%@+,;=!$&'()*-]+", place["artifactLocation"]["uri"]), "a URI reference"
        assert place["region"]["startLine"] >= 1
        assert all(isinstance(value, str) for value in result["partialFingerprints"].values())
    return run["results"]


def require_junit(text):
    """The elements and attributes of Jenkins' schema, in order. Returns the test cases."""
    root = ElementTree.fromstring(text)
    assert root.tag == "testsuites"
    (suite,) = root
    assert {"name", "tests", "failures", "errors"} <= suite.attrib.keys()
    first, *cases = suite
    assert first.tag == "properties"
    assert all(one.tag == "property" and one.attrib.keys() == {"name", "value"} for one in first)
    assert all(case.tag == "testcase" and {"name", "classname"} <= case.attrib.keys() for case in cases)
    assert all(part.tag in ("failure", "system-out") for case in cases for part in case)
    assert int(suite.get("tests")) == len(cases)
    assert int(suite.get("failures")) == sum(case.find("failure") is not None for case in cases)
    return cases


def test_findings_as_sarif():
    results = require_sarif(sarif(FINDINGS, Path("runs/my run/config.yaml")))
    assert [(one["ruleId"], one["level"]) for one in results] == [
        ("zero_gradients", "error"), ("small_val", "note"), ("small_val", "warning"),
    ]  # fmt: skip
    uri = results[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == "runs/my%20run/config.yaml"
    assert results[0]["message"]["text"].endswith("are 0 ; look at the last layer"), "without control characters"
    assert require_sarif(sarif([], Path("net.py"))) == []
    (one, *_) = require_sarif(sarif(FINDINGS, Path.cwd() / "runs/net/config.yaml"))
    uri = one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == "runs/net/config.yaml", "no path of this machine, which no repository has"
    (one, *_) = require_sarif(sarif(FINDINGS, Path("/a/ü.py")))
    assert one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "file:///a/%C3%BC.py"


def test_findings_as_junit():
    one, *others = require_junit(
        junit("ardor \x00\ud800\ufffe\uffff doctor", cases_of(FINDINGS), {"threat": "Linf <8/255>"})
    )
    assert "<gradients>" in one.find("failure").text
    assert all(case.find("failure") is None and case.find("system-out").text for case in others)
    assert require_junit(junit("none", [Case("examined")], {}))[0].get("name") == "examined"


def test_the_doctor_writes_both(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\nclass Flat(nn.Module):\n    def __init__(self, classes=10):\n"
        "        super().__init__()\n        self.layer = nn.Linear(64, classes)\n\n    def forward(self, x):\n"
        "        return self.layer(x.flatten(1)).detach() + 0 * x.sum()\n"
    )
    save_file(ardor.models.build("net.py:Flat").state_dict(), "w.safetensors")
    words = ["--model", "net.py:Flat", "--weights", "w.safetensors", "--data", "digits", "--limit", "20"]
    capsys.readouterr()
    code = main(["doctor", *words, "--recipe.device", "cpu", "--sarif", "-", "--junit", "d.xml"])
    results = require_sarif(capsys.readouterr().out)
    cases = require_junit((tmp_path / "d.xml").read_text())
    assert code == 1
    assert "error" in [one["level"] for one in results]
    assert len(cases) == 1 + len(results)
    assert (code == 1) == any(case.find("failure") is not None for case in cases)
    assert results[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "net.py"


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_file(ardor.models.build("small_cnn", channels=1, width=4).state_dict(), "w.safetensors")
    words = ["--model", "small_cnn", "--model.width", "4", "--weights", "w.safetensors", "--data", "digits"]
    assert main(["doctor", *words, "--limit", "10", "--sarif", "w.safetensors/x.sarif"]) == 2
    assert capsys.readouterr().err.startswith("ardor: expected ")


def test_one_file_for_two_forms_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in (["doctor", "--sarif", "-", "--junit", "-"], ["check", "r", "--json", "a", "--junit", "a"]):
        assert main(words) == 2
        assert f"got {words[-1]} twice: type another for one" in capsys.readouterr().err


def test_the_place_of_a_net_that_is_no_run():
    for words, place in (
        ({"model": "net.py:build", "weights": "w.pt"}, "net.py"),
        ({"model": "small_cnn", "weights": "w.safetensors"}, "w.safetensors"),
        ({"model": "ardor:digits-cnn8-rslad"}, "ardor:digits-cnn8-rslad"),
    ):
        assert _place_of(NetWords(**words)) == Path(place)
    require_sarif(sarif(FINDINGS, Path("ardor:digits-cnn8-rslad")))
