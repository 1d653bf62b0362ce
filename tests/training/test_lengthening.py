"""More epochs for a run: as if it had been longer from the start, or refused with the reason."""

import copy

import pytest
import yaml

from ardor import methods
from ardor.cli.main import main
from ardor.errors import RunError
from ardor.training.averaging import EMA
from ardor.training.loop import epochs
from tests.conftest import bits, same, splits
from tests.training.conftest import WORDS, ended, lines, net, recipe, rslad


def trained(folder, **changes):
    train, val = splits()
    student = net()
    records = epochs(
        student, None, methods.Natural(), train, recipe(**changes), val=val, run=folder, averaging=EMA(0.9)
    )
    return student, [record.epoch for record in records]


@pytest.mark.parametrize("milestones", [(), (2, 4), (9,)])
def test_a_longer_run_is_as_if_it_had_been_longer_from_the_start(tmp_path, milestones):
    whole, _ = trained(tmp_path / "whole", milestones=milestones, epochs=5)
    trained(tmp_path / "parts", milestones=milestones, epochs=3)
    longer, records = trained(tmp_path / "parts", milestones=milestones, epochs=5)
    assert records == [4, 5]
    assert same(bits(whole), bits(longer))
    one, two = ended(tmp_path / "whole"), ended(tmp_path / "parts")
    assert [line | {"epochs": 5} for line in two[0]] == one[0]
    assert all(same(one[1][name][0], two[1][name][0]) for name in one[1])
    configs = [yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in ("whole", "parts")]
    assert configs[1].pop("lengthened") == [{"from": 3, "after": 3}]
    assert configs[0] == configs[1]
    assert trained(tmp_path / "parts", milestones=milestones, epochs=5)[1] == []


def steady(share):
    return 0.5


def falling(share):
    return 1 - share


def test_a_run_with_a_schedule_of_a_user_goes_on_from_its_folder_and_gets_longer(tmp_path):
    """A folder has milestones where the command had none, and a threat of its own where the command shared one."""
    train, val = splits()
    method, run = rslad(), tmp_path / "run"

    def records(**changes):
        options = recipe(**{"schedule": steady, "milestones": None, "val_attack": method.attack} | changes)
        return [record.epoch for record in epochs(net(), net(), method, train, options, val=val, run=run)]

    assert records() == [1, 2, 3]
    milestones = tuple(yaml.safe_load((run / "config.yaml").read_text())["recipe"]["milestones"])
    assert records(milestones=milestones, val_attack=copy.deepcopy(method.attack)) == []
    assert records(milestones=milestones, epochs=5) == [4, 5]
    with pytest.raises(RunError, match="recipe.schedule"):
        records(milestones=milestones, epochs=5, schedule=falling)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schedule": "cosine"}, "got cosine"),
        ({"schedule": "one-cycle"}, "got one-cycle"),
        ({"schedule": falling}, r"got \S*test_lengthening\S*:falling:"),
        ({"epochs": 4}, "got milestones at 29, 35, 38 in place of 3, 3, 4"),  # None: scaled with the length
    ],
)
def test_rates_that_belong_to_the_length_are_refused(tmp_path, changes, reason):
    trained(tmp_path / "run", **changes)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.suffix != ".lock"}
    with pytest.raises(RunError, match=f"rates do not depend on the number of epochs.*{reason}.*weights=.*last"):
        trained(tmp_path / "run", **changes | {"epochs": 40})
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.suffix != ".lock"}


def test_fewer_epochs_and_another_change_beside_are_refused(tmp_path):
    trained(tmp_path / "run", milestones=())
    with pytest.raises(RunError, match=r"expected the 3 epochs of .* or more, got 2: pass epochs=3"):
        trained(tmp_path / "run", milestones=(), epochs=2)
    with pytest.raises(RunError, match=r"got another \(recipe.lr"):
        trained(tmp_path / "run", milestones=(), epochs=5, lr=0.01)
    assert "lengthened" not in (tmp_path / "run" / "config.yaml").read_text()


def test_the_command_lengthens_a_runs_folder(tmp_path, capsys):
    run = tmp_path / "r"
    words = [*WORDS, "--method", "natural", "--recipe.milestones", "1", "--run", str(run)]
    assert main(["train", *words]) == 0
    assert main(["train", str(run), "--recipe.epochs", "4"]) == 0
    assert [line["epoch"] for line in lines(run)] == [1, 2, 3, 4]
    assert main(["train", str(run)]) == 0, "the folder has its new length"
    assert main(["train", str(run), "--recipe.epochs", "1"]) == 2
    assert "type --recipe.epochs 4, or --run with a new name" in capsys.readouterr().err
