"""The demo: its nets, their claim, and its processes."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

import ardor
from ardor import models
from ardor.cli.commands import demo as command
from ardor.cli.main import main
from ardor.data import load
from ardor.demo import demo, labels, work, workers
from ardor.demo.demo import ALL, FEW, METHODS, SHORT, TEACHER, jobs, recipe_of
from ardor.errors import ConfigError, RunError
from ardor.evaluation.findings import Finding
from ardor.models import zoo
from ardor.plot.style import calm
from ardor.reporting import PageEntry
from ardor.reporting.svg import svg
from ardor.storage.recipes import read_recipe
from ardor.storage.tensors import read_tensors
from ardor.training.job import Job, config_of_job
from ardor.training.recipe import batches
from tests.interrupts import INTERRUPTED
from tests.reporting.conftest import report, share

LABELS = {TEACHER: 1213, "natural": 1213, "sat": 1213, **{name: demo.FEW[name] for name in FEW}, "rslad": 0}


@pytest.fixture
def few(monkeypatch, tmp_path):
    """Some of the digits, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    parts = tuple(part.limit(n) for part, n in zip(load("digits"), (256, 64, 120), strict=True))
    monkeypatch.setattr(work, "splits", lambda: parts)
    return parts


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- the whole, in this process


def test_a_quick_demo_runs_twice_and_keeps_its_figures(few, tmp_path, capsys):
    words = ["demo", "--quick", "--processes", "1"]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert "teacher ardor:digits-cnn32-sat: " in first
    assert "A trial (two epochs of tiny nets, to see that everything runs; 120 test images)" in first
    results = json.loads((tmp_path / "runs/demo-quick/results.json").read_text())
    assert results["trial"].startswith("two epochs of tiny nets")
    assert results["n"] == 120
    assert results["best"].keys() == {"clean", "fgsm", "pgd_sat", "pgd_trades", "cw_inf", "worst_case"}
    assert f"\n{results['verdict']}." in first
    assert {name: net["labels"] for name, net in results["nets"].items()} == {
        TEACHER: 256, "natural": 256, "sat": 256, **dict.fromkeys(FEW, 256), "sat (200 labels)": 200,
        "sat (100 labels)": 100, "rslad": 0,
    }  # fmt: skip
    page = (tmp_path / "runs/demo-quick/page.html").read_bytes()
    assert "On a device, in INT8, on 60 images, rslad weighs" in first
    assert b"<h1>Trial: " in page
    assert b'class="headline"' not in page
    assert b'id="labels"' in page
    assert (b'id="device"' in page, page.count(b"Forms of")) == (True, 1)
    before = tree(tmp_path)
    assert main(words) == 0
    assert tree(tmp_path) == before
    results["nets"]["rslad"]["seeds"] = 2
    (tmp_path / "runs/demo-quick/results.json").write_text(json.dumps(results))
    before = tree(tmp_path)
    capsys.readouterr()
    assert main(words) == 0
    assert "has figures of more nets or seeds, which are kept.\nPage: runs/demo-quick/part-page.html" in (
        capsys.readouterr().out
    )
    assert {name for name, content in tree(tmp_path).items() if before.get(name) != content} == {
        "runs/demo-quick/part-page.html", "runs/demo-quick/part-results.json",
    }  # fmt: skip


def test_without_the_onnx_extra_it_says_what_it_lacks(monkeypatch):
    assert work.deploys()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert not work.deploys()
    assert 'pip install "ardor[onnx]"' in command._on_devices([])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--seeds", "0"], "expected at least one seed, got 0: type --seeds 3"),
        (["--processes", "0"], "expected at least one process, got 0: type --processes 1"),
        (["rslad"], "rslad"),
        (["--sedes", "1"], 'expected an option of ardor demo, got --sedes (did you mean "--seeds"?): correct it'),
    ],
)
def test_bad_input_is_one_sentence_and_trains_nothing(few, tmp_path, capsys, words, expected):
    assert main(["demo", "--quick", *words]) == 2
    error = capsys.readouterr().err
    assert expected in error.replace("[0m", "")
    assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_altered_teacher_is_refused_before_anything_is_trained(few, tmp_path, capsys, monkeypatch):
    shipped = shutil.copytree(zoo.SHIPPED, tmp_path / "shipped")
    monkeypatch.setattr(zoo, "SHIPPED", shipped)
    weights = shipped / "digits-cnn32-sat" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert main(["demo", "--quick", "--processes", "1"]) == 2
    assert "SHA-256" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_recipe_of_the_teacher_is_that_of_its_card(tmp_path):
    """The command of the card trains the same: of train images alone, with the checkpoint chosen on val."""
    folder = zoo.folder_of(demo.TEACHER_NET)
    trained = json.loads((folder / "config.json").read_text())["training"]
    config = config_of_job(Job.from_config(read_recipe("sat", "digits", ["long"]), tmp_path))
    for key in ("method", "student", "recipe"):
        same = {name: config[key][name] for name in trained[key] if name != "device"}  # later ardors have more keys
        assert same == {name: value for name, value in trained[key].items() if name != "device"}, key
    train, val, _ = load("digits")
    assert (trained["fingerprint"]["train"], trained["fingerprint"]["val"]) == (train.hash, val.hash)
    assert "ardor train sat --data digits --variant long" in (folder / "README.md").read_text()
    assert (folder / "model.safetensors").stat().st_size <= 600_000


# ---- the nets


def test_the_students_of_a_seed_have_as_many_steps_on_any_number_of_labels(tmp_path):
    train = load("digits")[0]
    todo = {job.name: job for job in jobs(tmp_path) if job.seed == 1}
    steps, images = {}, {}
    for name, job in todo.items():
        recipe, part = recipe_of(job, train), demo.images_of(job, train)
        steps[name] = recipe.epochs * len(batches(recipe, "order", 1, part))
        images[name] = len(part)
        assert recipe.val_every == recipe.epochs, "validated once: no checkpoint is chosen"
        assert recipe.seed == 1
    assert images == {name: FEW.get(name, 1213) for name in SHORT}
    assert steps["natural"] == steps["sat"] == steps["rslad"] == 12 * 19
    for name in FEW:
        assert 12 * 19 <= steps[name] <= 12 * 19 + 7, "never fewer"


def test_the_few_labels_are_stratified_and_others_in_each_seed(tmp_path):
    train = load("digits")[0]
    drawn = [demo.images_of(job, train) for job in jobs(tmp_path) if job.name == "sat (100 labels)"]
    assert len({tuple(part.index.tolist()) for part in drawn}) == 3
    for part in drawn:
        assert torch.bincount(part.labels).tolist() == pytest.approx([10] * 10, abs=1)


def test_every_method_is_in_all_and_under_the_threat_of_the_demo(tmp_path):
    from ardor import methods

    names = {METHODS[name].config_name for name in ALL}
    assert names == {getattr(methods, name).config_name for name in methods.__all__}
    for job in jobs(tmp_path, ALL):
        if hasattr(job.method, "attack"):
            assert job.method.attack.threat == demo.THREAT, job.name
    assert METHODS["igdm"].attack.threat != demo.THREAT, "a copy was changed"
    assert {job.name for job in jobs(tmp_path, ALL) if job.needs} == {"mtard", "akd2"}
    with pytest.raises(ConfigError, match=r'got "rsald" \(did you mean "rslad"\?\)'):
        jobs(tmp_path, ["rsald"])


@pytest.mark.parametrize("names", [SHORT, ALL])
def test_the_teacher_is_not_measured_for_it_has_no_run(tmp_path, names):
    """`demo --all` ended at its first net: the radii are a run's, and the teacher is a net of the package."""
    teacher, *students = jobs(tmp_path, names)
    assert (teacher.measured, teacher.deployed) == (False, False)
    assert any(job.measured for job in students)
    work.make(teacher, lambda text: None)
    assert [path.name for path in teacher.run.iterdir()] == ["report-paper-linf-0.2-best.json"]


def test_radii_and_files_are_of_the_first_seed_and_in_a_short_demo_of_few(tmp_path):
    def names(todo, part):
        return [job.name for job in todo if getattr(job, part) and job.method is not None]

    short, everything = jobs(tmp_path), jobs(tmp_path, ALL)
    assert names(short, "deployed") == ["rslad"]
    assert names(short, "measured") == ["natural", "sat", "rslad"]
    of_all = [name for name in ALL if name not in FEW]
    assert names(everything, "deployed") == names(everything, "measured") == of_all
    assert all(job.seed == 0 for job in (*short, *everything) if job.deployed or job.measured)


def test_each_report_is_read_once(tmp_path, monkeypatch):
    todo, read = jobs(tmp_path, seeds=[0, 1]), []
    monkeypatch.setattr(work, "judge", lambda job: read.append((job.name, job.seed)) or share(job.seed))
    monkeypatch.setattr(workers, "make_all", lambda jobs, processes, show: [show(job, "") for job in reversed(jobs)])
    reports = command._make(todo, 2)
    assert sorted(read) == sorted((job.name, job.seed) for job in todo)
    assert list(reports) == [TEACHER, *SHORT]
    assert [report.worst_case.value for report in reports["rslad"]] == [0, 0.01], "by seed, whichever is first finished"


@pytest.mark.parametrize("name", ["mtard", "igdm", "adr"])
def test_a_method_of_all_trains(few, tmp_path, name):
    todo = {job.name: job for job in jobs(tmp_path, ["natural", name], [0], quick=True)}
    for job in [todo["natural"], todo[name]] if name == "mtard" else [todo[name]]:
        *_, last = work.train_epochs(job)
        assert last.epoch == last.epochs


def test_the_distilled_student_reads_no_label(few, tmp_path, monkeypatch):
    """Its weights are the same bytes whatever the labels are; those of SAT are not."""
    train, val, test = few
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    shuffled = [replace(part, labels=part.labels[order[order < len(part)]]) for part in (train, val)]
    weights = {}
    for kind, parts in (("true", few), ("shuffled", (*shuffled, test))):
        monkeypatch.setattr(work, "splits", lambda parts=parts: parts)
        for job in jobs(tmp_path / kind, ["sat", "rslad"], [0], quick=True)[1:]:
            list(work.train_epochs(job))
            weights[kind, job.name] = read_tensors(job.run / "best.safetensors")[0]
    for name, same in (("rslad", True), ("sat", False)):
        pairs = [(weights["true", name][key], weights["shuffled", name][key]) for key in weights["true", name]]
        assert all(torch.equal(a, b) for a, b in pairs) is same, name


# ---- the claim


def entries(sat=30, distilled=50, few=20, seeds=3, wobble=0):
    """The nets of a page, whose seeds differ by `wobble` images of 100."""

    def net(name, role, robust):
        reports = [share(robust + wobble * (seed - 1), seed=seed) for seed in range(seeds)]
        for seed, one in enumerate(reports):
            one.model = {**one.model, "hash": f"{name}{seed}", "parameters": 2294}
        return PageEntry(name, role, reports)

    teacher = share(78)
    teacher.model = {**teacher.model, "parameters": 131178}
    robust = {"natural": 1 if wobble == 0 else 1 + wobble, "sat": sat, **dict.fromkeys(FEW, few), "rslad": distilled}
    nets = [PageEntry(TEACHER, "teacher", [teacher])]
    nets += [net(name, "student", value) for name, value in robust.items()]
    return {entry.name: entry for entry in nets}


def test_the_claim_where_distillation_is_ahead():
    text = labels.claim(entries(sat=30, distilled=60, few=20), LABELS)
    assert text.startswith("Without reading one label, rslad withstands every attack on 60.0 % of the images, and is ")
    assert "above natural (1.0 %, by 47.9 to 67.8 points), " in text
    assert "sat with all 1,213 labels (30.0 %, by " in text
    assert "is below" not in text
    assert "not shown" not in text
    assert "Means of 3 seeds at equal steps on 100 images" in text
    assert "it was trained with all 1,213, is 57 times as large, and stands at 78.0 %." in text


def test_the_claim_says_where_sat_is_ahead():
    text = labels.claim(entries(sat=80, distilled=50, few=20), LABELS)
    assert "; it is below sat with all 1,213 labels (80.0 %, by " in text
    assert "is above natural (1.0 %, by" in text
    assert "sat with 400 labels (20.0 %, by " in text


def test_the_claim_where_nothing_is_shown_says_so():
    text = labels.claim(entries(sat=51, distilled=50, few=49), LABELS)
    assert "is not shown to differ from sat with all 1,213 labels (51.0 %, −4.4 to +2.4 points)" in text
    assert "is below" not in text
    noisy = labels.claim(entries(sat=42, distilled=54, few=20, wobble=7), LABELS)
    assert "; it is not shown to differ from" not in noisy, "paired by seed, the same wobble is no difference"


def test_few_seeds_are_no_evidence_about_methods():
    assert "One seed on 100 images is no evidence about methods" in labels.claim(entries(seeds=1), LABELS)
    two = labels.claim(entries(seeds=2), LABELS)
    assert "2 seeds are no evidence about methods: train 3." in two
    assert "is above" not in two


def test_a_report_with_an_error_allows_no_claim():
    nets = entries()
    nets["sat"].reports[0].findings = [Finding("masked", "error", "e", "a")]
    assert labels.claim(nets, LABELS) == "No difference can be claimed: the report of sat has an error (masked)."
    nets = entries()
    nets["sat"].reports[0] = report()
    assert labels.claim(nets, LABELS).startswith("No difference can be claimed: expected")


def test_the_headline_names_nets_of_the_page():
    nets = entries()
    found = labels.headline(nets, LABELS)
    assert set(found.nets) <= set(nets)
    assert found.nets["sat"] == "adversarially trained with all 1,213 labels"


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_figure_has_every_number_in_its_text(seeds):
    nets = entries(sat=66, distilled=64, few=50, seeds=seeds, wobble=seeds - 1)
    section = labels.section(nets, LABELS)
    with calm():
        image = str(svg(section.figure(), "f", section.label))
    for word in ("66.0 % with 1,213", "50.0 % with 100", "without a label: 64.0 %", "teacher: 78.0 %", "natural"):
        assert word in section.label, word
    assert 'role="img" aria-label="Robust accuracy against' in image
    assert ("Student’s t" in section.caption) == (seeds == 3)
    assert "var(--c1fb97b" in image, "colours that dark mode may change"


def test_the_spread_is_students_over_seeds_and_wilsons_over_images():
    nets = entries(sat=50, seeds=3, wobble=5)
    low, high = labels.spread(nets["sat"].accuracies["worst_case"])
    assert (low, high) == pytest.approx((50 - 4.302653 * 5 / 3**0.5, 50 + 4.302653 * 5 / 3**0.5), abs=1e-3)
    one = entries(sat=50, seeds=1)["sat"].accuracies["worst_case"]
    assert labels.spread(one) == pytest.approx([100 * end for end in one.seeds[0].interval])
    assert labels.spread(entries(sat=90, wobble=9)["sat"].accuracies["worst_case"])[1] == 100


# ---- its processes


def small(folder):
    """Two students of a quick demo, which the pool makes on all digits."""
    return jobs(folder, ["natural", "sat"], [0], quick=True)[1:]


@pytest.mark.slow
def test_processes_give_the_same_bytes_as_one_interrupted_or_not(tmp_path):
    """Interrupted at the first event, a worker killed, then finished: the weights of a run in one process."""

    def interrupt(job, text):
        raise KeyboardInterrupt

    def kill(job, text):
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    with pytest.raises(KeyboardInterrupt):
        workers.make_all(small(tmp_path / "a"), 2, interrupt)
    assert multiprocessing.active_children() == []
    with pytest.raises(RunError, match="got one that was killed"):
        workers.make_all(small(tmp_path / "a"), 2, kill)
    events = []
    workers.make_all(small(tmp_path / "a"), 2, lambda job, text: events.append((job.name, text)))
    assert {name for name, text in events if not text} == {"natural", "sat"}
    workers.make_all(small(tmp_path / "b"), 1, lambda job, text: None)
    for one, other in zip(small(tmp_path / "a"), small(tmp_path / "b"), strict=True):
        assert models.hash_of(models.load(one.run)) == models.hash_of(models.load(other.run))
        assert work.judge(one).verdicts == work.judge(other).verdicts


@pytest.mark.slow
def test_a_process_tells_what_it_does_of_a_method_that_has_layers_of_its_own(tmp_path):
    """The orthogonal layer between features of two widths cannot be sent to another process, and events were."""
    _, job = jobs(tmp_path, ["variance_gap"], [0], quick=True)
    events = []
    workers.make_all([job, *small(tmp_path / "beside")[:1]], 2, lambda of, text: events.append((of.name, text)))
    assert ("variance_gap", "epoch 2/2") in events
    assert ("variance_gap", "pgd_sat") in events, "after training"


def test_an_error_of_one_net_ends_the_others_and_is_told(tmp_path):
    first, second = small(tmp_path)
    first.run.mkdir(parents=True)
    (first.run / "mine.txt").write_text("of another kind")
    with pytest.raises(RunError, match=r"with other files: pass out= with a new name"):
        workers.make_all([first, second], 2, lambda job, text: None)
    assert multiprocessing.active_children() == []


def test_a_net_waits_for_the_one_that_it_needs(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(workers, "make", lambda job, tell: made.append(job.name))
    todo = jobs(tmp_path, ["mtard", "natural"], [0], quick=True)
    assert [job.needs for job in todo] == ["", "natural", ""]
    workers.make_all(sorted(todo, key=lambda job: bool(job.needs)), 1, lambda job, text: None)
    assert made.index("natural") < made.index("mtard")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix" or shutil.which("ps") is None, reason="signals to a process group, and its list")
def test_ctrl_c_ends_every_process_and_the_same_command_goes_on(tmp_path):
    words = [sys.executable, "-c", INTERRUPTED, "demo", "--quick", "--processes", "2"]
    environment = os.environ | {"PYTHONPATH": str(os.path.dirname(os.path.dirname(ardor.__file__)))}
    running = subprocess.Popen(
        words, cwd=tmp_path, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    end = time.monotonic() + 1200
    while not list(tmp_path.glob("runs/demo-quick/seed0/*/metrics.jsonl")):
        assert running.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    os.killpg(running.pid, signal.SIGINT)
    _, error = running.communicate(timeout=600)
    assert running.returncode == 130
    assert error.strip().endswith("stopped; what was finished is kept, and the same command continues from it.")
    assert "Traceback" not in error
    end = time.monotonic() + 30  # multiprocessing's own tracker ends after the process that it served
    while left := alive(running.pid):
        assert time.monotonic() < end, left
        time.sleep(0.1)


def alive(group: int) -> list[str]:
    """The processes of a group that run; one that has ended and that nobody waited for is not among them."""
    listed = subprocess.run(["ps", "-A", "-o", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    lines = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [" ".join(words) for words in lines if int(words[0]) == group and not words[1].startswith("Z")]
