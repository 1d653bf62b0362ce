"""`ardor data check`: a data set before hours are spent on it."""

from __future__ import annotations

import json as as_json
import os
from pathlib import Path

from ardor.cli import display
from ardor.cli.selection import Overrides, find_data
from ardor.diagnostics.data import examine_data
from ardor.errors import ConfigError
from ardor.storage.files import write_text


def check(data: str | None = None, /, *, workers: int = 0, json: Path | None = None, overrides: Overrides) -> int:
    """Look over images before hours are spent on them: damage, sizes, classes, duplicates.

    DATA is a folder, or any name that --data takes. A folder's files are decoded one by one: those that do not read,
    sizes, kinds of pixels, images of each class, classes that a part lacks, images that are equal pixel for pixel
    within and between train and test, whether their labels differ, and the memory that all need.

    Each finding has its evidence and the next step. The exit code is 1 where training refuses the data, else 0.

    Examples:

    `ardor data check photos --data.size 224`

    `ardor data check npz:digits.npz --json report.json`

    Parameters
    ----------
    data
        Folder of PATH/train/CLASS and PATH/test/CLASS or of PATH/CLASS, or a name of data; first.
    workers
        Threads that decode; 0 is one per processor.
    json
        File for the report.
    """
    if data is None:
        raise ConfigError("expected a data set, got none: type ardor data check PATH")
    options = find_data({}, f"folder:{data}" if os.path.isdir(data) else data, overrides)
    source = {key: value for key, value in options.items() if key not in ("val", "seed", "limit", "protocol")}
    with display.progress("data check", 100) as move:
        report = examine_data(
            **source, workers=workers, progress=lambda done, todo: move(100 * done // todo, f"{done:,} images")
        )
    if json is not None:
        write_text(json, as_json.dumps(report.as_dict(), indent=1, default=str))
    display.say(report.text())
    return 1 if report.refused else 0
