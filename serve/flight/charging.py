"""`charge`: the charge of a Flight call's texts to its client."""

from __future__ import annotations

from ..access.permit import Permit
from ..engine.embed_request import EmbedRequest
from ..engine.price import charged_tokens
from ..models.version import ModelVersion

__all__ = ["charge"]


def charge(permit: Permit | None, request: EmbedRequest, version: ModelVersion) -> float:
    """Check that the client may use the model, and charge the estimated tokens of a request or of a part of a stream.

    Args:
        permit: use of the client's limits, or None if it has none.
        request: the request.
        version: version of the model that answers.

    Returns:
        Seconds for which a part of a stream waits before it is submitted; 0 for a request.

    Raises:
        ForbiddenError: the client's key is for other models.
        RateLimitError: the client is over a limit.
    """
    if permit is None:
        return 0.0
    permit.check_model(version.spec.name)
    tokens = charged_tokens(request, version.info)
    if request.terms.stream:
        return permit.pace(tokens)
    permit.spend(tokens)
    return 0.0
