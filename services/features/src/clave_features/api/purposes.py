"""Asks the policy whether a caller may read certain features, for the purpose it states.

A feature of a view that declares purposes is classified ``pii``: the policy wants a matching purpose, which the
caller states in ``x-clave-purpose``. Features of other views are ``internal``.
"""

from collections.abc import Sequence

from clave_common.access import Caller, Resource
from clave_common.access.enforcement import access_of
from fastapi import Request

from clave_features.domain.definitions import FeatureRef, Repository

PURPOSE_HEADER = "x-clave-purpose"


async def require_features(
    request: Request, caller: Caller, action: str, resource: str, repository: Repository, refs: Sequence[FeatureRef]
) -> None:
    """Insist on an allow for reading these features.

    Raises:
        PermissionDenied: The policy said no.
    """
    features = []
    for ref in refs:
        purposes = list(repository.view(ref.view).purposes)
        kind = "pii" if purposes else "internal"
        features.append({"name": ref.column, "classification": kind, "purposes": purposes})
    asked = Resource("features", resource, {"tenant": caller.tenant, "features": features})
    purpose = request.headers.get(PURPOSE_HEADER)
    context = {"purpose": purpose} if purpose else {}
    await access_of(request.app).require(caller, action, asked, **context)
