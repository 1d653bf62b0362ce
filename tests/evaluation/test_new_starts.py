"""What Square alone broke is attacked again by gradient: hidden gradients do not find it, one start too few does."""

import json

import pytest

import ardor
from ardor.attacks import APGD, PGD, Square, Suite
from ardor.attacks.threat import Linf
from ardor.errors import ConfigError
from ardor.evaluation import evaluate
from ardor.evaluation.checks.attacks import of_report
from ardor.evaluation.report import BROKEN, NOT_ATTEMPTED, ROBUST, Report
from tests.conftest import Wrapped
from tests.diagnostics.conftest import Blind
from tests.fixtures.make import trained

pytestmark = pytest.mark.processor

EPS = 0.1
THREAT = Linf(EPS)
SQUARE = Square(THREAT, queries=300)
LONGER = Square(THREAT, queries=1000)
HIDDEN = Suite("own", THREAT, {"apgd": APGD(THREAT, steps=20), "square": LONGER}, sequential=True)
WEAK = Suite("own", THREAT, {"pgd": PGD(THREAT, steps=1, step=EPS / 50), "square": SQUARE}, sequential=True)


@pytest.fixture(scope="module")
def data():
    return ardor.data.load("digits")[2].limit(120)


@pytest.fixture(scope="module")
def sound():
    return trained("sound")


@pytest.fixture(scope="module")
def weakly(sound, data):
    """A sound net under a single small step, which leaves much to Square."""
    return evaluate(sound, data, WEAK)


def names(report):
    return [finding.name for finding in report.findings]


def test_hidden_gradients_stay_an_error(sound, data):
    report = evaluate(Blind(sound, data.images, EPS).eval(), data, HIDDEN)
    lost = report.verdicts["square"].count(BROKEN)
    found = report.new_starts.count(BROKEN)
    assert lost > 10
    assert found < lost / 2
    assert names(report) == ["black_box"]
    (finding,) = report.findings
    if found:
        assert f"new starts of APGD break {found} of these {lost}" in finding.evidence


def test_what_new_starts_break_too_was_one_start_too_few(weakly):
    lost, found = weakly.verdicts["square"].count(BROKEN), weakly.new_starts.count(BROKEN)
    assert lost > 5
    assert found >= lost - 2
    assert names(weakly) == ["restarts"]
    before = weakly.robust("pgd").k
    assert f"of the {lost} between new starts of APGD break {found}, too;" in str(weakly.findings[0])
    assert f"gradient attacks leave {before} of 120 images right" in str(weakly.findings[0])


def test_a_loss_that_misleads_is_no_start_too_few(sound, data):
    """Cross-entropy of logits times 1,000 is flat; the margin, which the suite does not attack, breaks the rest."""
    net = Wrapped(sound, after=lambda z: 1e3 * z).eval()
    ce = Suite("own", THREAT, {"apgd": APGD(THREAT, steps=20), "square": LONGER}, sequential=True)
    report = evaluate(net, data, ce)
    lost, found = report.verdicts["square"].count(BROKEN), report.new_starts.count(BROKEN)
    assert lost > 5
    assert found < lost / 2
    assert "black_box" in [finding.name for finding in of_report(report)]
    assert "restarts" not in names(report)


def test_new_starts_are_within_squares_ball(sound, data):
    """A suite's threat may be wider than that of its attacks."""
    wide = Suite("own", Linf(3 * EPS), HIDDEN.attacks, sequential=True)
    net = Blind(sound, data.images, EPS).eval()
    assert evaluate(net, data, wide).new_starts == evaluate(net, data, HIDDEN).new_starts != ""


def test_only_what_square_broke_is_attacked_and_no_verdict_changes(weakly, sound, data):
    pairs = zip(weakly.verdicts["square"], weakly.new_starts, strict=True)
    assert all((verdict == BROKEN) == (letter != NOT_ATTEMPTED) for verdict, letter in pairs)
    assert weakly.worst_case == weakly.robust("square")
    assert list(weakly.figures()) == ["clean", "pgd", "square", "worst_case"]
    assert weakly.passes["new_starts"][1] > 0
    beside = Suite("own", THREAT, WEAK.attacks)
    assert evaluate(sound, data, beside).new_starts == ""
    alone = Suite("own", THREAT, {"square": SQUARE}, sequential=True)
    assert evaluate(sound, data, alone).new_starts == ""


def test_nothing_depends_on_the_batch_mates_or_an_interruption(weakly, sound, data, tmp_path):
    def stop(event):
        seen.append(event)
        if event.attack == "new_starts":
            raise KeyboardInterrupt

    seen = []
    with pytest.raises(KeyboardInterrupt):
        evaluate(sound, data, WEAK, journal=tmp_path / "j", progress=stop)
    assert seen[-1].share < 1
    assert (seen[-1].round, seen[-1].rounds) == (1, 10)
    assert seen[-1].seconds is None or seen[-1].seconds > 0
    again = evaluate(sound, data, WEAK, journal=tmp_path / "j", images=False)
    assert (again.verdicts, again.new_starts) == (weakly.verdicts, weakly.new_starts)
    assert again.passes == weakly.passes
    assert again.findings == weakly.findings


def test_it_is_written_and_read_and_judged_again(weakly, tmp_path):
    path = weakly.save(tmp_path / "report.json")
    read = Report.load(path)
    assert read.new_starts == weakly.new_starts
    assert [f.name for f in of_report(read)] == ["restarts"]
    content = json.loads(path.read_text())
    older = {key: value for key, value in content.items() if key != "new_starts"}
    path.write_text(json.dumps(older))
    assert [f.name for f in of_report(Report.load(path))] == ["black_box"]


@pytest.mark.parametrize(
    "change",
    [
        lambda letters: letters[:-1],
        lambda letters: letters.replace(NOT_ATTEMPTED, BROKEN, 1),
        lambda letters: letters.replace(BROKEN, NOT_ATTEMPTED, 1),
        lambda letters: letters.replace(BROKEN, "x", 1),
        lambda letters: ROBUST * len(letters),
    ],
)
def test_letters_that_do_not_fit_the_verdicts_are_refused(weakly, tmp_path, change):
    content = weakly.as_dict()
    content["new_starts"] = change(content["new_starts"])
    (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="new starts of other images than those that one attack broke"):
        Report.load(tmp_path / "report.json")
