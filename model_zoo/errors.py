"""Root of Fletcher's error tree, and the errors of cards and sources. The whole tree is in `fletcher.runtime.errors`."""


class FletcherError(Exception):
    """Error that a user can act on: the message contains the request, the cause, and the next step."""


class CardError(FletcherError):
    """Error of a malformed model card, or of a name that no card has."""


class SourceError(FletcherError):
    """Error of a model's files that cannot be fetched, are incomplete, or are in another format."""


class ChecksumError(SourceError):
    """Error of a file whose sha256 differs from that of the card, the manifest or the first download."""


class UnreachableError(SourceError):
    """Error of a server that does not answer, or not completely, after several attempts. A later attempt may succeed."""


class RefusedError(SourceError):
    """Error of a server that refuses access to files: credentials are missing, wrong or expired, or do not suffice."""
