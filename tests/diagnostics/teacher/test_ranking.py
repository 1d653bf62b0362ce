"""Several teachers side by side: the gate's own measurements, in the order typed."""

import json

import pytest

from ardor.cli.main import main
from ardor.diagnostics.teacher import examine_teacher, rank_teachers, ranking
from tests.diagnostics.teacher.conftest import THREAT
from tests.training.conftest import WORDS


def test_each_teacher_is_measured_as_the_gate_measures_it(sound, natural, val):
    part = val.take(slice(0, 120))
    met = []
    reports = rank_teachers({"b": natural, "a": sound}, part, THREAT, student=natural, progress=met.append)
    assert list(reports) == met == ["b", "a"]
    for name, net in (("a", sound), ("b", natural)):
        alone = examine_teacher(net, part, THREAT, student=natural)
        got = reports[name]
        assert (got.clean, got.robust, got.entropy, got.transfer) == (
            alone.clean,
            alone.robust,
            alone.entropy,
            alone.transfer,
        )
    head, _, *rows = ranking(reports).splitlines()
    assert head == "| teacher | clean | PGD-20, eps 0.1 | entropy | hardest quarter | transfer | gate |"
    assert [row.split(" | ")[0] for row in rows] == ["| b", "| a"]
    assert f"{reports['a'].robust} %" in rows[1]
    assert f"{reports['a'].transfer} %" in rows[1]
    assert f"{reports['a'].entropy.hard:.2f} (" in rows[1]
    assert rows[0].endswith("| passed |"), "without a record only the plainest flaws show"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers") / "run"
    assert main(["train", "--method", "sat", *WORDS, "--run", str(folder)]) == 0
    return folder


def test_teachers_at_the_shell(run, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.yaml", "best.safetensors", "metrics.jsonl"):
        (other / name).write_bytes((run / name).read_bytes())
    file = tmp_path / "t.json"
    assert main(["teachers", "rank", str(run), str(other), "--limit", "50", "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("On 50 images of digits (val), as typed, not ranked\n\n| teacher |")
    first, second = json.loads(file.read_text()).values()
    assert first == second
    assert first["n"] == 50
    assert first["transfer"] is None
    assert 0 <= first["robust"] <= first["clean"] <= 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "expected at least two teachers, got none: type their folders"),
        (["RUN"], "alone: type ardor gate"),
        (["RUN", "RUN"], "alone: type ardor gate"),
        (["RUN", "nowhere/run"], "expected a run folder or a file of weights, got nowhere/run, where there is none"),
    ],
)
def test_bad_words_are_one_sentence(run, words, expected, capsys):
    assert main(["teachers", "rank", *(str(run) if word == "RUN" else word for word in words)]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
