"""The comparison of a net with its files, in the model card."""

import shutil

import pytest

from ardor import models
from ardor.cli.main import main
from ardor.deployment import hub
from tests.deployment.conftest import onnx_packages, train

pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")
onnx_packages()


def test_the_table_of_forms_goes_into_the_card_while_it_is_of_these_weights(tmp_path):
    run = train(tmp_path / "sat", epochs=2)
    assert main(["deploy", str(run), "--limit", "30", "--queries", "2", "--force"]) == 0
    release = hub.release_of(run)
    text = (hub.write_folder(release, tmp_path / "out").folder / "README.md").read_text()
    assert "| | float32 | ONNX | INT8 |" in release.deployed
    assert release.deployed in text
    assert "gradients are those" not in release.deployed, "findings stand together, below"
    assert text.index("How these figures") < text.index("gradients are those of a simulation")
    shutil.copy(run / "last.safetensors", run / "best.safetensors")
    path = run / "deployed-best.json"
    path.write_text(path.read_text().replace(models.hash_of(release.net), "0" * 16))
    old = hub.release_of(run)
    assert old.deployed == ""
    assert any("deployed-best.json" in reason for reason in old.left_out)
