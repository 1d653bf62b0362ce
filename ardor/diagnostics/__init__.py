"""Whether figures can be believed: `examine` a net, and in `teacher` whether a teacher matches its record."""

from ardor.diagnostics.doctor import Examination, examine

__all__ = ["Examination", "examine"]
