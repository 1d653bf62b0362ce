"""The README's picture of the demo: the top of its page, as chromium shows it.

python docs/picture.py runs/demo/page.html docs/images/demo.png
"""

import argparse
import subprocess
import tempfile
from pathlib import Path


def main() -> None:
    """Take the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1100)
    parser.add_argument("--height", type=int, default=1430)
    parser.add_argument("--browser", default="chromium")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        flags += [f"--window-size={options.width},{options.height}", f"--screenshot={options.picture.absolute()}"]
        subprocess.run([options.browser, *flags, options.page.absolute().as_uri()], check=True)


if __name__ == "__main__":
    main()
