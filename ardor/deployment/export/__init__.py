"""A net as an ONNX, torch.export or ExecuTorch file, compared with the net before anything is written."""

from ardor.deployment.export.formats import Exported, export

__all__ = ["Exported", "export"]
