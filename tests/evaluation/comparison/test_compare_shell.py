"""The text of a comparison, and `ardor compare`: which reports are paired, and what is refused."""

import json
import os

import pytest
import yaml

from ardor.cli.main import run as run_command
from ardor.errors import ConfigError, RunError
from ardor.evaluation.comparison.paired import compare as compare_reports
from ardor.evaluation.comparison.significance import detectable, mcnemar
from ardor.evaluation.comparison.wording import as_dict
from ardor.evaluation.comparison.wording import text as text_of
from tests.evaluation.comparison.conftest import config, letters, pairs_of, report


def test_the_text_of_one_seed():
    text = text_of(compare_reports(*pairs_of(400, (30, 8, 200)), ("runs/rslad", "runs/sat")))
    lines = text.splitlines()
    assert lines[:4] == [
        "A: runs/rslad",
        "B: runs/sat",
        "400 images, digits (test), suite paper, Linf eps 8/255, one seed",
        "Training differs: method.name: rslad in A, sat in B.",
    ]
    assert lines[5] == "| figure | n | A % | B % | A - B | 95 % interval | only A | only B | p | detectable |"
    row = next(line for line in lines if line.startswith("| worst_case"))
    assert row.startswith("| worst_case | 400 | 57.50 | 52.00 | +5.50 | [+2.62, +8.75] | 30 | 8 | 0.0005 |")
    assert row.endswith(f"| 30 | 8 | 0.0005 | {100 * detectable(400, 38 / 400):.2f} |")
    assert "| class | n | A % | B % | A - B | 95 % interval | only A | only B | p (Holm) | detectable |" in lines
    assert "Worst class of A: cat (115 of 200)" in lines
    assert "by class (p is corrected for their number, the intervals are not):" in text
    assert text.count("\n| ") == 1 + 4 + 1 + 2


def test_the_text_of_three_seeds():
    text = text_of(compare_reports(*pairs_of(400, (40, 8, 200), (44, 8, 200), (36, 8, 200))))
    assert "3 seeds (0, 1, 2)" in text
    assert (
        "| figure | n | A % | B % | A - B | SD | 95 % | 95 % over seeds | 95 % over images | p | detectable |" in text
    )
    assert "| worst_case | 400 | 60.00 | 52.00 | +8.00 | 1.00 | [+4.04, +11.88] | [+5.52, +10.48] | [+4.93, " in text
    assert "seed 1: worst_case +9.00, 44 only A has right, 8 only B, McNemar p < 0.0001" in text
    assert "Worst class of A: cat (120 of 200), cat (122 of 200), cat (118 of 200), mean 60.00 %" in text


def test_json_has_no_number_that_json_lacks():
    content = as_dict(compare_reports(*pairs_of(4, (1, 0, 1))))
    again = json.loads(json.dumps(content, allow_nan=False))
    assert again == content
    assert again["figures"]["worst_case"]["could_show"] is again["figures"]["worst_case"]["sd"] is None
    assert again["figures"]["worst_case"]["interval95_seeds"] is None
    assert again["figures"]["worst_case"]["interval95_both"] is None
    comparison = compare_reports(*pairs_of(400, (40, 8, 200), (44, 8, 200), (36, 8, 200)))
    three = as_dict(comparison)
    assert tuple(three["figures"]["worst_case"]["interval95_both"]) == comparison.figures["worst_case"].both
    assert three["seeds"] == [0, 1, 2]
    assert three["figures"]["worst_case"]["pairs"][1] == {
        "n": 400, "a": 244, "b": 208, "only_a": 44, "only_b": 8, "mcnemar_p": mcnemar(44, 8),
    }  # fmt: skip
    assert three["classes"]["dog"]["p_holm"] >= three["classes"]["dog"]["p"]
    assert three["worst_class"]["b"][0] == {"class": "cat", "k": 104, "n": 200}


# the command


def run(path, letters, seed=0, method="rslad", names=("report-paper-linf-8_255-best.json",), age=0, **more):
    """A judged run's folder."""
    path.mkdir(parents=True)
    content = config(seed, method, **more)
    (path / "config.yaml").write_text(yaml.safe_dump(content))
    for back, name in enumerate(names):
        one = report(letters, f"{path}", content, suite=name.split("-")[1])
        one.save(path / name)
        os.utime(path / name, (1e9 - back - age, 1e9 - back - age))
    return path


def output_of(capsys, *words):
    capsys.readouterr()
    assert run_command(["compare", *words]) == 0
    return capsys.readouterr().out


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_runs(here, capsys):
    run(here / "a", letters(40, 30))
    run(here / "b", letters(40, 10), method="sat")
    out = output_of(capsys, "a", "b", "--json", "c/ab.json")
    assert "A stands 50.00 points above B" in out
    assert "Saved to c/ab.json." in out
    saved = json.loads((here / "c/ab.json").read_text())
    assert (saved["format"], saved["a"], saved["b"]) == ("ardor-comparison-1", "a", "b")
    assert saved["figures"]["worst_case"]["difference"] == 0.5


def test_nothing_is_overwritten_by_a_refusal(here, capsys):
    run(here / "a", letters(40, 30))
    run(here / "b", letters(20, 10), method="sat")
    (here / "c.json").write_text("mine")
    with pytest.raises(ConfigError, match="the same images"):
        output_of(capsys, "a", "b", "--json", "c.json")
    assert (here / "c.json").read_text() == "mine"
    with pytest.raises(RunError, match="the folder a"):
        output_of(capsys, "a", "a", "--json", "a")


def test_the_newest_report_that_both_have(here, capsys):
    best = [f"report-{suite}-linf-8_255-best.json" for suite in ("quick", "autoattack", "paper")]
    last = "report-square-linf-8_255-last.json"
    run(here / "a", letters(40, 30), names=(last, *best))
    run(here / "b", letters(40, 20), names=(last, *best[1:]), method="sat")
    assert "suite autoattack" in output_of(capsys, "a", "b")
    assert "suite paper" in output_of(capsys, "a", "b", "--suite", "paper")
    assert "suite square" in output_of(capsys, "a", "b", "--checkpoint", "last")
    with pytest.raises(
        ConfigError, match=r"expected a report in b, got none of this kind: type ardor evaluate b --suite quick$"
    ):
        output_of(capsys, "a", "b", "--suite", "quick")
    with pytest.raises(ConfigError, match="type ardor evaluate a --suite paper --checkpoint last$"):
        output_of(capsys, "a", "b", "--suite", "paper", "--checkpoint", "last")
    with pytest.raises(ConfigError, match=r'expected a suite as one of .*, got "pepar" \(did you mean "paper"\?\)'):
        output_of(capsys, "a", "b", "--suite", "pepar")
    run(here / "c", letters(40, 30), names=best[:1])
    with pytest.raises(
        ConfigError, match=r"expected one report that all runs have, got report-.* in b; report-quick.* in c"
    ):
        output_of(capsys, "b", "c")


def test_report_files_and_runs_mix(here, capsys):
    names = [f"report-{suite}-linf-8_255-best.json" for suite in ("quick", "paper")]
    run(here / "a", letters(40, 30), names=names)
    report(letters(40, 20), "f", config(0, "sat")).save("f.json")
    assert "suite paper" in output_of(capsys, "a", "f.json")
    assert "suite paper" in output_of(capsys, "f.json", f"a/{names[1]}")
    with pytest.raises(ConfigError, match=r"expected a report of the suite quick, got paper in f\.json"):
        output_of(capsys, "a", "f.json", "--suite", "quick")
    report(letters(40, 20), "g", suite="plus").save("g.json")
    with pytest.raises(ConfigError, match="the file is of the suite plus"):
        output_of(capsys, "a", "g.json")


def test_a_report_file_of_the_runs_own_is_met_by_its_namesake(here, capsys):
    names = [f"report-paper-linf-{eps}-best.json" for eps in ("8_255", "4_255")]
    run(here / "a", letters(40, 30), names=names)
    run(here / "b", letters(40, 20), names=names, method="sat")
    for name in ("a", "b"):
        report(letters(40, 9), name, threat={"name": "Linf", "eps": "4/255"}).save(f"{name}/{names[1]}")
    assert "eps 4/255" in output_of(capsys, "a", f"b/{names[1]}")
    assert "eps 8/255" in output_of(capsys, "a", "b")


def test_folders_of_seeds_are_paired_by_seed(here, capsys):
    for seed in range(4):
        run(here / "a" / f"x{9 - seed}", letters(100, 60 + 2 * seed), seed)
    for seed in range(1, 5):
        run(here / "b" / f"s{seed}", letters(100, 30 + seed), seed, "sat")
    (here / "a" / "notes").mkdir()
    out = output_of(capsys, "a", "b")
    assert "3 seeds (1, 2, 3)" in out
    assert "seed 3: worst_case +33.00" in out
    assert "left out, without a partner of the same seed: a/x9, b/s4" in out
    assert "The method of A stands 32.00 points above that of B" in out
    assert "one seed" in output_of(capsys, "a", "b/s2")
    with pytest.raises(ConfigError, match="expected runs of the same seeds, got .* in a and 4 in b/s4"):
        output_of(capsys, "a", "b/s4")
    (here / "b/s3/report-paper-linf-8_255-best.json").unlink()
    with pytest.raises(ConfigError, match="expected a report in b/s3, got none"):
        output_of(capsys, "a", "b")


def test_folders_that_are_no_seeds_of_one_method_are_refused(here, capsys):
    run(here / "a" / "x", letters(40, 30))
    run(here / "a" / "y", letters(40, 20), 0, "sat")
    with pytest.raises(ConfigError, match="got seed 0 twice, in a/x and a/y"):
        output_of(capsys, "a", "a/x")
    run(here / "b" / "x", letters(40, 30))
    run(here / "b" / "y", letters(40, 20), 1, "sat")
    with pytest.raises(ConfigError, match=r"method\.name: rslad here, sat there"):
        output_of(capsys, "b", "b")
    run(here / "c" / "x", letters(40, 30), None)
    with pytest.raises(ConfigError, match=r"got c/x without recipe\.seed"):
        output_of(capsys, "c", "c")
    run(here / "d", letters(40, 30), "zero")
    with pytest.raises(ConfigError, match=r"a whole number or null as recipe\.seed in d/config\.yaml, got 'zero'"):
        output_of(capsys, "d", "d")


def test_what_is_no_run_is_refused(here, capsys):
    (here / "empty").mkdir()
    (here / "f.json").write_text("{}")
    for name, words in (
        ("absent", ", where there is none: check the path"),
        ("empty", ": type ardor evaluate RUN first"),
    ):
        with pytest.raises(ConfigError, match=f"got {name}{words}"):
            output_of(capsys, name, name)
    with pytest.raises(ConfigError, match="expected a report that"):
        output_of(capsys, "f.json", "f.json")


def test_two_runs_of_two_seeds_are_compared_with_a_note(here, capsys):
    run(here / "a", letters(40, 30), 0)
    run(here / "b", letters(40, 10), 1, "sat")
    assert "seeds of training (A, B): (0, 1)" in output_of(capsys, "a", "b")
