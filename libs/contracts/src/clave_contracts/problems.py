"""The error that every typed client raises: the service's own problem document."""

from typing import Any

import httpx

_OK = 300


class ServiceProblem(Exception):
    """A service refused or failed.

    Attributes:
        status: HTTP status, 0 when no answer came.
        problem: The RFC 9457 document (``code``, ``detail`` and facts), empty when there was none.
    """

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or f"status {status}"))
        self.status = status
        self.problem = problem

    @property
    def code(self) -> str:
        """Stable name of the refusal, ``unreachable`` when no answer came."""
        return str(self.problem.get("code", "unknown"))


def unreachable(error: httpx.TransportError, base_url: str) -> ServiceProblem:
    """Describe a call that got no answer."""
    why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return ServiceProblem(0, {"code": "unreachable", "detail": f"{base_url} does not answer ({why})."})


def checked(response: httpx.Response) -> httpx.Response:
    """Return a success; raise `ServiceProblem` for anything else."""
    if response.status_code < _OK or response.status_code == httpx.codes.NOT_MODIFIED:
        return response
    try:
        body = response.json()
    except ValueError:
        body = {"detail": response.text[:500]}
    raise ServiceProblem(response.status_code, body if isinstance(body, dict) else {"detail": str(body)})
