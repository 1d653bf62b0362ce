"""CPU seconds until a command answers, beside torch's own import, interleaved: `python benchmarks/startup.py`.

`ardor --help`, `--version` and a misspelt command must not import torch; `import ardor` with every public name
must cost little beyond it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

PUBLIC = "import torch, ardor; [getattr(ardor, name) for name in ardor.__all__]"
ROWS = {
    "ardor --help": ["-m", "ardor", "--help"],
    "ardor --version": ["-m", "ardor", "--version"],
    "ardor trian": ["-m", "ardor", "trian"],
    "ardor train --help": ["-m", "ardor", "train", "--help"],
    "import ardor": ["-c", "import ardor"],
    "import torch": ["-c", "import torch"],
    "import torch and every public name of ardor": ["-c", PUBLIC],
}


def cpu_seconds(words: list[str]) -> float:
    """User and system seconds of a process."""
    before = os.times()
    subprocess.run([sys.executable, *words], capture_output=True, check=False)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in ROWS}
    for _ in range(rounds):
        for name, words in ROWS.items():
            seconds[name].append(cpu_seconds(words))
    print("| what | CPU seconds, median | least |\n|---|--:|--:|")
    for name, taken in seconds.items():
        print(f"| {name} | {statistics.median(taken):.2f} | {min(taken):.2f} |")


if __name__ == "__main__":
    main()
