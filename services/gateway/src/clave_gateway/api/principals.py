"""Routes on principals, groups, roles and the caller."""

from datetime import UTC, datetime
from typing import Annotated, Any

from clave_common.access import Caller, governed
from clave_common.access.enforcement import Access
from clave_common.pages import PageSize
from clave_common.pages import page_size as bounded
from clave_contracts.gateway import API, WhoAmI
from clave_contracts.schema import Answer, Request
from fastapi import APIRouter, Path
from pydantic import Field, StringConstraints
from starlette.responses import Response

from clave_gateway.domain.roles import permissions_of, role_closure
from clave_gateway.services.principals import PrincipalService
from clave_gateway.storage.identity import PrincipalRow

_PRINCIPAL = r"^(user|service_account|app):[A-Za-z0-9_][A-Za-z0-9_.@-]{0,99}$"
_GROUP = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$"
PrincipalId = Annotated[str, Path(pattern=_PRINCIPAL)]
GroupName = Annotated[str, Path(pattern=_GROUP)]


class PrincipalCreate(Request):
    """Somebody or something to be given roles and keys."""

    id: str = Field(pattern=_PRINCIPAL, examples=["service_account:nightly-retraining"])
    groups: list[Annotated[str, StringConstraints(pattern=_GROUP)]] = Field(default_factory=list, max_length=100)


class Group(Answer):
    """A group, who is in it and which roles are bound to it."""

    name: str
    members: list[str]
    roles: list[str]


class GroupPage(Answer):
    """Groups by name."""

    groups: list[Group]


class PrincipalChange(Request):
    """What may change about a principal; absent fields stay."""

    groups: list[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")]] | None = Field(
        default=None, max_length=100
    )
    disabled: bool | None = None


class Principal(Answer):
    """Somebody or something that may be given roles."""

    id: str
    kind: str
    tenant: str
    groups: list[str]
    disabled: bool
    created_by: str
    created_at: datetime


class PrincipalPage(Answer):
    """Principals by id."""

    principals: list[Principal]


class Role(Answer):
    """A role, what it inherits and permits, and what its holder may hand out."""

    name: str
    inherits: list[str]
    permissions: list[str]
    may_delegate: list[str]


class RolePage(Answer):
    """Every role, and every action that there is."""

    roles: list[Role]
    actions: list[str]


def _principal(row: PrincipalRow) -> Principal:
    return Principal(**{name: getattr(row, name) for name in row.__slots__})


def principals_router(service: PrincipalService, access: Access) -> APIRouter:
    """Routes on principals, roles and the caller."""
    router = APIRouter(prefix=API, tags=["principals"])

    _add_roles(router, service, access)

    @router.get("/principals")
    async def principals(
        caller: Caller = governed("admin:binding.list", resource_id="principals"), page_size: PageSize = 200
    ) -> PrincipalPage:
        """List principals by id."""
        rows = await service.list_principals(caller, limit=bounded(page_size))
        return PrincipalPage(principals=[_principal(row) for row in rows])

    @router.post("/principals", status_code=201)
    async def create(
        body: PrincipalCreate, caller: Caller = governed("admin:principal.write", in_operation=True)
    ) -> Principal:
        """Make a user, service account or application, with no role but those of its groups."""
        return _principal(await service.create(caller, body.id, groups=body.groups))

    @router.get("/principals/{principal_id}")
    async def read(
        principal_id: PrincipalId, caller: Caller = governed("admin:binding.list", resource_id="principals")
    ) -> Principal:
        """Read a principal."""
        return _principal(await service.read(caller, principal_id))

    @router.delete("/principals/{principal_id}", status_code=204)
    async def remove(
        principal_id: PrincipalId, caller: Caller = governed("admin:principal.write", in_operation=True)
    ) -> Response:
        """Disable a principal, revoke its keys and take its roles back; its name is given to nobody else."""
        await service.remove(caller, principal_id)
        return Response(status_code=204)

    @router.patch("/principals/{principal_id}")
    async def change(
        principal_id: PrincipalId,
        body: PrincipalChange,
        caller: Caller = governed("admin:principal.write", in_operation=True),
    ) -> Principal:
        """Change a principal's groups, or disable it."""
        return _principal(await service.change(caller, principal_id, groups=body.groups, disabled=body.disabled))

    _add_groups(router, service)
    return router


def _add_roles(router: APIRouter, service: PrincipalService, access: Access) -> None:
    @router.get("/whoami")
    async def whoami(caller: Caller = governed("access:evaluate", resource_id="whoami")) -> WhoAmI:
        """Tell the caller who they are here."""
        return WhoAmI(
            subject=caller.subject_id,
            tenant=caller.tenant,
            method=caller.method,
            roles=service.roles_of(caller),
            scopes=list(caller.scopes),
            expires_at=datetime.fromtimestamp(caller.expires_at, UTC),
            key_id=caller.key_id,
        )

    @router.get("/roles")
    async def roles(caller: Caller = governed("access:evaluate", resource_id="roles")) -> RolePage:  # noqa: ARG001
        """List roles and actions."""
        data = access.policy_data()
        known: dict[str, Any] = data.get("roles", {})
        return RolePage(
            roles=[
                Role(
                    name=name,
                    inherits=role_closure(known, name)[1:],
                    permissions=permissions_of(known, name),
                    may_delegate=known[name].get("may_delegate", []),
                )
                for name in sorted(known)
            ],
            actions=sorted(data.get("catalog", {})),
        )


def _add_groups(router: APIRouter, service: PrincipalService) -> None:
    @router.get("/groups")
    async def groups(caller: Caller = governed("admin:binding.list", resource_id="groups")) -> GroupPage:
        """List groups with their members and roles."""
        found = await service.groups(caller)
        return GroupPage(groups=[Group(name=one.name, members=one.members, roles=one.roles) for one in found])

    @router.delete("/groups/{name}", status_code=204)
    async def remove_group(
        name: GroupName, caller: Caller = governed("admin:principal.write", in_operation=True)
    ) -> Response:
        """Take every member out of a group, and its roles back."""
        await service.remove_group(caller, name)
        return Response(status_code=204)
