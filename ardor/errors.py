"""The errors that ardor raises: each message has what was expected, what was given and what to type.

ArdorError
├── ConfigError
├── DataError
├── ThreatError
├── ModelError
├── CheckpointError
├── RunError
├── ExportError
└── DivergedError
"""

from __future__ import annotations


def shown(text: object, most: int = 80) -> str:
    """Text from a file for a message: without control characters, and cut."""
    plain = "".join(c if c.isprintable() else "?" for c in str(text)[: most + 1])
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."


class ArdorError(Exception):
    """Base class of all errors below."""


class ConfigError(ArdorError):
    """A name, key or value in a recipe or on the command line does not exist or does not fit."""


class DataError(ArdorError):
    """Images, labels, a split or an archive are of another shape, type, range or content than expected."""


class ThreatError(ArdorError):
    """A radius, norm or parameter of an attack is out of range."""


class ModelError(ArdorError):
    """A net does not fit the data, the teacher or the contract of a model (images in [0, 1] to logits)."""


class CheckpointError(ArdorError):
    """A file of weights is truncated, in another format, pickled, or of another net."""


class RunError(ArdorError):
    """A run folder cannot be used: not writable, full, or of another run."""


class ExportError(ArdorError):
    """A net cannot be exported, or the logits of the exported file differ from the net's."""


class DivergedError(ArdorError):
    """A loss, gradient, weight or statistic of a training is not finite. What is saved is of the last finite epoch."""
