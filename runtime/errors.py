"""Fletcher's error tree. Exceptions of other libraries are translated into it once, where they arise.

FletcherError
├── CardError                a model card is malformed or unknown
├── SourceError              a model's files cannot be fetched or are rejected
│   ├── ChecksumError        a file differs from its published checksum
│   ├── RefusedError         a server with files refuses access
│   └── UnreachableError     a server with files does not answer
├── CheckpointError          a checkpoint cannot be converted without guessing
├── ArtifactError            an artifact folder is missing, damaged, of another format version, or being written
│   ├── CanaryError          a session does not reproduce the artifact's reference vectors
│   └── SignatureError       an artifact does not have the signature that is required
├── MissingPackageError      an optional package is not installed; the message names the extra
├── ProviderError            an execution provider cannot run this graph on this machine
│   ├── DeviceMemoryError    a device does not have enough free memory
│   ├── DeviceLostError      a device failed permanently; its sessions cannot be used any more
│   └── NotFiniteError       a session gave NaN or infinity for some rows of a batch; has their numbers
├── InputError               texts, token ids, files or options cannot be used
│   ├── OptionError          an option is not allowed or the model does not have it; has the option's name
│   └── TooLongError         a text is longer than the model's longest input, and must not be cut
├── VerificationError        an artifact does not reproduce the reference model
└── ServiceError             the server cannot answer now
    ├── RetryError           the server will answer later; has the number of seconds after which to retry
    │   ├── OverloadedError  the queue is full
    │   └── FailingError     the model's device fails
    ├── DeadlineError        the request's deadline passed before it was computed
    └── StoppingError        the server is stopping and admits no more requests
"""

from collections.abc import Sequence

from fletcher.model_zoo.errors import (
    CardError,
    ChecksumError,
    FletcherError,
    RefusedError,
    SourceError,
    UnreachableError,
)

__all__ = [
    "ArtifactError",
    "CanaryError",
    "CardError",
    "CheckpointError",
    "ChecksumError",
    "DeadlineError",
    "DeviceLostError",
    "DeviceMemoryError",
    "FailingError",
    "FletcherError",
    "InputError",
    "MissingPackageError",
    "NotFiniteError",
    "OptionError",
    "OverloadedError",
    "ProviderError",
    "RefusedError",
    "RetryError",
    "ServiceError",
    "SignatureError",
    "SourceError",
    "StoppingError",
    "TooLongError",
    "UnreachableError",
    "VerificationError",
]


class CheckpointError(FletcherError):
    """A checkpoint has an architecture, configuration or tensors for which Fletcher cannot write an exact graph."""


class ArtifactError(FletcherError):
    """An artifact folder is missing, damaged, of another format version, or being written by another process."""


class CanaryError(ArtifactError):
    """A session does not reproduce the artifact's canary, so it must not be used."""


class SignatureError(ArtifactError):
    """An artifact does not have the signature that is required, or its files are not those that were signed."""


class MissingPackageError(FletcherError):
    """An optional package is needed and not installed.

    Attributes:
        package: name of the missing package.
        extra: Fletcher's extra that installs it.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed: pip install 'longbow-fletcher[{extra}]'"
        )
        self.package = package
        self.extra = extra


class ProviderError(FletcherError):
    """An execution provider is not available on this machine, or cannot run the graph on the requested device."""


class DeviceMemoryError(ProviderError):
    """A device does not have enough free memory to load a graph or to compute a batch."""


class DeviceLostError(ProviderError):
    """A device does not answer or failed permanently; its sessions cannot be used any more."""


class NotFiniteError(ProviderError):
    """A session gave NaN or infinity for some rows of a batch. The device works: the rows are the reason.

    Attributes:
        rows: numbers of these rows in the batch, ascending, at least one.
    """

    def __init__(self, rows: Sequence[int], message: str) -> None:
        super().__init__(message)
        self.rows = tuple(rows)


class InputError(FletcherError):
    """Texts, token ids, files or options cannot be used.

    Attributes:
        field: name of the field or option that cannot be used; None if the error does not name one.
    """

    field: str | None = None


class OptionError(InputError):
    """An option has a value that is not allowed, or the model does not have it.

    Attributes:
        field: name of the option.
    """

    field: str

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class TooLongError(InputError):
    """A text is longer than the model's longest input, and the request says that it must not be cut."""


class VerificationError(FletcherError):
    """The artifact's vectors differ from those of the reference model by more than the tolerance."""


class ServiceError(FletcherError):
    """The server cannot answer this request now."""


class RetryError(ServiceError):
    """The server cannot answer now, and knows when a retry may succeed.

    Attributes:
        retry_after: seconds after which a retry may succeed.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OverloadedError(RetryError):
    """The queue is full."""


class DeadlineError(ServiceError):
    """The request's deadline passed before it was computed."""


class FailingError(RetryError):
    """The model's device fails or does not answer, so requests are rejected until it recovers."""


class StoppingError(ServiceError):
    """The server is stopping: it answers the requests that it admitted, and admits no more."""
