"""Images of the page as PNG data URIs: clean, attacked, and the perturbation made visible."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image
from torch import Tensor

from ardor.reporting.entry import Example


def factor(examples: list[Example]) -> int:
    """By what a perturbation is multiplied so that the largest just fills the range around mid grey."""
    sizes = [float((adv - e.clean).abs().max()) for e in examples for adv in e.adversarial.values()]
    largest = max(sizes, default=0.0)
    return max(1, int(0.5 / largest + 0.01)) if largest else 1


def gallery(examples: list[Example]) -> list[dict[str, Any]]:
    """What the page shows of each example: data URIs and what each net says, with whether it is right."""
    times = factor(examples)
    return [
        {
            "label": e.label,
            "clean": png(e.clean),
            "nets": [
                {
                    "name": name,
                    "adversarial": png(image),
                    "perturbation": png(0.5 + times * (image - e.clean)),
                    "says": [{"word": word, "right": word == e.label} for word in e.says[name]],
                }
                for name, image in e.adversarial.items()
            ],
        }
        for e in examples
    ]


def png(image: Tensor) -> str:
    """A (C, H, W) image in [0, 1] as a data URI; one channel is grey, of more than one the first three are RGB."""
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().byte().numpy()
    out = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) < 3 else pixels[:3].transpose(1, 2, 0)).save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
