"""A file is replaced whole or not at all, whatever stops the writing."""

import pytest

from ardor.errors import RunError
from ardor.storage.files import write_atomic


def test_what_is_written_replaces_what_was_there(tmp_path):
    path = tmp_path / "new" / "file.json"
    for text in ("one", "two"):
        assert write_atomic(path, lambda temporary, text=text: temporary.write_text(text)) == path
        assert path.read_text() == text
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


@pytest.mark.parametrize(
    ("error", "raised"), [(OSError(28, "No space left"), RunError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_a_write_that_stops_half_way_leaves_what_was_there(tmp_path, error, raised):
    path = tmp_path / "file.json"
    path.write_text("before")

    def half(temporary):
        temporary.write_text("aft")
        raise error

    with pytest.raises(raised):
        write_atomic(path, half)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file.*name another folder"):
        write_atomic(tmp_path / "file" / "below.json", lambda temporary: temporary.write_text("x"))
