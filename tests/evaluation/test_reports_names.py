"""The names of reports, journals and runs, whatever the name of the data is."""

import pytest

from ardor.attacks import quick
from ardor.attacks.threat import Linf
from ardor.evaluation.journal import Journal
from ardor.evaluation.report_files import default_out
from ardor.storage.files import write_text
from ardor.storage.runs import Run, journal_of, suite_of
from ardor.training.job import default_run

NAMES = [
    f"npz:{'d' * 105}/{'d' * 105}/toy.npz", f"npz:{'d/' * 2000}x.npz", f"folder:{'é' * 203}", f"npz:{'画' * 120}.npz",
    "npz:-rf.npz", "npz:.hidden", "folder:..", f"mine.py:{'N' * 300}", "npz:\udcff.npz",
]  # fmt: skip


@pytest.mark.parametrize("data", NAMES)
def test_a_report_and_its_journal_fit_into_the_file_system(tmp_path, data):
    path, other = (default_out(tmp_path, quick(Linf(0.1)), "best", data, seed=seed) for seed in (0, 1))
    assert path != other
    for report in (path, other):
        write_text(report, "x")
        with Journal.open(journal_of(report), {}):
            pass
        assert suite_of(report) == "quick"
    assert len(Run(tmp_path).reports("quick", "best")) == 2


@pytest.mark.parametrize("data", NAMES)
def test_the_default_folder_of_a_run_fits_too(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    run, other = (default_run({"data": {"name": data}, "student": {"name": "small_cnn"}}, seed) for seed in (0, 1))
    assert run != other
    assert run.parent.name == "runs"
    run.mkdir(parents=True)
