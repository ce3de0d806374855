"""What a request says about itself: routing key, time-out, the wish for an explanation."""

from typing import Any, Final

from clave_inference.domain.errors import InvalidInferRequest
from clave_inference.services.call import Call

_TIMEOUT_US_MAX: Final = 600e6
_ROUTING_KEY_CHARACTERS_MAX: Final = 512


def read_parameters(call: Call, parameters: dict[str, Any]) -> None:
    """Take over what the request says about itself.

    Raises:
        InvalidInferRequest: The time-out, the routing key or the wish for an explanation makes no sense.
    """
    key = parameters.get("routing_key")
    if key is not None:
        call.routing_key = str(key)
        if len(call.routing_key) > _ROUTING_KEY_CHARACTERS_MAX:
            raise InvalidInferRequest(
                "parameters.routing_key", f"is longer than {_ROUTING_KEY_CHARACTERS_MAX} characters."
            )
    explain = parameters.get("explain", False)
    if not isinstance(explain, bool):
        raise InvalidInferRequest("parameters.explain", "is neither true nor false.")
    call.wants_explanation = explain
    timeout = parameters.get("timeout")
    if timeout is not None:
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= _TIMEOUT_US_MAX:
            raise InvalidInferRequest(
                "parameters.timeout", "is not a number of microseconds.", "Send more than 0, at most 600 s."
            )
        deadline = call.began + timeout / 1e6
        call.deadline = deadline if call.deadline is None else min(deadline, call.deadline)
