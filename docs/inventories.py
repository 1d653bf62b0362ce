"""Inventories of what our pages link to in other projects, for builds without a network.

Sphinx reads a project's whole inventory from its site; ours has the few names that occur here, with their addresses.
"""

from __future__ import annotations

import zlib
from pathlib import Path

PROJECTS = {
    "python": "https://docs.python.org/3/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "numpy": "https://numpy.org/doc/stable/",
}

NAMES = {
    "python": """
        ValueError py:exception library/exceptions.html#ValueError
    """,
    "torch": """
        torch.Size py:class size.html#torch.Size
        torch.Tensor py:class tensors.html#torch.Tensor
        torch.device py:class tensor_attributes.html#torch.device
        torch.dtype py:class tensor_attributes.html#torch.dtype
        torch.nn.Module py:class generated/torch.nn.Module.html#torch.nn.Module
        torch.nn.modules.module.Module py:class generated/torch.nn.Module.html#torch.nn.Module
        torch.nn.parameter.Parameter py:class generated/torch.nn.parameter.Parameter.html#torch.nn.parameter.Parameter
        torch.optim.optimizer.Optimizer py:class optim.html#torch.optim.Optimizer
    """,
    "numpy": """
        numpy.dtype py:class reference/generated/numpy.dtype.html#numpy.dtype
        numpy.generic py:class reference/arrays.scalars.html#numpy.generic
        numpy.ndarray py:class reference/generated/numpy.ndarray.html#numpy.ndarray
        numpy.uint8 py:class reference/arrays.scalars.html#numpy.uint8
    """,
}
"""Name, role and address of each, in Sphinx's order."""


def write_inventories(folder: Path) -> None:
    """Write PROJECT.inv for each project, in version 2 of Sphinx's format."""
    folder.mkdir(exist_ok=True)
    for project, text in NAMES.items():
        rows = (line.split() for line in text.strip().splitlines())
        lines = "".join(f"{name} {role} 1 {address} -\n" for name, role, address in rows)
        head = (
            f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n# The remainder is compressed by zlib.\n"
        )
        (folder / f"{project}.inv").write_bytes(head.encode() + zlib.compress(lines.encode()))
