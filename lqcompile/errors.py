"""Errors that lqcompile raises on purpose.

Every message is one line that names the subject, what was found, what was expected and what to do. The command line
prints the message without a traceback and exits with `exit_code`.
"""


class LQCompileError(Exception):
    """Base of every error that lqcompile raises on purpose."""

    exit_code = 1


class EncodingError(LQCompileError, ValueError):
    """Codes, bases, levels or planes that do not fit together."""


class QuantizationError(LQCompileError, ValueError):
    """A module or a request that the training front-end cannot quantize."""


class TrainingError(LQCompileError):
    """A recipe, a data set, a checkpoint or a run that training cannot go on with."""


class ModelError(LQCompileError):
    """An ONNX file that is unreadable, or that violates the contract."""


class UnsupportedError(ModelError):
    """A valid model that uses something lqcompile does not compile."""


class TargetError(LQCompileError):
    """An unknown target, or one that the requested kernel or machine cannot serve."""


class BuildError(LQCompileError):
    """A model that could not be compiled, or an artifact that could not be written."""


class ArtifactError(LQCompileError):
    """An artifact that is damaged, or that does not fit this machine or version."""


class InputError(LQCompileError, ValueError):
    """An input array with a wrong name, shape, dtype or content."""


class VerificationError(LQCompileError):
    """The compiled model is not equal to the reference."""


class DeviceError(LQCompileError):
    """A board that cannot be reached, does not answer in time, or does not do what it is asked for."""


class TuningError(LQCompileError):
    """Tuning that cannot go on, or records of it that cannot be used."""
