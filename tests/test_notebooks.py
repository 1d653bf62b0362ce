"""The notebooks of the docs run as they are, from an empty folder, and have kept their outputs."""

import re
import runpy

import nbformat
import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "docs/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
make = runpy.run_path(str(FOLDER / "make.py"))


def outputs(notebook):
    """Of each cell of code, the kinds of its outputs: what differs by processor, seconds and figures, left out."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [[sorted(o.get("data", {o.get("name"): ""})) for o in cell.outputs] for cell in cells]


@pytest.mark.release
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_was_kept(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    kept, new = nbformat.read(path, as_version=4), make["tidied"](make["executed"](path, str(tmp_path)))
    assert outputs(new) == outputs(kept)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_kept(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < 400_000
    text = path.read_text()
    assert "Traceback" not in text
    assert not re.search(r"/(work|root|home|tmp)/", text)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), (
        "run in order: docs/notebooks/make.py"
    )
    assert any({"image/png", "text/html"} & set(o.get("data", {})) for cell in code for o in cell.outputs)
    assert all("widget" not in kind for kinds in outputs(notebook) for kind in map(str, kinds))


def test_there_are_three_and_each_leads_to_the_others():
    assert [path.stem for path in NOTEBOOKS] == ["distil", "int8", "method"]
    text = (FOLDER / "index.md").read_text()
    assert all(f"{path.stem}.ipynb" in text for path in NOTEBOOKS)
