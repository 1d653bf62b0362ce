"""Watching a run: real TensorBoard files; W&B and MLflow as stand-ins that keep what they are sent; the board."""

import io
import json
import logging
import os
import pty
import re
import sys
import threading
import time
import types
from contextlib import closing

import pytest
from rich.console import Console

import ardor
from ardor.commands import draw
from ardor.errors import ConfigError
from ardor.logs import history, log_to, scalars
from ardor.logs.mlflow import flat
from ardor.logs.moment import Moment
from ardor.ready import config_of
from ardor.train import Epoch

CONFIG = {"method": {"name": "rslad", "alpha": "5/6"}, "recipe": {"milestones": [1, 2]}, "teacher": None}


def epoch(number, of=4, val=True, best=False, **more):
    robust = {"val_clean": 0.7 + number / 100, "val_robust": 0.4 + number / 100} if val else {}
    terms = {"kl": number / 2, "ce": number / 4}
    return Epoch(number, of, 0.75 * number, terms, 0.1 / number, 2.0, **robust, best=best, **more)


def finish(run, record):
    """What the loop writes before it hands the record over."""
    run.mkdir(exist_ok=True)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({k: v for k, v in vars(record).items() if k != "run"}) + "\n")
    return record


def train(words, run, numbers, of=4, **more):
    """A process that does these epochs."""
    if "tensorboard" in words and (run / "tensorboard").exists():
        time.sleep(1.1)  # TensorBoard reads its files in the order of the seconds they began in
    with closing(log_to(words, run, CONFIG)) as sink:
        for number in numbers:
            sink.record(finish(run, epoch(number, of, **more)))


def curves(run):
    """Every scalar of the real event files, as name: [(step, value), ...], and the texts."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    points = {tag: [(e.step, pytest.approx(e.value)) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    texts = {tag: [e.tensor_proto.string_val for e in found.Tensors(tag)] for tag in found.Tags()["tensors"]}
    return points, texts


@pytest.fixture
def run(tmp_path):
    return tmp_path / "rslad"


def test_scalars_of_an_epoch():
    record = vars(epoch(2)) | {"images_per_second": 100, "val_robust": 0.5}
    assert scalars(record) == {
        "terms/kl": 1.0, "terms/ce": 0.5, "loss": 1.5, "lr": 0.05, "seconds": 2.0, "images_per_second": 100.0,
        "val/clean": 0.72, "val/robust": 0.5,
    }  # fmt: skip
    assert set(scalars(vars(epoch(1, val=False)))) == {"terms/kl", "terms/ce", "loss", "lr", "seconds"}


def test_a_tensorboard_file_is_written_and_read_back(run):
    sink = log_to(["tensorboard"], run, CONFIG)
    assert not run.exists(), "nothing before the first epoch"
    sink.record(finish(run, epoch(1)))
    points, texts = curves(run)  # at once, before it is closed
    assert points["loss"] == [(1, 0.75)]
    sink.record(finish(run, epoch(2, val=False)))
    points, texts = curves(run)
    assert len(points["loss"]) == 2
    sink.close()
    points, texts = curves(run)
    assert points["loss"] == [(1, 0.75), (2, 1.5)]
    assert points["terms/kl"] == [(1, 0.5), (2, 1.0)]
    assert points["val/robust"] == [(1, 0.41)]
    assert set(points) == {"loss", "terms/kl", "terms/ce", "lr", "seconds", "val/clean", "val/robust"}
    [[text]] = texts["config/text_summary"]
    assert b"    method:\n      name: rslad\n" in text
    assert b"alpha: 5/6" in text


def test_a_resumed_run_goes_on_with_the_same_curves(run):
    train(["tensorboard"], run, [1, 2])
    train(["tensorboard"], run, [3, 4])
    points, texts = curves(run)
    assert points["loss"] == [(n, 0.75 * n) for n in (1, 2, 3, 4)]
    assert len(texts["config/text_summary"]) == 1
    assert json.loads((run / "log.json").read_text()) == {"tensorboard": {"id": None, "epoch": 4}}


def test_an_epoch_done_again_is_there_once(run):
    """The newest state was damaged: the loop went back to epoch 1."""
    train(["tensorboard"], run, [1, 2, 3])
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text(lines[0])
    train(["tensorboard"], run, [2])
    points, _ = curves(run)
    assert points["loss"] == [(1, 0.75), (2, 1.5)]


@pytest.mark.parametrize("log", ['{"tensorboard": {"id": null, "epoch": 1}}', "", "[1]", '{"tensorb'])
def test_what_a_kill_kept_from_the_log_is_sent_later(run, log):
    """Killed between the checkpoint and the log, or asked for a log only now, or log.json lost."""
    for n in (1, 2):
        finish(run, epoch(n))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo\n')
    (run / "log.json").write_text(log)
    train(["tensorboard"], run, [3])
    points, texts = curves(run)
    assert [step for step, _ in points["loss"]] == ([2, 3] if "1}" in log else [1, 2, 3])
    assert len(texts.get("config/text_summary", [])) == (0 if "1}" in log else 1)


def test_a_lost_log_json_doubles_nothing(run):
    train(["tensorboard"], run, [1, 2])
    (run / "log.json").unlink()
    train(["tensorboard"], run, [3])
    points, _ = curves(run)
    assert points["loss"] == [(1, 0.75), (2, 1.5), (3, 2.25)]


def test_beside_the_real_loop(run):
    """The folder still belongs to the run, and a finished run writes nothing more."""
    train_, val, _ = ardor.data.load("digits")
    net = ardor.models.build("small_cnn", channels=1, width=4)
    method = ardor.methods.Natural()
    for epochs in (1, 1):
        recipe = ardor.Recipe(epochs=epochs, batch=64, augment="none", val_size=20, device="cpu")
        config = config_of(net, None, method, train_.limit(64), val, recipe)
        with closing(log_to(["tensorboard"], run, config)) as sink:
            for record in ardor.epochs(net, None, method, train_.limit(64), recipe, val=val, run=run):
                sink.record(record)
        net = ardor.models.build("small_cnn", channels=1, width=4)
    points, _ = curves(run)
    assert [step for step, _ in points["val/robust"]] == [1]
    assert len(list((run / "tensorboard").iterdir())) == 1


def test_words(run, monkeypatch):
    for words, expected in (
        (["tensorbord"], 'got "tensorbord" (did you mean "tensorboard"?)'),
        (["tensorboard,w&b"], "expected tensorboard, wandb, mlflow for --log"),
    ):
        with pytest.raises(ConfigError, match=re.escape(expected)):
            log_to(words, run, CONFIG)
    for word in ("wandb", "mlflow", "tensorboard"):
        monkeypatch.setitem(sys.modules, word, None)  # as if it were not installed
        with pytest.raises(ConfigError, match=re.escape(f'type pip install "ardor[{word}]"')):
            log_to(["", word], run, CONFIG)
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))  # a folder called wandb, as wandb makes one
    with pytest.raises(ConfigError, match=r"got a folder: type pip install"):
        log_to(["wandb"], run, CONFIG)
    with closing(log_to([], run, CONFIG)) as sink:
        sink.record(finish(run, epoch(1)))
    assert sorted(p.name for p in run.iterdir()) == ["metrics.jsonl"]


class Fake:
    """Stands in for a module, and keeps what it is asked: wandb and mlflow are not among the tests' packages."""

    def __init__(self):
        self.runs, self.began, self.fails, self.held, self.disabled = {}, [], set(), set(), False

    def must(self, what):
        if what in self.fails:
            raise ConnectionError(f"no route to {what}\nat all")


def fake_wandb():
    fake = Fake()
    module = types.ModuleType("wandb")
    module.__file__, module.fake = "wandb.py", fake

    class Error(Exception):
        pass

    class Run:
        def __init__(self, id, disabled):
            self.id, self.disabled, self.steps, self.exit = id, disabled, [], None

        def log(self, values, step):
            fake.must("log")
            self.steps.append((step, values))

        def finish(self, exit_code):
            fake.must("finish")
            self.exit = exit_code

    def init(**said):
        mode = said["settings"].get("mode")
        if mode is None and "server" in fake.fails:
            fake.held.add(said["id"])
            raise Error("no such host")
        if said["id"] in fake.held:  # as in 0.31.0
            raise RuntimeError(f"run ID {said['id']} is in use")
        fake.began.append(said)
        fake.runs.setdefault(said["id"], []).append(Run(said["id"], fake.disabled and mode is None))
        return fake.runs[said["id"]][-1]

    module.teardown = fake.held.clear
    module.init, module.Settings, module.errors = init, lambda **kw: kw, types.SimpleNamespace(Error=Error)
    return module


def fake_mlflow():
    fake = Fake()
    fake.experiments = {}
    module = types.ModuleType("mlflow")
    module.__file__, module.fake = "mlflow.py", fake

    class Client:
        def get_experiment_by_name(self, name):
            return types.SimpleNamespace(experiment_id=fake.experiments[name]) if name in fake.experiments else None

        def create_experiment(self, name):
            assert name not in fake.experiments
            return fake.experiments.setdefault(name, "7")

        def create_run(self, experiment, run_name):
            assert experiment == "7"
            id = f"run{len(fake.runs)}"
            fake.runs[id] = types.SimpleNamespace(name=run_name, params=[], metrics=[], status="RUNNING")
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id=id))

        def log_batch(self, id, metrics=(), params=()):
            fake.must("log")
            assert len(params) <= 100
            fake.runs[id].metrics += metrics
            fake.runs[id].params += params

        def update_run(self, id, status):
            fake.runs[id].status = status

        def set_terminated(self, id, status):
            fake.runs[id].status = status

    module.MlflowClient = Client
    module.entities = types.SimpleNamespace(Param=lambda *a: a, Metric=lambda *a: a)
    return module


@pytest.fixture
def wandb(monkeypatch):
    module = fake_wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module.fake


@pytest.fixture
def mlflow(monkeypatch):
    module = fake_mlflow()
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return module.fake


def test_wandb_goes_on_with_the_same_run(run, wandb):
    train(["wandb"], run, [1, 2])
    train(["wandb"], run, [3, 4])
    [(id, (first, second))] = wandb.runs.items()
    assert json.loads((run / "log.json").read_text()) == {"wandb": {"id": id, "epoch": 4}}
    assert [step for step, _ in first.steps + second.steps] == [1, 2, 3, 4]
    assert first.steps[1][1] == scalars(vars(epoch(2)))
    assert (first.exit, second.exit) == (1, 0), "broken off, then complete"
    said = wandb.began[1]
    assert (said["project"], said["name"], said["resume"], said["dir"]) == ("ardor", "rslad", "allow", str(run))
    assert said["config"] == CONFIG
    assert said["settings"]["console"] == "off"


@pytest.mark.parametrize("trouble", ["server", "disabled"])
def test_wandb_without_a_network_or_a_login_keeps_the_run_here(run, wandb, caplog, trouble):
    wandb.disabled = trouble == "disabled"
    wandb.fails |= {trouble}
    train(["wandb"], run, [1, 2])
    [(_, runs)] = wandb.runs.items()
    assert [step for step, _ in runs[-1].steps] == [1, 2]
    assert wandb.began[-1]["settings"]["mode"] == "offline"
    assert len(caplog.records) == 1
    assert "send it with wandb sync" in caplog.text


def test_two_runs_are_two_on_the_server(tmp_path, wandb):
    train(["wandb"], tmp_path / "a", [1])
    train(["wandb"], tmp_path / "b", [1])
    assert len(wandb.runs) == 2


def test_mlflow_goes_on_with_the_same_run(run, mlflow):
    train(["mlflow"], run, [1, 2])
    [there] = mlflow.runs.values()
    assert there.status == "KILLED"
    train(["mlflow"], run, [3, 4])
    assert list(mlflow.runs) == ["run0"]
    assert (there.name, there.status) == ("rslad", "FINISHED")
    assert [(m[3], m[1]) for m in there.metrics if m[0] == "terms/kl"] == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]
    assert abs(there.metrics[0][2] / 1000 - (run / "log.json").stat().st_mtime) < 60
    assert dict(there.params) == {
        "method.name": "rslad", "method.alpha": "5/6", "recipe.milestones": "[1, 2]", "teacher": "None",
    }  # fmt: skip
    train(["mlflow"], run.with_name("other"), [1])
    assert list(mlflow.runs) == ["run0", "run1"], "of one experiment"


def test_mlflow_takes_names_and_configs_of_any_kind(run, mlflow):
    many = {f"k{i}": "x" * 9999 for i in range(250)}
    record = finish(run, epoch(1))
    record.terms = {"kl(x', x)": 1.0}
    with closing(log_to(["mlflow"], run, many)) as sink:
        sink.record(record)
    assert len(mlflow.runs["run0"].params) == 250
    assert {len(value) for _, value in mlflow.runs["run0"].params} == {500}
    assert "terms/kl_x__ x_" in [m[0] for m in mlflow.runs["run0"].metrics]
    assert flat({"a": {"b": {"c": 1}}, "d": {}}) == {"a.b.c": "1"}


def test_a_log_that_fails_warns_once_and_the_others_go_on(run, wandb, mlflow, caplog):
    caplog.set_level(logging.WARNING)
    with closing(log_to(["wandb,mlflow", "tensorboard"], run, CONFIG)) as sink:
        sink.record(finish(run, epoch(1)))
        wandb.fails |= {"log", "finish"}
        for n in (2, 3, 4):
            sink.record(finish(run, epoch(n)))
    [warned] = caplog.records
    assert warned.getMessage() == (
        f"wandb is left out from here on (ConnectionError: no route to log at all); {run / 'metrics.jsonl'} has all"
    )
    assert [step for step, _ in curves(run)[0]["loss"]] == [1, 2, 3, 4]
    assert mlflow.runs["run0"].status == "FINISHED"
    assert json.loads((run / "log.json").read_text())["wandb"]["epoch"] == 1
    wandb.fails.clear()
    train(["wandb"], run, [5], of=5)
    [(_, runs)] = wandb.runs.items()
    assert [step for step, _ in runs[-1].steps] == [2, 3, 4, 5], "the next process sends what was missed"


def test_a_log_that_fails_at_the_beginning_or_the_end(run, wandb, mlflow, caplog):
    mlflow.fails |= {"log"}
    wandb.fails |= {"finish"}
    train(["wandb,mlflow"], run, [1, 2])
    assert len(caplog.records) == 2
    assert "mlflow is left out" in caplog.text


def test_a_run_that_began_on_the_server_is_not_begun_twice(run, wandb):
    wandb.fails |= {"log"}
    train(["wandb"], run, [1])
    wandb.fails.clear()
    train(["wandb"], run, [2])
    [(_, runs)] = wandb.runs.items()
    assert [step for step, _ in runs[-1].steps] == [1, 2]


def test_a_full_disk_ends_no_run(run, caplog, monkeypatch):
    def full(path, write):
        raise ardor.errors.RunError("expected to write, got no space")

    monkeypatch.setattr("ardor.logs.write_atomic", full)
    train(["tensorboard"], run, [1, 2])
    assert len(caplog.records) == 1


def test_ctrl_c_goes_through_a_log(run, wandb, monkeypatch):
    sink = log_to(["wandb"], run, CONFIG)
    sink.record(finish(run, epoch(1)))

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("ardor.logs.scalars", stop)
    with pytest.raises(KeyboardInterrupt):
        sink.record(finish(run, epoch(2)))


def test_history_leaves_out_what_is_no_record(run):
    assert history(run) == []
    finish(run, epoch(1))
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'3\n{"a": 1}\n\xff\xfe\n\n{"epo')
    assert [line["epoch"] for line in history(run)] == [1]


# The board


def shown(board):
    console = Console(file=io.StringIO(), force_terminal=True, width=200, color_system=None, soft_wrap=True)
    console.print(board)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_board_with_epochs_alone(run):
    clock = iter([0.0, 60.0, 120.0, 180.0]).__next__
    board = draw.Board(4, str(run), clock)
    [head] = shown(board)
    assert head.startswith(f"{run}  epoch 1/4")
    assert "left" not in head
    board.take(epoch(1, best=True))
    head, loss, val = shown(board)
    assert "epoch 2/4" in head
    assert head.endswith("3 min left")
    assert loss == "loss 0.7500  kl 0.5000  ce 0.2500"
    assert val == "val 71.0 clean 41.0 robust at epoch 1  best 71.0 clean 41.0 robust at epoch 1"
    board.take(epoch(2))
    assert shown(board)[2] == "val 72.0 clean 42.0 robust at epoch 2  best 71.0 clean 41.0 robust at epoch 1"
    board.take(epoch(3, val=False))
    assert shown(board)[2].startswith("val 72.0 clean 42.0 robust at epoch 2")
    board.take(epoch(4, val=False))
    assert "epoch 4/4" in shown(draw_at(board, 240.0))[0]


def draw_at(board, now):
    board._clock = lambda: now
    return board


def test_the_board_with_steps(run):
    board = draw.Board(4, str(run), lambda: 0.0)
    board.take(Moment(1, 4, 5, 10, 1234.4, {"kl": 1.0, "ce": 0.5}))
    head, loss = shown(draw_at(board, 30.0))
    assert "epoch 1/4" in head
    assert head.endswith("step 5/10  4 min left")  # 210 s
    assert loss == "loss 1.5000  kl 1.0000  ce 0.5000  1234 images/s"
    board.take(epoch(1))
    assert "step 5" not in shown(board)[0]
    assert "1234 images/s" in shown(board)[1]


def test_the_board_of_a_run_that_goes_on(run):
    finish(run, epoch(1, best=True))
    finish(run, epoch(2))
    board = draw.Board(4, str(run), lambda: 0.0)
    head, val = shown(board)
    assert "epoch 3/4" in head
    assert val == "val 72.0 clean 42.0 robust at epoch 2  best 71.0 clean 41.0 robust at epoch 1"
    board.take(Moment(3, 4, 1, 2, 10, {"kl": 1.0}))
    assert shown(draw_at(board, 20.0))[0].endswith("60 s left"), "at the pace of this process, not of all epochs"


def test_off_a_terminal_a_plain_line_per_epoch(run, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(draw, "err", Console(file=file, highlight=False, soft_wrap=True))
    records = [epoch(1, best=True), epoch(2)]
    assert draw.training(iter(records), 4, str(run)) == records
    assert file.getvalue() == "".join(f"{record}\n" for record in records)
    assert file.getvalue().startswith(
        "epoch 1/4  loss 0.7500  kl 0.5000  ce 0.2500  val 71.0 clean 41.0 robust *  lr 0.1"
    )
    file.truncate(0)
    with draw.watching(4, str(run), quiet=True) as tell:
        tell(epoch(1))
        tell(Moment(1, 4, 5, 10, 1.0, {"kl": 1.0}))
    assert file.getvalue().strip("\0") == ""
    monkeypatch.setattr(draw, "err", Console(file=file, force_terminal=True))  # FORCE_COLOR into a file, say
    with draw.watching(4, str(run)) as tell:
        tell(Moment(1, 4, 5, 10, 1.0, {"kl": 1.0}))
    assert file.getvalue().strip("\0") == ""


def test_on_a_terminal_the_board_is_drawn_and_goes(run, monkeypatch):
    ours, theirs = pty.openpty()
    seen = []
    reader = threading.Thread(target=lambda: seen.append(read_all(ours)))
    reader.start()
    with os.fdopen(theirs, "w") as file:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(draw, "err", Console(file=file, highlight=False, soft_wrap=True, width=100))
        with draw.watching(4, "runs/x") as tell:
            tell(Moment(1, 4, 5, 10, 1234.4, {"kl": 1.0}))
            tell(epoch(1, best=True))
    reader.join(10)
    text = seen[0].decode()
    assert "runs/x" in text
    assert "images/s" in text
    assert "epoch 1/4  loss 0.7500  kl 0.5000  ce 0.2500  val 71.0 clean 41.0 robust *  lr 0.1  2.0 s" in text
    assert text.rstrip().endswith("\x1b[2K"), "the board itself does not stay"


def read_all(end):
    read = b""
    while True:
        try:
            part = os.read(end, 4096)
        except OSError:
            part = b""
        if not part:
            return read
        read += part
