"""Checks on the images and their use."""

from __future__ import annotations

import torch

from ardor.data.split import Split, as_float, sample
from ardor.evaluation.findings import Finding, present

SLIVER = 0.2
"""range: of [0, 1], between the darkest and the brightest value of all images. No data set of photographs or scans is
so faint, while 8-bit values divided by 255 twice span 0.004 and digits of 0 .. 16 read as 8-bit ones 0.06."""


FEW = 10
"""missing_classes: images per class, on average. With fewer, a class may be absent from a small part by chance."""


def of_data(data: Split) -> list[Finding]:
    """Every finding on the images."""
    return present(image_range(data), missing_classes(data), selection(data))


def image_range(data: Split) -> Finding | None:
    """The images fill a sliver of [0, 1]: they were scaled once too often, and every eps is too large for them."""
    images = sample(data).images[:]
    low, high = (float(as_float(v)) for v in torch.aminmax(images))
    evidence = f"all values of {len(images)} images lie in [{low:.4g}, {high:.4g}], a sliver of [0, 1]"
    advice = "scale them once: give uint8 of 0 .. 255, or floats that span [0, 1]"
    return Finding("range", "error", evidence, advice) if high - low < SLIVER else None


def missing_classes(data: Split) -> Finding | None:
    """Classes without any image: labels that count from 1, or a label such as 255 for what is of no class."""
    counts = torch.bincount(data.labels.cpu(), minlength=data.classes)
    missing = (counts == 0).nonzero().flatten().tolist()
    if not missing or len(data) < FEW * data.classes:
        return None
    first = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
    evidence = f"{len(missing)} of {data.classes} classes are of none of {len(data)} images: {first}"
    advice = "count labels from 0, and leave out images of no class"
    return Finding("missing_classes", "warning", evidence, advice)


def selection(data: Split) -> Finding | None:
    """The test set took part in choosing the checkpoint."""
    advice = "report it as the papers' protocol, not as held out"
    return Finding("selection", "warning", "; ".join(data.marks), advice) if data.marks else None
