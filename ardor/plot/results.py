"""One result, or several by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ardor.errors import ConfigError


def by_name(result: Any, name: str) -> dict[str, Any]:
    """Several results as they are, one under `name`. Raises ConfigError where there is none."""
    results = {str(key): value for key, value in result.items()} if isinstance(result, Mapping) else {name: result}
    if not results:
        raise ConfigError(f"expected one {name} at least, got an empty dict: pass a {name}, or several by name")
    return results
