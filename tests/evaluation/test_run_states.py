"""A list of runs: what each state looks like, from the files alone."""

import json
import os
import platform
import time

import pytest
import torch

from ardor.cli.main import main
from ardor.errors import RunError
from ardor.evaluation.run_states import RunState, run_states
from ardor.storage.tensors import write_tensors

CONFIG = "method:\n  name: sat\nrecipe:\n  optimiser:\n    name: sgd\n  epochs: {}\n  seed: 0\n"


def record(epoch, best=False, stopped=False):
    return json.dumps(
        {
            "epoch": epoch,
            "epochs": 3,
            "val_clean": epoch / 10,
            "val_robust": epoch / 20,
            "best": best,
            "stopped": stopped,
        }
    )


def make(folder, epochs=3, done=3, best=2, stopped=False):
    """A run of so many epochs."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG.format(epochs))
    lines = [record(e, e == best, stopped and e == done) for e in range(1, done + 1)]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    for name in ("best", "last") if done else ():
        write_tensors(folder / f"{name}.safetensors", {"w": torch.zeros(2)}, {"epoch": str(best)})
    return folder


def judge(folder, name="report-paper-linf-0.1-best.json", robust=0.25, n=40):
    share = {"k": int(robust * n), "n": n, "accuracy": robust, "wilson95": [0, 1]}
    figures = {"clean": share | {"accuracy": 0.5}, "pgd": share, "worst_case": share}
    (folder / name).write_text(json.dumps({"format": "x", "figures": figures, "verdicts": "r" * 100_000}, indent=1))


def only(folder):
    (state,) = run_states(folder)
    return state


def tree(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_states_from_training_to_the_hub(tmp_path):
    run = make(tmp_path / "r", done=2)
    state = only(tmp_path)
    assert (state.state, state.epoch, state.epochs, state.next) == ("stopped", 2, 3, f"ardor train {run}")
    assert (state.val_clean, state.val_robust) == (0.2, 0.1)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(record(3) + "\n")
    assert (only(run).state, only(run).next) == ("finished", f"ardor evaluate {run}")
    judge(run)
    state = only(run)
    assert (state.suite, state.clean, state.robust, state.n) == ("paper", 0.5, 0.25, 40)
    assert state.next == f"ardor evaluate {run} --suite autoattack"
    judge(run, "report-autoattack-linf-0.1-best.json", 0.2)
    assert (only(run).suite, only(run).robust, only(run).next) == ("autoattack", 0.2, f"ardor export {run}")
    (run / "best.onnx").touch()
    assert (only(run).exported, only(run).next) == (["best.onnx"], f"ardor deploy {run}")
    (run / "deployed-best.json").touch()
    assert only(run).next == f"ardor push {run}"
    assert str(only(run)) == "finished, 3 epochs, judged by autoattack, exported"


def test_a_run_that_patience_ended_is_finished_and_one_without_an_epoch_is_not(tmp_path):
    make(tmp_path / "a", done=2, stopped=True)
    make(tmp_path / "b", done=0)
    assert [state.state for state in run_states(tmp_path)] == ["finished", "stopped"]


def test_reports_of_earlier_weights_other_parts_and_other_checkpoints_do_not_count(tmp_path):
    run = make(tmp_path / "r")
    judge(run, "report-autoattack-linf-0.1-last.json")
    judge(run, "report-autoattack-linf-0.1-best-val.json")
    judge(run, "report-deployed-linf-0.1-best.json")
    (run / "report-plus-linf-0.1-best.json").write_text('{"figures": {"clean": {}')
    judge(run)
    os.utime(run / "report-paper-linf-0.1-best.json", (0, 0))
    assert only(run).suite == ""
    judge(run, "report-quick-linf-0.1-best-limit20.json", 0.9, 20)
    judge(run, "report-quick-linf-0.1-best.json", 0.8, 40)
    assert (only(run).suite, only(run).n) == ("quick", 40)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"accuracy": 0.25', '"accuracy": "high"'),
        ('"accuracy": 0.25', '"accuracy": NaN'),
        ('"n": 40', '"m": 40'),
        ('"n": 40', '"n": "all"'),
        ('"n": 40', '"n": Infinity'),
        ('"clean": {', '"clean": ' + "[" * 9000 + "{"),
    ],
)
def test_a_report_with_figures_that_are_none_does_not_count(tmp_path, before, after):
    run = make(tmp_path / "r")
    judge(run)
    (path,) = run.glob("report-*")
    path.write_text(path.read_text().replace(before, after))
    assert main(["runs", str(tmp_path)]) == 0
    assert (only(run).state, only(run).suite) == ("finished", "")


def test_the_process_that_trains_is_named_and_a_dead_one_is_not(tmp_path):
    run = make(tmp_path / "r", done=1)
    for number, node, held in (
        (os.getpid(), platform.node(), True),
        (2**22 + 1, platform.node(), False),
        (10**30, platform.node(), False),
        (5, "elsewhere", True),
    ):
        (run / ".train.lock").write_text(f"process {number} on {node} since 2026-01-01 00:00:00")
        state = only(run)
        assert (state.state, bool(state.held)) == (("training", True) if held else ("stopped", False))
        assert not held or f"process {number} on {node}" in str(state)
        assert state.next == ("" if held else f"ardor train {run}")


@pytest.mark.parametrize(
    ("damage", "note"),
    [
        (lambda run: (run / "config.yaml").unlink(), "no "),
        (lambda run: (run / "config.yaml").write_text("method: ["), "without recipe.epochs"),
        (lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe"), "decode"),
        (lambda run: (run / "metrics.jsonl").write_text("{broken\n"), "Expecting"),
        (lambda run: (run / "metrics.jsonl").write_text("3\n"), "a JSON mapping"),
        (lambda run: (run / "metrics.jsonl").write_text("[" * 100_000 + "\n"), "recursion"),
        (lambda run: (run / "metrics.jsonl").write_text('{"epoch": Infinity}\n'), "Infinity for a number"),
        (lambda run: (run / "metrics.jsonl").write_text('{"epoch": 1e999}\n'), "1e999 for a number"),
        (lambda run: (run / "metrics.jsonl").write_text('{"epoch": 3, "best": true, "val_clean": "a"}\n'), "val_clean"),
        (lambda run: (run / "metrics.jsonl").write_text('{"epoch": 3, "best": true, "val_robust": NaN}\n'), "NaN"),
        (lambda run: (run / "best.safetensors").write_bytes(b"half"), "best.safetensors"),
        (lambda run: [(run / f"{name}.safetensors").unlink() for name in ("best", "last")], "no checkpoint"),
    ],
)
def test_a_damaged_run_is_told_and_the_others_are_listed(tmp_path, damage, note):
    damage(make(tmp_path / "a"))
    make(tmp_path / "b")
    one, other = run_states(tmp_path)
    assert main(["runs", str(tmp_path)]) == 0
    assert main(["runs", str(tmp_path), "--json", "-"]) == 0
    assert (one.state, one.next, other.state) == ("damaged", "", "finished")
    assert note in one.note
    assert "\n" not in str(one)


def test_a_line_that_a_kill_cut_short_is_left_out_and_long_metrics_keep_their_best(tmp_path):
    run = make(tmp_path / "r", epochs=900, done=800, best=5)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 801, "epo')
    assert (only(run).epoch, only(run).val_clean) == (800, 0.5)


def test_five_hundred_runs_are_listed_at_once_and_nothing_is_written(tmp_path):
    for i in range(500):
        judge(make(tmp_path / f"bench/{i // 100}/{i}", epochs=30, done=30))
    before, began = tree(tmp_path), time.process_time()
    assert len(run_states(tmp_path)) == 500
    assert time.process_time() - began < 5
    assert tree(tmp_path) == before


def test_nothing_inside_a_run_is_a_run_and_links_are_not_followed(tmp_path):
    run = make(tmp_path / "a" / "r")
    make(run / "hub-best")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [state.run for state in run_states(tmp_path)] == [str(run)]


def test_the_shell_lists_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 2
    assert "expected a folder of runs, got no runs" in capsys.readouterr().err
    (tmp_path / "runs").mkdir()
    assert main(["runs"]) == 0
    assert "No runs in runs. Next: ardor train" in capsys.readouterr().out
    judge(make(tmp_path / "runs/with space"))
    for i in range(30):
        make(tmp_path / f"runs/{i}", done=1)
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["runs"]) == 0
    shown = capsys.readouterr().out
    assert "25.0" in shown
    assert "n = 40)" in shown  # a narrow table breaks the cell
    assert "ardor train runs/0\n" in shown
    assert "and 11 more, which --json has" in shown
    assert main(["runs", "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 31
    assert rows[-1]["next"] == "ardor evaluate 'runs/with space' --suite autoattack"
    assert {*rows[0]} == {*RunState("", "").as_dict()}
    assert main(["runs", "runs", "--json", "list.json"]) == 0
    assert json.loads((tmp_path / "list.json").read_text()) == rows
    with pytest.raises(RunError):
        run_states("list.json")
