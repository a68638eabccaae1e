"""Typed errors: one class for each broken rule.

Every message says what is wrong, where (node and source line) and what to do. `at` adds the place
to an error raised by code that only knew what was wrong; `within` adds what surrounds that place.
"""

from typing import Self


class GraphError(Exception):
    """Base of every error that Gradfleet raises on purpose."""

    def at(self, where: str) -> Self:
        """The same error with the place appended; a place that is already there is kept."""
        message = str(self.args[0]) if self.args else ""
        if "\n  at " in message:
            return self
        self.args = (f"{message}\n  at {where}", *self.args[1:])
        return self

    def within(self, what: str) -> Self:
        """The same error with what surrounds its place appended: the step of a scan, then the scan."""
        message = str(self.args[0]) if self.args else ""
        if not message.endswith(what):
            self.args = (f"{message}\n  in {what}", *self.args[1:])
        return self


class ShapeError(GraphError):
    """Shapes, ranks, axes or dimension sizes do not fit."""


class DTypeError(GraphError):
    """Data types do not fit an operation."""


class AttributeValueError(GraphError):
    """An operation's attribute is missing, surplus or out of its range."""


class UnknownOpError(GraphError):
    """A graph names an operation that this version does not have."""


class DisconnectedError(GraphError):
    """A derivative was asked for along a path that does not exist or is not differentiable."""


class InvariantError(GraphError):
    """A graph breaks an invariant of the intermediate representation."""


class FormatError(GraphError):
    """Bytes are not a valid file of the format they claim."""


class BindError(FormatError):
    """A shape of an ONNX model depends on the value of an input; `inputs` names those to fix with `bind`."""

    def __init__(self, message: str, inputs: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.inputs = inputs


class MissingExtraError(GraphError):
    """A library that belongs to an optional extra is not installed."""


class LimitError(GraphError):
    """Something is larger than the stated limit."""


class QueueFull(LimitError):
    """A service has as many jobs waiting as it takes; the same job may be accepted later."""


class FeedError(GraphError):
    """Values given for a graph's inputs are missing, surplus or of the wrong form."""


class EvaluationError(GraphError):
    """A kernel failed on the values it was given."""


class SingularMatrixError(EvaluationError):
    """A matrix has no inverse, or no factors of the kind asked for."""


class NonFiniteError(GraphError):
    """A NaN or an infinity appeared where `check_finite=True` forbids it."""


class DatasetError(GraphError):
    """A dataset cannot be read as asked."""


class DatasetUnavailable(DatasetError):
    """A dataset's storage does not answer; it may do so later."""


class PlanError(GraphError):
    """A graph cannot be partitioned or planned as asked."""


class JobFailed(GraphError):
    """A job ended without a result; the message carries the cause."""


class JobCancelled(GraphError):
    """A job was cancelled before it had a result."""


class ServiceUnavailable(GraphError):
    """The service cannot be reached or cannot be started."""


class Unauthorized(GraphError):
    """The service does not accept the caller's credentials."""


class VersionError(ServiceUnavailable):
    """A worker runs another version of Gradfleet than the service."""


class FingerprintError(GraphError):
    """Workers compute with different kernels, and the job asks for results with the same bits."""
