"""What the tests of the models room share."""

import pytest


def refused(error, *parts):
    """An error whose sentence has these parts in this order."""
    return pytest.raises(error, match="(?s)^expected .*" + ".*".join(parts))
