"""`AdminAction`: a change of the models by an operator, with log lines that say who made it and how it ended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fletcher.runtime.errors import FletcherError, InputError, ServiceError

from ..errors import FieldError

__all__ = ["AdminAction"]

logger = logging.getLogger("fletcher.serve.admin")


@dataclass(frozen=True, slots=True)
class AdminAction:
    """A change by an operator.

    Attributes:
        change: `load`, `unload` or `share`.
        subject: model or folder.
        who: id of the request, name of the key and address of the caller.
    """

    change: str
    subject: str
    who: Mapping[str, str]

    def run(self, work: Callable[[], None]) -> None:
        """Make the change.

        Raises:
            InputError, ServiceError: the change failed.
        """
        fields = {"change": self.change, "subject": self.subject, **self.who}
        logger.info("admin", extra={"fields": fields})
        try:
            work()
        except FletcherError as error:
            failure = {"error": type(error).__name__, "reason": str(error)}
            logger.warning("admin change failed", extra={"fields": fields | failure})
            if isinstance(error, InputError | ServiceError):
                raise
            # The artifact cannot be served. The client is the operator, who needs the message to repair the artifact.
            raise FieldError(str(error), "path") from error
        logger.info("admin change done", extra={"fields": fields})
