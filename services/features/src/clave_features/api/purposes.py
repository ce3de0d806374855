"""Asks the policy whether a caller may read certain features, for the purpose it states.

A feature of a view that declares purposes is classified ``pii``: the policy wants a matching purpose. A feature
service has stated its own when it was applied; another one, or one for single features, comes in ``x-clave-purpose``.
Features of other views are ``internal``.
"""

from collections.abc import Sequence

from clave_common.access import Caller, Resource
from clave_common.access.enforcement import access_of
from fastapi import Request

from clave_features.domain.definitions import FeatureRef, Repository

PURPOSE_HEADER = "x-clave-purpose"


async def require_features(
    request: Request,
    caller: Caller,
    action: str,
    resource: str,
    repository: Repository,
    refs: Sequence[FeatureRef],
    *,
    service: str | None,
) -> None:
    """Insist on an allow for reading these features.

    Args:
        request: Where the caller may have stated a purpose.
        caller: Who asks.
        action: From the catalogue.
        resource: Canonical path of what is read.
        repository: The definitions in force.
        refs: Everything that will be read.
        service: Feature service whose purpose counts when the request states none.

    Raises:
        PermissionDenied: The policy said no.
    """
    features = []
    for ref in refs:
        purposes = list(repository.view(ref.view).purposes)
        kind = "pii" if purposes else "internal"
        features.append({"name": ref.column, "classification": kind, "purposes": purposes})
    asked = Resource("features", resource, {"tenant": caller.tenant, "features": features})
    stated = request.headers.get(PURPOSE_HEADER)
    purpose = stated or (repository.service(service).purpose if service is not None else None)
    context = {"purpose": purpose} if purpose else {}
    await access_of(request.app).require(caller, action, asked, **context)
