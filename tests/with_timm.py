"""timm beside a torch that its torchvision was not compiled for, such as the CPU build of another index.

torchvision's compiled part does not load there, and its import fails at the first operator that is looked up. Declared
without a kernel, the operators satisfy the import; timm calls neither. `python -m tests.with_timm WORDS...` is
`ardor WORDS...` with them.
"""

import sys

import torch

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared = []  # a library's operators end with it


def declare():
    """Declare the operators where torchvision does not import without them."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        if not _declared:
            _declared.append(torch.library.Library("torchvision", "DEF"))
            for operator in OPERATORS:
                _declared[0].define(operator)
    except ImportError:
        pass


if __name__ == "__main__":
    declare()
    from ardor.cli.main import main

    sys.exit(main())
