"""Made-up photographs: JPEG files of many sizes whose class is a colour, a shape and a texture."""

import colorsys
import math

import numpy as np
from PIL import Image, ImageDraw

PARTS = {"train": 0.8, "test": 0.2}


def draw(folder, n, classes, seed=0, sizes=(256, 500), parts=PARTS):
    """Write n JPEG files, classes in turn; an image depends on seed and its number alone.

    Parameters
    ----------
    folder : Path
        Made where it is absent; files are FOLDER/PART/class_03/000123.jpg.
    n, classes, seed : int
        Number of images and of classes; seed of what is drawn.
    sizes : (int, int)
        Smallest and largest side in pixels; width and height are drawn apart.
    parts : mapping
        Part to its share of every class; empty for FOLDER/CLASS/000123.jpg.
    """
    bounds = np.cumsum([*parts.values()])
    for i in range(n):
        label, rank = i % classes, i // classes
        part = ""
        if parts:
            share = (rank + 0.5) * classes / n
            part = [*parts][min(int((share > bounds).sum()), len(parts) - 1)]
        place = folder / part / f"class_{label:02d}"
        place.mkdir(parents=True, exist_ok=True)
        photograph(label, classes, np.random.default_rng([seed, i]), sizes).save(place / f"{i:06d}.jpg", quality=85)


def photograph(label, classes, rng, sizes):
    """An RGB image: a shape with stripes before a background with noise."""
    width, height = (int(v) for v in rng.integers(sizes[0], sizes[1] + 1, 2))
    hue = label / classes + rng.uniform(-0.2, 0.2) / classes
    colour = tuple(int(255 * v) for v in colorsys.hsv_to_rgb(hue % 1, 0.8, rng.uniform(0.6, 1)))
    image = Image.new("RGB", (width, height), tuple(int(v) for v in rng.integers(60, 200, 3)))
    shape = Image.new("L", (width, height))
    radius = min(width, height) * rng.uniform(0.3, 0.45)
    centre = width * rng.uniform(0.4, 0.6), height * rng.uniform(0.4, 0.6)
    corners = (40, 3, 4, 5)[label % 4]
    start = rng.uniform(0, 2 * math.pi)
    turns = [start + 2 * math.pi * corner / corners for corner in range(corners)]
    points = [(centre[0] + radius * math.cos(turn), centre[1] + radius * math.sin(turn)) for turn in turns]
    ImageDraw.Draw(shape).polygon(points, fill=255)
    _stripe(image, shape, colour, label // 4 % 5)
    noise = rng.integers(-8, 9, (height // 4 + 1, width // 4 + 1), np.int16).repeat(4, 0).repeat(4, 1)
    pixels = np.asarray(image, np.int16) + noise[:height, :width, None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _stripe(image, shape, colour, kind):
    """Fill the shape with a colour and, but for kind 0, white stripes of a width and direction."""
    image.paste(colour, mask=shape)
    if not kind:
        return
    width, height = image.size
    across, down = np.arange(width)[None], np.arange(height)[:, None]
    position = (across, down, across + down, across - down)[kind - 1]
    stripes = np.broadcast_to(position // (max(image.size) // 12) % 2 * 255, (height, width)).astype(np.uint8)
    image.paste((235, 235, 235), mask=Image.fromarray(np.minimum(np.asarray(shape), stripes)))
