"""The root of Fletcher's error tree, and the errors of finding a model. The whole tree: `fletcher.runtime.errors`."""


class FletcherError(Exception):
    """Something a user can act on: the message says what was asked, what was found, and what to do next."""


class CardError(FletcherError):
    """A model card is malformed, or no card has the name that was asked for."""


class SourceError(FletcherError):
    """A model's files could not be fetched, are incomplete, or are of a kind that is refused (a pickle)."""


class ChecksumError(SourceError):
    """A file's sha256 is not the one that the card, the manifest or the first download recorded."""
