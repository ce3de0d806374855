"""Operations on pipelines."""

from clave_common.access import Access, Caller
from clave_common.database import Database
from clave_contracts.events import AuditEntry
from clave_contracts.trainer import Pipeline, PipelineSpec

from clave_trainer.domain.parameters import check_parameters, check_shares
from clave_trainer.services.errors import PipelineMismatch, PipelineNotFound
from clave_trainer.services.leave import require_in_environments
from clave_trainer.storage import runs


class Pipelines:
    """Stores and reads pipeline definitions."""

    def __init__(self, database: Database, access: Access) -> None:
        self._database = database
        self._access = access

    async def put(self, name: str, spec: PipelineSpec, caller: Caller) -> Pipeline:
        """Store a definition; an unchanged one keeps its version.

        Raises:
            PermissionDenied: The caller may not write pipelines of its environment, or of the one it has now.
            PipelineMismatch: Path and definition name different pipelines.
            BadParameter: A training parameter or a share of the split is out of its range.
        """
        if spec.name != name:
            raise PipelineMismatch(f"The path says {name!r} and the definition {spec.name!r}; make them agree.")
        async with self._database.transaction() as tx:
            known = await runs.pipeline(tx.session, name)
            touched = {str(spec.namespace), *([str(known.spec.namespace)] if known else [])}
            await require_in_environments(self._access, caller, "training:pipeline.write", f"pipelines/{name}", touched)
            check_parameters(spec.params)
            check_shares(spec.split)
            stored = await runs.put_pipeline(tx.session, spec, caller.acting_for)
            await tx.audit(
                AuditEntry(
                    service="trainer",
                    actor=caller.subject_id,
                    on_behalf_of=caller.on_behalf_of,
                    tenant=caller.tenant,
                    action="training:pipeline.write",
                    resource=f"pipelines/{name}",
                    details={"version": stored.version},
                )
            )
        return stored

    async def get(self, name: str) -> Pipeline:
        """Read a definition.

        Raises:
            PipelineNotFound: No such pipeline.
        """
        async with self._database.transaction() as tx:
            found = await runs.pipeline(tx.session, name)
        if found is None:
            raise PipelineNotFound(name)
        return found

    async def list(self) -> list[Pipeline]:
        """Read all definitions by name."""
        async with self._database.transaction() as tx:
            return await runs.pipelines(tx.session)
