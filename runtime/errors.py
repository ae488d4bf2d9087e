"""Fletcher's error tree. Third-party exceptions are translated into it once, at the boundary where they arise.

FletcherError
├── CardError                a model card is malformed or unknown
├── SourceError              a model's files cannot be fetched or are refused
│   └── ChecksumError        a file is not the one that was published
├── CheckpointError          a checkpoint that cannot be converted without guessing
├── ArtifactError            an artifact folder is missing, damaged, of another version, or being written
│   └── CanaryError          a session does not reproduce the artifact's reference vectors
├── MissingPackageError      an optional package is not installed; names the extra
├── ProviderError            an execution provider cannot run this graph on this machine
│   ├── DeviceMemoryError    a device has not enough free memory for what was asked of it
│   └── DeviceLostError      a device failed for good; its sessions are of no use any more
├── InputError               texts, token ids, files or options that cannot be used as given
│   ├── OptionError          an option that the model does not have; carries its name
│   └── TooLongError         a text is longer than the model's longest input, and must not be cut
├── VerificationError        an artifact does not reproduce the reference model
└── ServiceError             the server cannot answer now
    ├── OverloadedError      the queue is full; carries the seconds after which to retry
    ├── DeadlineError        the request's deadline passed before it was computed
    ├── FailingError         the model's device fails; carries the seconds after which to retry
    └── StoppingError        the server is stopping and admits nothing more
"""

from fletcher.model_zoo.errors import CardError, ChecksumError, FletcherError, SourceError

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
    "OptionError",
    "OverloadedError",
    "ProviderError",
    "ServiceError",
    "SourceError",
    "StoppingError",
    "TooLongError",
    "VerificationError",
]


class CheckpointError(FletcherError):
    """A checkpoint whose architecture, configuration or tensors Fletcher does not author exactly."""


class ArtifactError(FletcherError):
    """An artifact folder is missing, damaged, of an unknown format version, or being written by somebody else."""


class CanaryError(ArtifactError):
    """A session does not reproduce the artifact's canary: it must not serve."""


class MissingPackageError(FletcherError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed: pip install 'longbow-fletcher[{extra}]'"
        )
        self.package = package
        self.extra = extra


class ProviderError(FletcherError):
    """An execution provider is not available here, or would not run the graph where it was asked to."""


class DeviceMemoryError(ProviderError):
    """A device has not enough free memory for what was asked of it."""


class DeviceLostError(ProviderError):
    """A device stopped answering or failed for good; its sessions are of no use any more."""


class InputError(FletcherError):
    """Texts, token ids, files or options that cannot be used as given."""


class OptionError(InputError):
    """An option that the model does not have.

    Attributes:
        field: its name.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class TooLongError(InputError):
    """A text is longer than the model's longest input, and the request says that it must not be cut."""


class VerificationError(FletcherError):
    """The artifact's vectors are not those of the reference model."""


class ServiceError(FletcherError):
    """The server cannot answer this request now."""


class OverloadedError(ServiceError):
    """The queue is full.

    Attributes:
        retry_after: seconds after which a retry has a chance.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(ServiceError):
    """The request's deadline passed before it was computed."""


class FailingError(ServiceError):
    """The model's device fails or does not answer: requests are refused until it has recovered.

    Attributes:
        retry_after: seconds after which to try again.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StoppingError(ServiceError):
    """The server is stopping: what was admitted is answered, nothing more is admitted."""
