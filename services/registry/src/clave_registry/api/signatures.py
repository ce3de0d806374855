"""Routes of signatures over a version's files."""

from clave_common.access import Caller, governed
from clave_common.errors import PayloadTooLarge
from clave_contracts import registry as contract
from clave_contracts.schema import Number
from fastapi import APIRouter, Request
from starlette.responses import Response

from clave_registry.api.operations import Operations
from clave_registry.api.rendering import answer
from clave_registry.domain.model_signature import BUNDLE_BYTES_MAX

_SIGNATURES = f"{contract.API}/models/{{model}}/versions/{{version}}/signatures"
_ID = "models/{model}/versions/{version}"
_TYPE = "model_version"


def signature_routes(operations: Operations) -> APIRouter:
    """Build the routes of signatures."""
    router = APIRouter(tags=["signatures"])

    @router.post(
        _SIGNATURES,
        response_model=contract.VersionSignatures,
        summary="Add a signature: an OMS bundle (Sigstore bundle, JSON) as the body",
    )
    async def add_signature(
        model: str,
        version: Number,
        request: Request,
        caller: Caller = governed("registry:version.tag", resource_type=_TYPE, resource_id=_ID),
    ) -> Response:
        bundle = await request.body()
        if len(bundle) > BUNDLE_BYTES_MAX:
            raise PayloadTooLarge(f"A bundle has at most {BUNDLE_BYTES_MAX} bytes.", limit=BUNDLE_BYTES_MAX)
        return answer(await operations.signatures.add(caller, model, version, bundle))

    @router.get(_SIGNATURES, response_model=contract.VersionSignatures, summary="List signatures, verified now")
    async def list_signatures(
        model: str,
        version: Number,
        caller: Caller = governed("registry:version.read", resource_type=_TYPE, resource_id=_ID),
    ) -> Response:
        return answer(await operations.signatures.get(caller, model, version))

    return router
