"""Where a net has fewer classes than an attack was written for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ardor.checks.finding import Finding


def few_classes(asked: Mapping[str, Any], run: Mapping[str, Any], classes: int) -> Finding | None:
    """An attack of the suite was run with another loss or fewer targets. asked, run: attacks by name."""
    changed = [
        f"{name} ran with {', '.join(_changes(asked[name], run[name]))}" for name in asked if asked[name] != run[name]
    ]
    if not changed:
        return None
    advice = "quote it as such: DLR needs 3 classes and targeted DLR 4, and a class has no more rivals than there are"
    return Finding("few_classes", "note", f"with {classes} classes {'; '.join(changed)}", advice)


def _changes(asked: Any, run: Any) -> list[str]:
    pairs = {key: (value, vars(run)[key]) for key, value in vars(asked).items()}
    return [f"{key} {new} instead of {old}" for key, (old, new) in pairs.items() if new != old]
