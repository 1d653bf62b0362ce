"""The file of an entry: there and back, and everything in it that could be false."""

import json
import os

import pytest

from ardor.cli.main import main
from ardor.deployment.leaderboard import ENTRY, entries, load_entry, shipped_entry, unevaluated
from ardor.errors import CheckpointError, ConfigError
from ardor.models import zoo
from ardor.storage.sums import SUMS, write_sums
from tests.deployment.leaderboard.conftest import entry_of, tiny
from tests.models.test_zoo import put


@pytest.fixture
def file(tmp_path):
    """An entry's file, and what changes it: `file(change)` calls `change(content)` and gives the path."""

    def write(change=None, name="tiny-sat", **options):
        content = json.loads(entry_of(name, **options).json())
        if change is not None:
            change(content)
        path = tmp_path / "board" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
        return path

    return write


def refused(*parts):
    return pytest.raises(ConfigError, match="(?s)^expected .*" + ".*".join(parts))


def test_there_and_back(tmp_path):
    entry = entry_of()
    path = entry.save(tmp_path / "tiny-sat.json")
    assert load_entry(path) == entry
    assert load_entry(path).json() == path.read_text()
    assert (entry.clean.k, entry.robust.k, entry.robust.n) == (15, 8, 20)
    assert (entry.method, entry.teacher) == ("SAT", "")


def test_it_is_small(tmp_path):
    assert entry_of(n=1000, robust=400, clean=800).save(tmp_path / "a.json").stat().st_size < 120_000


def test_figures_that_do_not_follow_from_the_verdicts_are_refused_with_both_numbers(file):
    def claim_more(content):
        content["report"]["figures"]["worst_case"]["k"] = 13

    with refused("figures that follow from the verdicts", "got 13 of 20 for worst_case, where 8 of 20 do"):
        load_entry(file(claim_more))


def test_figures_of_the_int8_file_follow_too(file):
    def claim_more(content):
        content["deployed"]["forms"][2]["report"]["figures"]["worst_case"]["k"] = 15

    with refused("got 15 of 20 for worst_case, where 9 of 20 do"):
        load_entry(file(claim_more))


FINDING = {"name": "masked", "severity": "error", "evidence": "seen", "next": "type it"}


def put_in(*keys, value):
    """A change of a content: `value` at this place."""

    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def under(eps):
    """A change of a content: the forms were compared under this radius."""

    def change(content):
        for form in content["deployed"]["forms"]:
            form["report"]["threat"]["eps"] = eps

    return change


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (put_in("format", value="ardor-entry-2"), ["the format ardor-entry-1", "got ardor-entry-2"]),
        (put_in("name", value="other"), ['the name "tiny-sat"', 'got "other"']),
        (put_in("weights", value="f" * 16), ["figures of the weights", "got its report of"]),
        (put_in("report", "model", "hash", value="f" * 16), ["got its report of ffffffffffffffff"]),
        (put_in("deployed", "weights", value="f" * 16), ["got its comparison of ffffffffffffffff"]),
        (put_in("deployed", "forms", 0, "report", "model", "hash", value="f" * 16), ["its float32 form of f"]),
        (put_in("parameters", value=7), [r"parameters, as the net in .* has, got 7"]),
        (put_in("deployed", "parameters", value=7), ["got 7: make it again"]),
        (put_in("deployed", "macs", value=7), ["100 MACs", "got 7"]),
        (put_in("net", "width", value=8), ["parameters, as the net"]),
        (put_in("report", "suite", value="paper"), ["the suite autoattack on test images", "got the suite paper"]),
        (put_in("report", "data", "part", value="train"), ["on test images", "on train"]),
        (put_in("report", "attacks", "square", "queries", value=10), ["attacks of AutoAttack", "square.queries"]),
        (put_in("report", "labels", value=[]), ["verdicts that do not fit the images"]),
        (put_in("report", "verdicts", "apgd_ce", value="r" * 19 + "x"), ["verdicts that do not fit"]),
        (put_in("report", "findings", value=[FINDING]), ["a sound evaluation", "got masked: type it"]),
        (
            put_in("net", "name", value="evil.py:Net"),
            ["names of ardor in a file", "evil.py:Net", "no entry names code"],
        ),
        (put_in("net", "name", value="os:system"), ["code that was not run"]),
        (put_in("training", "student", "name", value="evil.py:Net"), ["evil.py:Net"]),
        (put_in("training", "trust_code", value=True), ["trust"]),
        (put_in("net", "name", value="ardor:tiny-sat"), ["a net of ardor", "got ardor:tiny-sat"]),
        (put_in("net", "width", value="wide"), ["a net that can be built in", "width wide", "make it again"]),
        (put_in("net", "seeds", value=1), ["a net that can be built in", "seeds"]),
        (put_in("macs", value="many"), ["a whole number as macs"]),
        (put_in("made", value="rm -rf"), ["a list as made"]),
        (put_in("report", value=[]), ["keys with values as report"]),
        (put_in("deployed", "forms", value=[]), ["the forms float32, onnx, onnx-int8"]),
        (put_in("deployed", "forms", 1, "name", value="onnx-int8"), ["the forms"]),
        (put_in("deployed", value={}), ["the key attack"]),
        (put_in("report", "figures", "worst_case", "accuracy", value=0.99), ["got 0.9900", "for worst_case", "0.4000"]),
        (put_in("report", "figures", "clean", "wilson95", value=[0.9, 1]), ["got 0.7500 .0.9000", "for clean"]),
        (
            put_in("report", "threat", value={"name": "Any", "eps": "none"}),
            ["Linf or L2 with a radius", "Any eps none"],
        ),
        (put_in("report", "threat", value={"name": "Linf"}), ["Linf or L2 with a radius"]),
        (put_in("report", "threat", "eps", value=0.0), ["Linf or L2 with a radius", "got Linf eps 0"]),
        (put_in("report", "threat", "name", value="L2"), ["attacks of AutoAttack", "apgd_ce.threat: L2 eps 0.2 there"]),
        (put_in("report", "attacks", "apgd_t", "threat", "eps", value=0.01), ["apgd_t.threat", "Linf eps 0.01 in"]),
        (put_in("report", "attacks", "apgd_t", value="none"), ["keys with values as attacks.apgd_t"]),
        (put_in("report", "attacks", "square", "queries", value="many"), ["as attacks.square.queries"]),
        (put_in("report", "index", 1, value=0), ["each test image once", "an image twice"]),
        (put_in("report", "index", 1, value=-1), ["each test image once", "one before the first"]),
        (put_in("report", "data", "of", value=5), ["each test image once", "20 of 5"]),
        (lambda content: content["report"]["data"].pop("of"), ["each test image once", "no number of all"]),
        (lambda content: content["report"]["data"].pop("hash"), ["each test image once", "no hash"]),
        (under(0.01), ["comparison on digits .test., Linf eps 0.2, suite deployed", "Linf eps 0.01, suite deployed"]),
        (put_in("size", value=0), ["size of 1 or more", "got 0"]),
        (put_in("net", "width", value=10**400), ["a net that can be built"]),
    ],
)
def test_everything_else_that_could_be_false(file, change, parts):
    with refused(*parts):
        load_entry(file(change))


def test_verdicts_of_other_attacks_than_those_that_are_listed(file):
    def rename(content):
        report = content["report"]
        report["verdicts"] = {"fgsm": report["verdicts"]["apgd_ce"]}
        report["figures"] = {"fgsm" if key == "apgd_ce" else key: one for key, one in report["figures"].items()}

    with refused("attacks of AutoAttack", "verdicts: apgd_ce, apgd_t, fab_t, square there, fgsm in the report"):
        load_entry(file(rename))


def test_no_weights_of_timm_are_asked_for(file, monkeypatch):
    built = []
    monkeypatch.setattr("ardor.deployment.leaderboard.entry.build", lambda **net: built.append(net) or tiny())
    load_entry(file(put_in("net", value={"name": "timm:resnet18", "pretrained": True})))
    assert built == [{"name": "timm:resnet18"}]


@pytest.mark.parametrize("text", ["", "[]", "{", "NaN", '{"format": "ardor-entry-1"}', '{"format": NaN}', "[" * 5000])
def test_damaged_text(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with refused("a.json"):
        load_entry(tmp_path / "a.json")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_not_finite(file, number):
    path = file()
    path.write_text(path.read_text().replace('"p50": 0.5', f'"p50": {number}', 1))
    with refused("tiny-sat.json"):
        load_entry(path)


def test_a_huge_file_is_not_read(file):
    path = file()
    with path.open("a") as opened:
        opened.truncate(1 << 23)
    with refused("of at most 4,194,304 bytes", "8,388,608"):
        load_entry(path)


@pytest.mark.parametrize("name", ["..", "../x", "A", "a b", "", "a/b", "a\n", "-a", "a..b", ".a"])
def test_names_that_are_paths_or_markup(file, tmp_path, name):
    path = file(put_in("name", value=name))
    with refused("tiny-sat.json"):
        load_entry(path)


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_link_is_no_entry(file, tmp_path):
    link = tmp_path / "tiny-sat.json"
    link.symlink_to(file())
    with refused("which is none"):
        load_entry(link)


def test_a_folder_or_nothing_is_no_entry(tmp_path):
    for path in (tmp_path, tmp_path / "none.json"):
        with refused("which is none"):
            load_entry(path)


# --- the package's and a leaderboard's together ---


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """The package with one net, `tiny-sat`, and its entry."""
    monkeypatch.setattr(zoo, "SHIPPED", tmp_path / "shipped")
    net = put(zoo.SHIPPED / "tiny-sat")
    entry_of(net=net).save(zoo.SHIPPED / "tiny-sat" / ENTRY)
    write_sums(zoo.SHIPPED / "tiny-sat")
    return zoo.SHIPPED


def test_a_net_of_the_package_has_an_entry(shelf):
    assert shipped_entry("tiny-sat") == shipped_entry("ardor:tiny-sat")
    assert [entry.name for entry in entries()] == ["tiny-sat"]
    with refused("did you mean"):
        shipped_entry("tiny-rslad")


def test_an_altered_entry_of_the_package_is_refused(shelf):
    path = shelf / "tiny-sat" / ENTRY
    path.write_text(path.read_text().replace('"licence":"mit"', '"licence":"gpl"'))
    with pytest.raises(CheckpointError, match="altered or damaged"):
        shipped_entry("tiny-sat")


def test_an_entry_of_other_weights_than_those_beside_it_is_refused(shelf):
    entry_of(net=tiny(seed=9)).save(shelf / "tiny-sat" / ENTRY)
    write_sums(shelf / "tiny-sat")
    with refused("the entry of the weights"):
        shipped_entry("tiny-sat")


def test_entries_of_both(shelf, file):
    board = file(name="other-sat").parent
    assert [entry.name for entry in entries(board)] == ["tiny-sat", "other-sat"]
    file(net=tiny(seed=9))
    with refused("one net called tiny-sat"):
        entries(board)
    with refused("the folder of a leaderboard"):
        entries(board / "none")


def test_a_net_of_the_package_that_is_not_evaluated_yet(shelf, capsys):
    (shelf / "tiny-sat" / ENTRY).unlink()
    write_sums(shelf / "tiny-sat")
    with refused("whose evaluation is not finished"):
        shipped_entry("tiny-sat")
    assert entries() == []
    assert unevaluated() == ["tiny-sat"]
    assert main(["models"]) == 0
    assert "Trained, not evaluated yet: ardor:tiny-sat." in capsys.readouterr().out


@pytest.mark.parametrize("lost", [ENTRY, SUMS])
def test_a_file_of_a_net_of_the_package_that_is_gone(shelf, lost):
    (shelf / "tiny-sat" / lost).unlink()
    for call in (entries, lambda: shipped_entry("tiny-sat")):
        with pytest.raises(CheckpointError, match=f"{lost}: install the package again"):
            call()
