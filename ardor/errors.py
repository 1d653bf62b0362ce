"""Every error ardor raises on purpose: one sentence that says what was expected, what came and what to type.

ArdorError
├── ConfigError       a name, key or value in a recipe or on the command line does not exist or does not fit
├── DataError         images, labels, splits or archives that are not what they must be
├── ThreatError       a radius or a norm that cannot be meant
├── ModelError        a net that does not fit the data, the teacher or the contract of DESIGN section 5
├── CheckpointError   a file of weights that is truncated, foreign, pickled, or made for another net
├── RunError          a run folder that cannot be used: unwritable, full, or holding another run
├── ExportError       a net that cannot be exported, or whose exported file does not answer as it does
└── DivergedError     training produced a loss that is not finite
"""

from __future__ import annotations


class ArdorError(Exception):
    """The root: catch this to catch everything that ardor refuses."""


class ConfigError(ArdorError):
    """A name, key or value in a recipe or on the command line does not exist or does not fit."""


class DataError(ArdorError):
    """Images, labels, splits or archives are not what they must be."""


class ThreatError(ArdorError):
    """A radius or a norm cannot be meant."""


class ModelError(ArdorError):
    """A net does not fit the data, the teacher or the contract of a model."""


class CheckpointError(ArdorError):
    """A file of weights is truncated, foreign, pickled, or made for another net."""


class RunError(ArdorError):
    """A run folder cannot be used: unwritable, full, or holding another run."""


class ExportError(ArdorError):
    """A net cannot be exported, or its exported file does not answer as the net does."""


class DivergedError(ArdorError):
    """Training produced a loss that is not finite; the weights were not touched by it."""
