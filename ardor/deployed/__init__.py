"""deployed: a net and the files that a device would run, side by side: what each weighs, takes, and withstands.

`make.deploy` compares any net with its files, `runs` does it for the folder of a run: see docs/deployed.md.
"""

from ardor.deployed.comparison import FORMS, Deployed, Form
from ardor.deployed.latency import Latency, latencies

__all__ = ["FORMS", "Deployed", "Form", "Latency", "latencies"]
