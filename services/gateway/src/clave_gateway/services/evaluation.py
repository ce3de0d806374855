"""AuthZEN's questions: would this subject be allowed? Nothing is done and nothing is cached.

Everybody with `access:evaluate` may ask about themselves; asking about others needs `admin:binding.list` in their
tenant too. Roles and groups come from the gateway, whatever the question claims.
"""

import time
from collections.abc import Mapping
from typing import Any

from clave_common.access.decision_point import decision_from
from clave_common.access.enforcement import Access
from clave_common.access.engine import PolicyEngine
from clave_common.access.model import Caller, Decision, Resource
from clave_common.database import Database

from clave_gateway.storage import identity
from clave_gateway.storage.identity import PrincipalRow

_METHODS = {"user": "oidc", "service_account": "api_key", "app": "api_key", "service": "internal_jwt"}
_HYPOTHETICAL_S = 60.0


class EvaluationService:
    """Answers hypothetical questions."""

    def __init__(self, database: Database, access: Access, engine: PolicyEngine) -> None:
        self._database = database
        self._access = access
        self._engine = engine

    async def evaluate(self, caller: Caller, question: Mapping[str, Any]) -> Decision:
        """Answer one question.

        Raises:
            PermissionDenied: The caller may not ask, or not about this subject.
        """
        own = question["subject"]["id"] == caller.subject_id
        await self._access.require(caller, "access:evaluate", _question_in(caller.tenant))
        principal = None if own else await self._principal(question["subject"]["id"])
        if not own:
            home = principal.tenant if principal else caller.tenant
            await self._access.require(caller, "admin:binding.list", _question_in(home))
        asked = _input(caller, question, own=own, principal=principal)
        return decision_from(await self._engine.decide(asked), self._engine.name)

    async def _principal(self, principal_id: str) -> PrincipalRow | None:
        async with self._database.transaction() as tx:
            return await identity.find_principal(tx.session, principal_id)


def _question_in(tenant: str) -> Resource:
    return Resource("access", "evaluation", {"tenant": tenant})


def _input(caller: Caller, question: Mapping[str, Any], *, own: bool, principal: PrincipalRow | None) -> dict[str, Any]:
    subject, context = question["subject"], question["context"]
    tenant, groups = caller.tenant, list(caller.groups)
    if not own:
        groups = principal.groups if principal else []
        tenant = principal.tenant if principal else caller.tenant
    auth = {
        "method": caller.method if own else _METHODS.get(subject["type"], "api_key"),
        "expires_at": time.time() + _HYPOTHETICAL_S,
        "scopes": list(caller.scopes) if own else ["**"],
        "amr": list(caller.amr) if own else context.get("amr", []),
        "key_id": caller.key_id if own else None,
    }
    properties = {"tenant": caller.tenant, **question["resource"]["properties"]}
    return {
        "subject": {**subject, "properties": {"tenant": tenant, "groups": groups}},
        "action": {"name": question["action"]["name"]},
        "resource": {**question["resource"], "properties": properties},
        "context": {
            **context,
            "time": time.time(),
            "source_ip": context.get("source_ip", caller.source_ip),
            "auth": auth,
        },
    }
