"""Asks the policy whether a caller may read certain features, for the purpose it states.

A feature of a view that declares purposes is classified ``pii``: the policy wants a matching purpose. A feature
service has stated its own when it was applied; another one, or one for single features, comes in ``clave-purpose``.
Features of other views are ``internal``; those of a view that is gone have no classification and are withheld.
Whoever sends ``clave-on-withheld: mask`` gets an online read without what is withheld instead of a refusal. Services
say the same with ``x-`` before; the edge strips such names from what strangers send.
"""

from collections.abc import Sequence
from typing import Any

from clave_common.access import Caller, Resource
from clave_common.access.enforcement import access_of
from fastapi import Request

from clave_features.domain.definitions import FeatureRef, Repository
from clave_features.domain.errors import ViewNotFound

PURPOSE_HEADER = "clave-purpose"
WITHHELD_HEADER = "clave-on-withheld"
MASKED_HEADER = "x-clave-masked"


async def require_features(
    request: Request,
    caller: Caller,
    action: str,
    resource: str,
    repository: Repository,
    refs: Sequence[FeatureRef],
    *,
    service: str | None,
) -> tuple[str, ...]:
    """Insist on an allow for reading these features.

    Args:
        request: Where the caller may have stated a purpose.
        caller: Who asks.
        action: From the catalogue.
        resource: Canonical path of what is read.
        repository: The definitions in force.
        refs: Everything that will be read.
        service: Feature service whose purpose counts when the request states none.

    Returns:
        Columns to leave out of the answer.

    Raises:
        PermissionDenied: The policy said no.
    """
    features = [_described(ref, repository) for ref in refs]
    asked = Resource("features", resource, {"tenant": caller.tenant, "features": features})
    stated = _stated(request, PURPOSE_HEADER)
    purpose = stated or (repository.service(service).purpose if service is not None else None)
    context = {"purpose": purpose} if purpose else {}
    if _stated(request, WITHHELD_HEADER) == "mask":
        context["on_withheld"] = "mask"
    decision = await access_of(request.app).require(caller, action, asked, **context)
    return decision.mask


def _stated(request: Request, header: str) -> str | None:
    return request.headers.get(header) or request.headers.get(f"x-{header}")


def _described(ref: FeatureRef, repository: Repository) -> dict[str, Any]:
    try:
        purposes = list(repository.view(ref.view).purposes)
    except ViewNotFound:
        return {"name": ref.column}
    return {"name": ref.column, "classification": "pii" if purposes else "internal", "purposes": purposes}
