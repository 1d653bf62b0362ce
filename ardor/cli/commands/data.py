"""`ardor data check`, before hours are spent on a data set, and `ardor data prepare`, so that they are fewer."""

from __future__ import annotations

import os
from pathlib import Path

from ardor import data as datasets
from ardor import models
from ardor.cli import display
from ardor.cli.selection import Checkpoint, Overrides, find_data
from ardor.data.decode import Resize
from ardor.data.store import read_manifest
from ardor.diagnostics.data import examine_data, keep_confident
from ardor.errors import ConfigError
from ardor.training.recipe import find_device


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
        File for the report; - is standard output, instead of the text.
    """
    if data is None:
        raise ConfigError("expected a data set, got none: type ardor data check PATH")
    display.require_files(json)
    options = find_data({}, f"folder:{data}" if os.path.isdir(data) else data, overrides)
    workers = workers or options.get("workers", 0)
    unread = {*datasets.OWN, "workers"} - {"root", "download"}
    source = {key: v for key, v in options.items() if key not in unread}
    with display.progress("data check", 100) as move:
        report = examine_data(
            **source, workers=workers, progress=lambda done, todo: move(100 * done // todo, f"{done:,} images")
        )
    display.result(report.text(), {json: display.as_json(report.as_dict())})
    return 1 if report.refused else 0


def prepare(
    data: str | None = None,
    /,
    *,
    out: Path | None = None,
    size: int | None = None,
    resize: Resize = "crop",
    grey: bool = False,
    workers: int = 4,
) -> int:
    """Write a folder of images once as a store of raw pixels, which `--data store:OUT` reads without decoding.

    DATA is a folder of PATH/train/CLASS and PATH/test/CLASS, or of PATH/CLASS, a fifth of which is the test. After an
    interruption the same command goes on; a store of other files or of another rule is refused. An image takes
    size x size x 3 bytes: 200,000 of 256 pixels 39 GB.

    Examples:

    `ardor data prepare folder:photos --size 256 --out photos-256`

    Parameters
    ----------
    data
        Folder of images; first.
    out
        The store's folder, new or empty.
    size
        Side in pixels; without it images of one size are taken as they are.
    resize
        crop: short side to size, and the centre cut out. squash: both sides.
    grey
        One channel instead of three.
    workers
        Threads that decode.
    """
    if data is None or out is None:
        missing = "a folder of images" if data is None else "--out"
        raise ConfigError(f"expected {missing}, got none: type ardor data prepare folder:PATH --size 256 --out STORE")
    name = f"folder:{data}" if os.path.isdir(data) else data
    with display.progress("data prepare", 100) as move:
        folder = datasets.prepare(
            name, out, size=size, resize=resize, grey=grey, workers=workers,
            progress=lambda done, todo: move(100 * done // todo, f"{done:,} of {todo:,} images"),
        )  # fmt: skip
    test = datasets.load_test(f"store:{folder}")
    parts = ", ".join(f"{n:,} {part}" for part, n in read_manifest(folder).parts.items())
    display.say(f"{folder}: {parts} images of {' x '.join(map(str, test.shape))}, {test.classes} classes")
    display.say(f"train with --data store:{folder}")
    return 0


def filter(
    data: str | None = None,
    /,
    *,
    model: Path | None = None,
    share: float = 0.2,
    out: Path | None = None,
    checkpoint: Checkpoint = "best",
    trust_code: bool = False,
) -> int:
    """Keep the generated images of which a net is most confident.

    DATA is npz:FILE with the arrays `image` and, where there are labels, `label`, as `--data.extra` takes it. Labels
    are kept; where there are none, the net's most likely classes are written. A file that exists is never replaced.

    Examples:

    `ardor data filter npz:edm_5m.npz --model runs/teacher --share 0.2 --out edm_1m.npz`

    Parameters
    ----------
    data
        npz:FILE; first.
    model
        Folder of a run, whose net is asked.
    share
        Of all images of the file, above 0 and at most 1.
    out
        The new file.
    checkpoint
        Checkpoint of the run.
    trust_code
        Run the `file.py:Name` that a file names, where it is in the working folder or below.
    """
    if data is None or model is None or out is None:
        missing = next(
            name for name, value in (("npz:FILE", data), ("--model", model), ("--out", out)) if value is None
        )
        raise ConfigError(
            f"expected {missing}, got none: type ardor data filter npz:FILE --model RUN --share 0.2 --out OUT.npz"
        )
    net = models.load(model, checkpoint=checkpoint, trust_code=trust_code).to(find_device("auto"))
    with display.progress("data filter", 100) as move:
        kept = keep_confident(
            data, net, share, out, progress=lambda done, todo: move(100 * done // todo, f"{done:,} of {todo:,} images")
        )
    labels = "the file's" if kept.labelled else "the net's most likely classes, as the file has none"
    display.say(
        f"{out}: {kept.images:,} of {kept.of:,} images, of confidence {kept.least:.3f} or more; labels: {labels}"
    )
    display.say(f"train with --data.extra npz:{out}")
    return 0
