"""Take the pictures of the README and the site from the demo's two pages, with headless chromium and chromedriver.

ardor demo --page && python docs/pictures.py [NAME.png ...]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
IMAGES, DEMO = ROOT / "docs" / "images", ROOT / "runs" / "demo"
sys.path.insert(0, str(ROOT))


def demo(window: Any, path: Path) -> None:
    """The top of the demo's page: what falls and what stands, and accuracy by labels."""
    window.size(1100, 1430)
    window.go(DEMO / "page.html")
    window.shot(path)


def draw(window: Any, path: Path) -> None:
    """A drawn three, moved by as much as the slider's middle."""
    from tests.demo.test_canvas import draw as draw_digit
    from tests.demo.test_canvas import slide, until

    window.size(1200, 960)
    window.go(DEMO / "draw.html")
    until(lambda: window.text("#numbers"))
    draw_digit(window, "three", "mouse")
    slide(window, 0.15)
    window.shot(path)


PICTURES = {"demo.png": demo, "draw.png": draw}
"""Every picture of the README and the pages, and what makes it."""


def main(names: list[str]) -> None:
    """Take the named pictures, or all."""
    from tests.browser import browser

    with tempfile.TemporaryDirectory() as folder, browser(Path(folder)) as window:
        window.call("POST", "/goog/cdp/execute", {"cmd": "Emulation.setScrollbarsHidden", "params": {"hidden": True}})
        for name in names or PICTURES:
            PICTURES[name](window, IMAGES / name)


if __name__ == "__main__":
    main(sys.argv[1:])
