"""Routes on keys and bindings."""

from datetime import datetime
from typing import Annotated

from clave_common.access import Caller, governed
from clave_common.answer_headers import HOLDS_A_SECRET
from clave_common.database import Database
from clave_common.idempotency import answer_once
from clave_common.pages import PageSize, PageToken, decode_token, encode_token
from clave_common.pages import page_size as bounded
from clave_contracts.gateway import API, Key, KeyCreate, KeyPage, NewKey
from clave_contracts.schema import Answer, Request
from fastapi import APIRouter, Path
from fastapi import Request as HttpRequest
from pydantic import BeforeValidator, Field, StringConstraints
from starlette.responses import Response

from clave_gateway.services.bindings import BindingService
from clave_gateway.services.keys import KeyService, MadeKey
from clave_gateway.storage.identity import BindingRow, KeyRow

_SUBJECT_KINDS = ("user", "service_account", "app", "group")


def _with_kind(subject: object) -> object:
    """Tell whoever leaves the kind out how to write it; the pattern alone helps nobody."""
    if isinstance(subject, str) and subject.partition(":")[0] not in _SUBJECT_KINDS:
        raise ValueError(f"write the kind first: {', '.join(f'{kind}:NAME' for kind in _SUBJECT_KINDS)}")
    return subject


Subject = Annotated[
    str,
    BeforeValidator(_with_kind),
    StringConstraints(pattern=r"^(user|service_account|app|group):[A-Za-z0-9_][A-Za-z0-9_.@-]{0,99}$"),
]
KeyId = Annotated[str, Path(pattern=r"^[0-9a-z]{16}$")]
BindingId = Annotated[str, Path(pattern=r"^bnd_[0-9a-z]{26}$")]
_KEYS_QUERY = "keys"


class BindingCreate(Request):
    """A role to give."""

    subject: Subject
    role: str = Field(min_length=1, max_length=100)
    namespaces: list[str] = Field(default_factory=lambda: ["*"], min_length=1, max_length=50)
    resources: list[str] = Field(default_factory=lambda: ["**"], min_length=1, max_length=50)


class Binding(Answer):
    """A role that somebody holds."""

    id: str
    subject: str
    role: str
    tenant: str
    namespaces: list[str]
    resources: list[str]
    created_by: str
    created_at: datetime


class BindingPage(Answer):
    """Bindings, newest first."""

    bindings: list[Binding]


def _key(row: KeyRow) -> Key:
    return Key(
        id=row.id,
        name=row.name,
        principal=row.principal_id,
        tenant=row.tenant,
        scopes=row.scopes,
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )


def _new_key(made: MadeKey) -> NewKey:
    return NewKey(
        id=made.row.id,
        key=made.secret.text,
        principal=made.row.principal_id,
        role=made.role,
        expires_at=made.row.expires_at,
    )


def _binding(row: BindingRow) -> Binding:
    return Binding(**{name: getattr(row, name) for name in row.__slots__})


def keys_router(service: KeyService, database: Database) -> APIRouter:
    """Routes on API keys."""
    router = APIRouter(prefix=API, tags=["keys"])

    @router.post("/keys", status_code=201, response_model=NewKey)
    async def create(
        request: HttpRequest,
        body: KeyCreate,
        caller: Caller = governed("admin:key.create", in_operation=True),
    ) -> Response:
        """Make an API key; its secret is in this answer and nowhere else."""

        async def make() -> Response:
            made = _new_key(await service.create(caller, body))
            return Response(
                made.model_dump_json(), status_code=201, media_type="application/json", headers=HOLDS_A_SECRET
            )

        return await answer_once(database, request, principal=caller.subject_id, answer=make, shown_once="key")

    @router.get("/keys")
    async def list_keys(
        caller: Caller = governed("admin:key.list", resource_id="keys"),
        page_size: PageSize = 50,
        page_token: PageToken = None,
    ) -> KeyPage:
        """List keys without their secrets, newest first."""
        limit = bounded(page_size)
        after = None
        if page_token:
            created_at, key_id = decode_token(page_token, query=_KEYS_QUERY, kinds=(datetime, str))
            after = (datetime.fromisoformat(created_at), str(key_id))
        rows = await service.list_keys(caller, after=after, limit=limit + 1)
        token = ""
        if len(rows) > limit:
            last = rows[limit - 1]
            token = encode_token([last.created_at.isoformat(), last.id], query=_KEYS_QUERY)
        return KeyPage(keys=[_key(row) for row in rows[:limit]], next_page_token=token)

    @router.delete("/keys/{key_id}", status_code=204)
    async def revoke(key_id: KeyId, caller: Caller = governed("admin:key.revoke", in_operation=True)) -> Response:
        """Revoke a key; every service refuses it within two seconds."""
        await service.revoke(caller, key_id)
        return Response(status_code=204)

    @router.post("/keys/{key_id}/rotate", status_code=201)
    async def rotate(
        key_id: KeyId, response: Response, caller: Caller = governed("admin:key.create", in_operation=True)
    ) -> NewKey:
        """Make a successor with the same rights; the old key works on until revoked."""
        response.headers.update(HOLDS_A_SECRET)
        return _new_key(await service.rotate(caller, key_id))

    return router


def bindings_router(service: BindingService) -> APIRouter:
    """Routes on bindings."""
    router = APIRouter(prefix=API, tags=["bindings"])

    @router.post("/bindings", status_code=201)
    async def create(
        body: BindingCreate, caller: Caller = governed("admin:binding.create", in_operation=True)
    ) -> Binding:
        """Give a role; nobody gives more than they hold."""
        return _binding(
            await service.create(
                caller,
                subject=body.subject,
                role=body.role,
                namespaces=body.namespaces,
                resources=body.resources,
            )
        )

    @router.get("/bindings")
    async def list_bindings(
        caller: Caller = governed("admin:binding.list", resource_id="bindings"), page_size: PageSize = 200
    ) -> BindingPage:
        """List bindings, newest first."""
        rows = await service.list_bindings(caller, limit=bounded(page_size))
        return BindingPage(bindings=[_binding(row) for row in rows])

    @router.delete("/bindings/{binding_id}", status_code=204)
    async def delete(
        binding_id: BindingId, caller: Caller = governed("admin:binding.delete", in_operation=True)
    ) -> Response:
        """Take a role back."""
        await service.delete(caller, binding_id)
        return Response(status_code=204)

    return router
