"""Images of the page as PNG data URIs."""

from __future__ import annotations

import base64
import io

from PIL import Image
from torch import Tensor

from ardor.reporting.entry import Example


def factor(examples: list[Example]) -> int:
    """The factor for perturbations with which the largest just fills the range around mid grey."""
    sizes = [float((adv - e.clean).abs().max()) for e in examples for adv in e.adversarial.values()]
    largest = max(sizes, default=0.0)
    return max(1, int(0.5 / largest + 0.01)) if largest else 1


def png(image: Tensor) -> str:
    """A (C, H, W) image in [0, 1], or clamped to it, as a data URI: grey, or RGB of the first three channels."""
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().byte().numpy()
    out = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) < 3 else pixels[:3].transpose(1, 2, 0)).save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
