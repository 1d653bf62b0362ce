"""The notebooks, run anew, with their outputs: `python docs/notebooks/make.py [NAME...]` after a change of what they show."""

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def executed(path, folder):
    """The notebook with the outputs of a run in `folder`."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}, record_timing=False).execute()
    return notebook


def tidied(notebook):
    """Without what differs from one run to the next and shows nothing: versions, and the line of progress, empty in the end."""
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("data", {}).get("text/plain", "shown") != ""]
    return notebook


if __name__ == "__main__":
    for path in [HERE / f"{name}.ipynb" for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            notebook = tidied(executed(path, folder))
        nbformat.write(notebook, path)
