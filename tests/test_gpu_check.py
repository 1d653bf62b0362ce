"""benchmarks/gpu_check.py on the CPU, with tiny nets and few images: the script runs, its figures mean nothing."""

import importlib
import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu_check.py"
PARTS = ("machine", "tests", "steps", "teacher", "autoattack", "rslad")


def run(*words, folder=ROOT):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        yield importlib.import_module("gpu_check")
    finally:
        sys.path.remove(str(SCRIPT.parent))


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    out, words = folder / "check", ["--tiny", "--device", "cpu", "--minutes", "1", "--peak", "1"]
    result = run(*words, "--out", "check", "--tests", "tests/test_noise.py", folder=folder)  # relative, as it is typed
    lines = [json.loads(line) for line in (out / "gpu_check.jsonl").read_text().splitlines()]
    return out, result, lines


@pytest.mark.slow
def test_every_part_writes_its_results(checked):
    _, result, lines = checked
    assert [line for line in lines if "failed" in line] == [], result.stdout + result.stderr
    assert result.returncode == 0
    assert list(dict.fromkeys(line["part"] for line in lines)) == list(PARTS)
    assert lines[0]["data"] == "made up: speeds hold, accuracies mean nothing"


@pytest.mark.slow
def test_steps_have_every_form_and_batch(checked):
    steps = [line for line in checked[2] if line["part"] == "steps"]
    measured = {(line["form"], line["batch"]) for line in steps if "images_per_second" in line}
    assert measured == {(form, batch) for form in ("released, float32", "float32", "bfloat16") for batch in (8, 16)}
    assert {line["form"]: line.get("error", line.get("skipped")) for line in steps[6:]} == {
        "float16": "RuntimeError: float16 is for GPUs",
        "bfloat16, compiled": "a minute, of a tiny net",
    }
    for line in steps[:6]:
        assert line["of_bfloat16_peak"].endswith(" %")
        assert line["tflops"] > 0


@pytest.mark.slow
def test_verdicts_are_compared_image_by_image(checked):
    last = [line for line in checked[2] if line["part"] == "autoattack"][-1]
    assert last["images"] == last["of"] == 4
    assert last["official"] - last["only official"] == last["ours"] - last["only ours"]
    assert max(last["official"], last["ours"]) <= last["clean"]


@pytest.mark.slow
def test_a_teacher_and_its_student_are_trained(checked):
    out, _, lines = checked
    for part in ("teacher", "rslad"):
        (line,) = [line for line in lines if line["part"] == part]
        assert line["epoch"] == line["of"] == 1
        assert (out / "runs" / part / "last.safetensors").is_file()


@pytest.mark.slow
def test_the_summary_has_a_table_for_each_part(checked):
    text = (checked[0] / "gpu_check.md").read_text()
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == list(PARTS)
    assert "| form | batch |" in text


def test_without_a_gpu_it_says_so():
    result = run("--out", "/nonexistent")
    assert result.returncode == 2
    assert "expected a GPU, got none" in result.stderr


def test_a_part_that_hangs_is_ended_with_what_it_printed(script):
    code, text = script._run([sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(600)"], 5)
    assert code == "stopped after 5 s"
    assert text == "begun\n"


def test_a_part_that_fails_takes_no_other_with_it(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "PARTS", dict.fromkeys(("machine", "steps", "rslad")))
    outcomes = {"machine": (0, ""), "steps": (-11, "Segmentation fault"), "rslad": (0, "")}
    monkeypatch.setattr(script, "_run", lambda command, seconds: outcomes[command[command.index("--part") + 1]])
    words = script.Words(None, "cpu", None, None, tmp_path, 0.1, None, True, 1.0)
    assert script.check(words, []) == 1
    (line,) = map(json.loads, (tmp_path / "gpu_check.jsonl").read_text().splitlines())
    assert (line["part"], line["failed"], line["tail"]) == ("steps", "-11", "Segmentation fault")
    assert "Segmentation fault" in (tmp_path / "gpu_check.md").read_text()


def test_the_whole_takes_no_longer_than_it_may(script, tmp_path, monkeypatch):
    """Each part at its limit: their sum, with the start of each process, is what was typed."""
    now, spent = [0.0], []
    monkeypatch.setattr(script.time, "monotonic", lambda: now[0])

    def used(command, seconds):
        spent.append(seconds)
        now[0] += seconds
        return 0, ""

    monkeypatch.setattr(script, "_run", used)
    words = script.Words(None, "cuda", None, None, tmp_path, 10.0, None, False, 1.0)
    assert script.check(words, []) == 0
    assert sum(spent) <= 600 + 15
    assert min(spent) >= 12


def test_the_shares_are_of_all_parts(script):
    assert list(script.SHARES) == list(script.PARTS) == list(PARTS)
    assert sum(script.SHARES.values()) == pytest.approx(1)
