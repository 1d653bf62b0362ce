"""W&B and MLflow as stand-ins that keep what they are sent: one run however often it was stopped."""

import json
import logging
import sys
import types
from contextlib import closing

import pytest

import ardor
from ardor.storage.runs import Run
from ardor.training.trackers import Sink, scalars
from ardor.training.trackers.mlflow import flat
from tests.training.trackers.conftest import CONFIG, curves, epoch, finish, train


@pytest.fixture
def run(tmp_path):
    return tmp_path / "rslad"


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
    with closing(Sink(["mlflow"], run, many)) as sink:
        sink.record(record)
    assert len(mlflow.runs["run0"].params) == 250
    assert {len(value) for _, value in mlflow.runs["run0"].params} == {500}
    assert "terms/kl_x__ x_" in [m[0] for m in mlflow.runs["run0"].metrics]
    assert flat({"a": {"b": {"c": 1}}, "d": {}}) == {"a.b.c": "1"}


def test_a_log_that_fails_warns_once_and_the_others_go_on(run, wandb, mlflow, caplog):
    caplog.set_level(logging.WARNING)
    with closing(Sink(["wandb,mlflow", "tensorboard"], run, CONFIG)) as sink:
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

    monkeypatch.setattr("ardor.training.trackers.write_text", full)
    train(["tensorboard"], run, [1, 2])
    assert len(caplog.records) == 1


def test_ctrl_c_goes_through_a_log(run, wandb, monkeypatch):
    sink = Sink(["wandb"], run, CONFIG)
    sink.record(finish(run, epoch(1)))

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("ardor.training.trackers.scalars", stop)
    with pytest.raises(KeyboardInterrupt):
        sink.record(finish(run, epoch(2)))


def test_history_leaves_out_what_is_no_record(run):
    assert Run(run).metrics() == []
    finish(run, epoch(1))
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'3\n{"a": 1}\n\xff\xfe\n\n{"epo')
    assert [line["epoch"] for line in Run(run).metrics()] == [1]
