"""What a caller may see of a failure."""

import os

from clave_common.errors import ClaveError
from clave_common.logs import get_logger

_log = get_logger(__name__)


def as_refusal(error: Exception, *, model: str) -> ClaveError:
    """Turn any failure into what a caller may see; the unexpected is logged once and leaves only its id."""
    if isinstance(error, ClaveError):
        return error
    error_id = f"err_{os.urandom(8).hex()}"
    _log.error("prediction_failed", error_id=error_id, model=model[:100], exc_info=error)
    return ClaveError(f"Something failed inside the service; its log tells more under {error_id}.", error_id=error_id)
