"""Evaluations with a journal: continued after any interruption to the same bytes; images match the verdicts."""

import contextlib
import copy
import sys
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
import yaml

from ardor import data as datasets
from ardor.attacks import APGD, PGD, Suite, paper
from ardor.attacks.threat import Linf
from ardor.errors import ConfigError, RunError
from ardor.evaluation.journal import Batch, BatchVerdict, Journal
from ardor.evaluation.progress import ProgressMeter
from ardor.evaluation.report import Report
from ardor.evaluation.verdicts import evaluate
from ardor.models import build, hash_of
from tests.conftest import filled
from tests.evaluation.conftest import IDENTITY, entry_of, run_stage

THREAT = Linf(0.1)


@pytest.fixture(scope="module")
def judged():
    """A net that is robust on some digits, and the digits."""
    test = datasets.load("digits")[2].limit(50)
    net = build("small_cnn", channels=1, width=4, seed=0)
    with torch.enable_grad():
        optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        train = datasets.load("digits")[0]
        x, y, _ = train.batch(slice(0, 600))
        for _ in range(30):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(net(x), y).backward()
            optimiser.step()
    return net.eval(), test


def suite(threat=THREAT, steps=12):
    attacks = {"apgd_ce": APGD(threat, steps), "apgd_t": APGD(threat, steps, loss="dlr", targets=3)}
    return Suite("short", threat, attacks, sequential=True)


def judge(judged, folder, **kwargs):
    net, test = judged
    return evaluate(net, kwargs.pop("data", test), kwargs.pop("suite", suite()), batch=kwargs.pop("batch", 16),
                    journal=folder, images=kwargs.pop("images", True), **kwargs)  # fmt: skip


def files_of(report, folder, tmp_path):
    """The table and the bytes of the files."""
    path = report.save(tmp_path / "report.json")
    return report.table(), path.read_bytes(), (folder / "adversarial.npy").read_bytes()


def test_the_net_makes_these_tests_worth_something(judged):
    report = judge(judged, None, images=False)
    assert report.clean.value > 0.6
    assert "b" in report.verdicts["apgd_ce"]
    assert "b" in report.verdicts["apgd_t"]
    assert 0 < report.worst_case.value < report.robust("apgd_ce").value < report.clean.value


def test_a_journal_changes_nothing(judged, tmp_path):
    assert judge(judged, tmp_path / "j").verdicts == judge(judged, None, images=False).verdicts


@pytest.mark.parametrize("stop", [1, 4, 6, 9])
def test_stopped_anywhere_it_goes_on_to_the_same_bytes(judged, tmp_path, stop):
    whole = files_of(judge(judged, tmp_path / "whole"), tmp_path / "whole", tmp_path)
    events = []

    def stopper(progress):
        events.append(progress)
        if len(events) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge(judged, tmp_path / "j", progress=stopper)
    lines = (tmp_path / "j" / "journal.jsonl").read_text().splitlines()
    report = judge(judged, tmp_path / "j")
    assert (tmp_path / "j" / "journal.jsonl").read_text().splitlines()[: len(lines)] == lines
    assert files_of(report, tmp_path / "j", tmp_path) == whole


def test_the_images_are_those_of_the_verdicts(judged, tmp_path):
    net, test = judged
    report = judge(judged, tmp_path / "j")
    images = torch.from_numpy(np.load(tmp_path / "j" / "adversarial.npy"))
    x, y, _ = test.batch(slice(None))
    broken = torch.tensor(["b" in {report.verdicts[a][i] for a in report.verdicts} for i in range(len(test))])
    assert images.dtype == torch.float32
    assert float((images - x).abs().max()) <= THREAT.eps + 1e-6
    assert torch.equal(images[~broken], x[~broken])
    with torch.no_grad():
        assert bool((net(images[broken]).argmax(1) != y[broken]).all())
        assert int((net(images).argmax(1) == y).sum()) == report.worst_case.k


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_an_image_twice_is_saved_twice(judged, tmp_path, batch):
    data = judged[1].take([0, 0, 1, 2, 1])
    report = judge(judged, tmp_path / "j", data=data, suite=paper(Linf(0.5)), batch=batch)
    saved = torch.from_numpy(np.load(tmp_path / "j" / "adversarial.npy"))
    assert report.clean.k == 5
    assert report.worst_case.k == 0
    assert bool((judged[0](saved).argmax(1) != data.labels).all())


def test_images_of_an_independent_suite_are_the_first_successes(judged, tmp_path):
    net, test = judged
    report = judge(judged, tmp_path / "j", suite=paper(THREAT))
    images = torch.from_numpy(np.load(tmp_path / "j" / "adversarial.npy"))
    with torch.no_grad():
        right = net(images).argmax(1) == test.labels
    assert int(right.sum()) == report.worst_case.k
    first = evaluate(net, test, paper(THREAT), batch=16)
    assert first.verdicts == report.verdicts


def test_verdicts_agree_across_batch_sizes(judged):
    small, large = (judge(judged, None, batch=size, images=False) for size in (7, 50))
    assert small.verdicts == large.verdicts


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (dict(suite=suite(Linf(0.11))), "threat.eps: 0.11 here, 0.1 there"),
        (dict(suite=suite(steps=13)), "attacks.apgd_ce.steps: 13 here, 12 there"),
        (dict(suite=paper(THREAT)), "suite: paper here, short there"),
        (dict(batch=8), "batch: 8 here, 16 there"),
        (dict(seed=1), "seed: 1 here, 0 there"),
        (dict(data="half"), "n: 25 here, 50 there; data.hash: "),
        (dict(net="other"), "model.hash: "),
    ],
)
def test_a_journal_of_another_evaluation_is_refused(judged, tmp_path, change, named):
    judge(judged, tmp_path / "j")
    test = judged[1]
    change = dict(change)
    if change.get("data"):
        change["data"] = test.limit(25)
    if change.pop("net", None):
        judged = build("small_cnn", channels=1, width=4, seed=1), test
    before = (tmp_path / "j" / "journal.jsonl").read_bytes()
    with pytest.raises(RunError, match=named):
        judge(judged, tmp_path / "j", **change)
    assert (tmp_path / "j" / "journal.jsonl").read_bytes() == before


def test_images_need_a_journal(judged):
    with pytest.raises(ConfigError, match="a journal to keep the images in"):
        judge(judged, None)


@pytest.mark.parametrize("how", ["lost", "empty", "fewer", "foreign"])
def test_lost_or_damaged_images_are_made_again(judged, tmp_path, how):
    whole = files_of(judge(judged, tmp_path / "j"), tmp_path / "j", tmp_path)
    path = sorted((tmp_path / "j" / "images").iterdir())[0]
    content = path.read_bytes()
    if how == "fewer":
        np.save(path, np.zeros((0, 1, 8, 8), np.float32))
    elif how == "lost":
        path.unlink()
    else:
        path.write_bytes(b"hello" if how == "foreign" else b"")
    assert files_of(judge(judged, tmp_path / "j"), tmp_path / "j", tmp_path) == whole
    assert path.read_bytes() == content


def test_images_may_be_requested_later(judged, tmp_path):
    """Only batches with successes are computed again; a journal with images also serves a call without."""
    whole = files_of(judge(judged, tmp_path / "whole"), tmp_path / "whole", tmp_path)
    judge(judged, tmp_path / "j", images=False)
    assert files_of(judge(judged, tmp_path / "j"), tmp_path / "j", tmp_path) == whole
    before = (tmp_path / "j" / "journal.jsonl").read_bytes()
    judge(judged, tmp_path / "j", images=False)
    assert (tmp_path / "j" / "journal.jsonl").read_bytes() == before


def test_attacks_whose_names_look_alike_keep_their_own_images(judged, tmp_path):
    attacks = {"a/0": PGD(THREAT, steps=1), "a-0": PGD(THREAT, steps=10), "a": PGD(THREAT, steps=5)}
    report = judge(judged, tmp_path / "j", suite=Suite("alike", THREAT, attacks))
    net, test = judged
    with torch.no_grad():
        right = net(torch.from_numpy(np.load(tmp_path / "j" / "adversarial.npy"))).argmax(1) == test.labels
    assert int(right.sum()) == report.worst_case.k


def net_of(act, sign=1.0):
    net = filled(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), act, torch.nn.Linear(16, 10)))
    if sign != 1:
        forward = net.forward
        net.forward = lambda x: sign * forward(x)
    return net.float().eval()


@pytest.mark.parametrize(
    "other", [net_of(torch.nn.Tanh()), net_of(torch.nn.LeakyReLU(1.5)), net_of(torch.nn.LeakyReLU(), -1.0)]
)
def test_a_journal_is_of_the_function_and_not_of_the_weights(judged, tmp_path, other):
    first = judge((net_of(torch.nn.LeakyReLU()), judged[1]), tmp_path / "j")
    with pytest.raises(RunError, match="model.function.layers: "):
        judge((other, judged[1]), tmp_path / "j")
    again = judge((net_of(torch.nn.LeakyReLU()), judged[1]), tmp_path / "j")
    assert again.verdicts == first.verdicts
    assert again.model["hash"] == hash_of(other)


def test_a_journal_allows_for_rounding_and_refuses_what_an_earlier_version_did_not_record(judged, tmp_path):
    judge(judged, tmp_path / "j")
    path = tmp_path / "j" / "identity.yaml"
    kept = yaml.safe_load(path.read_text())
    logits = kept["model"]["function"]["logits"]
    for change, message in (
        ([[value * (1 + 1e-4) for value in row] for row in logits], None),
        ([[value * 1.2 for value in row] for row in logits], "model.function.logits: "),
        (None, "model.function: .* nothing there"),
    ):
        content = copy.deepcopy(kept)
        content["model"]["function"]["logits"] = change
        if change is None:
            del content["model"]["function"]
        path.write_text(yaml.safe_dump(content))
        with pytest.raises(RunError, match=message) if message else contextlib.nullcontext():
            judge(judged, tmp_path / "j")


def test_an_attack_of_a_user_is_part_of_the_identity(judged, tmp_path):
    def attack(net, x, y, noise, steps, act=lambda x: x):
        return PGD(THREAT, steps=steps)(net, act(x), y, noise)

    def mine(**options):
        return Suite("mine", THREAT, {"mine": partial(attack, **options)})

    judge(judged, tmp_path / "k", suite=mine(steps=1))
    for other in (mine(steps=2), mine(steps=1, act=lambda x: 1 - x)):
        with pytest.raises(RunError, match="code: |keywords"):
            judge(judged, tmp_path / "k", suite=other)
    judge(judged, tmp_path / "k", suite=mine(steps=1))


def test_a_second_evaluation_in_one_process_is_refused(tmp_path):
    with Journal.open(tmp_path / "j", IDENTITY), pytest.raises(RunError, match="one evaluation .* in a process"):
        run_stage(tmp_path / "j")
    assert run_stage(tmp_path / "j")[1] == [0, 1, 2, 3]


def test_a_file_in_the_journals_place_and_an_emptied_identity_are_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(RunError, match="got the file"):
        run_stage(tmp_path / "file")
    run_stage(tmp_path / "j")
    (tmp_path / "j" / "identity.yaml").write_text("")
    with pytest.raises(RunError, match="expected the identity of a journal"):
        run_stage(tmp_path / "j")


def test_a_system_without_locks_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(RunError, match="file locks"):
        run_stage(tmp_path / "j")


def test_a_sequential_report_reads_back(judged, tmp_path):
    report = judge(judged, None, images=False)
    assert Report.load(report.save(tmp_path / "r.json")) == report
    broken = replace(report, verdicts={**report.verdicts, "apgd_t": "r" * report.n})
    with pytest.raises(ConfigError):
        Report.load(broken.save(tmp_path / "b.json"))


def test_survivors_only(judged):
    report = judge(judged, None, images=False)
    first, second = report.verdicts["apgd_ce"], report.verdicts["apgd_t"]
    assert all((a == "r") == (b != "-") for a, b in zip(first, second, strict=True))
    assert report.robust("apgd_t") == report.worst_case


def test_progress_of_an_evaluation(judged):
    events = []
    report = judge(judged, None, images=False, progress=events.append)
    assert events[0].attack == "clean"
    assert (events[-1].share, events[-1].seconds, events[-1].done) == (1.0, 0.0, events[-1].todo)
    assert events[-1].robust == pytest.approx(report.worst_case.value)
    for before, after in pairwise(events):
        assert after.robust <= before.robust
        assert after.share >= before.share
    assert all(p.done <= p.todo and 0 <= p.share <= 1 for p in events)
    assert {(p.attack, p.round, p.rounds) for p in events} >= {("apgd_ce", 1, 1), ("apgd_t", 3, 3)}


def meter(events, sequential=True, batch=10, images=40):
    """Two attacks of 100 and 60 passes, the second in three rounds."""

    @dataclass(frozen=True)
    class Costs:
        passes: int
        parts: int

        def rounds(self, classes):
            return [None] * self.parts

        def cost(self, classes):
            return self.passes

    return ProgressMeter({"one": Costs(100, 1), "two": Costs(60, 3)}, images, 10, batch, sequential, events.append)


def done(stage, number, letters, seconds=1.0):
    index = list(range(10 * number, 10 * number + len(letters)))
    return BatchVerdict(stage, number, index, letters, 1, 1, seconds)


def test_the_time_left_is_that_of_the_batches_left(monkeypatch):
    """40 images in batches of 10: 4 x 100 + 4 x 60 passes at most, at a tenth of a second each."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    events = []
    m = meter(events)
    for number in range(4):
        m.add(done("clean", number, "r" * 10, 0.0), True)
    assert events[-1].seconds is None  # there is no pace yet
    m.enter("one", 0, 40)
    now[0] += 5.0
    m.tick(50)
    assert events[-1].seconds == pytest.approx((50 + 300 + 240) / 10)
    now[0] += 5.0
    m.tick(100)
    m.add(done("one/0", 0, "b" * 10, 10.0), True)
    assert events[-1].seconds == pytest.approx((300 + 3 * 60) / 10)
    assert events[-1].share == pytest.approx((4 + 100) / (4 + 100 + 300 + 180))
    assert events[-1].robust == 0.75
    now[0] += 0.1
    m.add(done("one/0", 1, "r" * 10, 10.0), True)  # from another process, as fast as this one
    assert events[-1].seconds == pytest.approx((200 + 3 * 60) / 10 / (20 / 10.1))
    m.add(done("one/0", 2, "r" * 10, 50.0), False)  # from the journal: says nothing about who is at work
    assert events[-1].seconds == pytest.approx((100 + 3 * 60) / 10 / (20 / 10.1))


def test_in_an_independent_suite_each_attack_meets_all_that_were_right(monkeypatch):
    events = []
    m = meter(events, sequential=False)
    for number, letters in enumerate(["r" * 10, "r" * 10, "r" * 10, "-" * 10]):
        m.add(done("clean", number, letters), True)
    m.enter("one", 0, 30)
    for number in range(3):
        m.add(done("one/0", number, "b" * 10), True)
    assert events[-1].robust == 0
    assert events[-1].share == pytest.approx((4 + 300) / (4 + 300 + 3 * 60))
    m.enter("two", 0, 30)
    m.add(done("two/0", 0, "r" * 10), True)
    assert events[-1].robust == 0.75


def test_an_evaluation_makes_as_many_passes_as_estimated():
    """On a net that nothing breaks."""
    test = datasets.load("digits")[2].limit(20)

    class Still(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.none = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return torch.nn.functional.one_hot(test.labels[: len(x)], 10) + 0 * x.sum() + self.none

    attacks = {"apgd": APGD(THREAT, 5, loss="dlr", targets=2), "pgd": PGD(THREAT, steps=3)}
    report = evaluate(Still(), test, Suite("two", THREAT, attacks, sequential=True), batch=20)
    for name, attack in attacks.items():
        chosen = 20 * 2 if name == "apgd" else 0  # each target costs a pass to choose it
        assert sum(report.passes[name]) == 20 * attack.cost(10) + chosen


def test_the_first_adversarial_image_is_saved(judged, tmp_path):
    judge(judged, tmp_path / "one", suite=Suite("one", THREAT, {"a": PGD(THREAT, steps=4)}))
    both = Suite("both", THREAT, {"a": PGD(THREAT, steps=4), "b": PGD(THREAT, steps=9)})
    judge(judged, tmp_path / "both", suite=both)
    one, two = (np.load(tmp_path / name / "adversarial.npy") for name in ("one", "both"))
    clean = judged[1].batch(slice(None))[0].numpy()
    moved = (one != clean).any((1, 2, 3))
    assert moved.any()
    assert (one[moved] == two[moved]).all()


def test_a_batch_of_as_many_other_images_is_refused(tmp_path):
    run_stage(tmp_path / "j", count=1)
    moved = Batch(0, torch.arange(3), [7, 8, 9])
    with Journal.open(tmp_path / "j", IDENTITY) as book, pytest.raises(RunError, match="the file was changed"):
        list(book.complete("apgd/0", [moved], lambda batch: (entry_of("apgd/0", batch), None)))
