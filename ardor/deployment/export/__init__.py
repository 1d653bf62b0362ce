"""A net as an ONNX, torch.export or ExecuTorch file, compared with the net before anything is written."""

from ardor.deployment.export.executorch import Program
from ardor.deployment.export.formats import SUFFIX, Exported, export
from ardor.deployment.export.onnx_session import Session

__all__ = ["SUFFIX", "Exported", "Program", "Session", "export"]
