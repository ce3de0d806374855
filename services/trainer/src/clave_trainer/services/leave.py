"""Who may change what starts runs, and whether the policy lets one start that no request asks for.

A pipeline acts in its environment: what it trains is submitted and rolled out there, with the trainer's own rights. So
whoever writes one, or a schedule of one, needs the right in that environment, and in the one that it comes from. A
schedule or a monitor that starts a run asks as the trainer itself: lockdown and quotas hold for them as for people.
"""

from clave_common.access import Access, Caller, Resource
from clave_common.access.service_tokens import SYSTEM_TENANT
from clave_common.clock import Clock
from clave_common.database import Transaction
from clave_contracts.trainer import Pipeline

from clave_trainer.domain.pipeline_steps import TRAINING_PIPELINE
from clave_trainer.storage import runs

TRAINER = "service:trainer"
_QUESTION_S = 60.0


async def require_in_environments(
    access: Access, caller: Caller, action: str, resource: str, environments: set[str]
) -> None:
    """Insist on an action in each environment that a change touches.

    Raises:
        PermissionDenied: The policy said no in one of them.
    """
    kind = action.partition(":")[2].partition(".")[0]
    for environment in sorted(environments):
        properties = {"tenant": caller.tenant, "namespace": environment}
        await access.require(caller, action, Resource(kind, resource, properties))


def wanted_resources() -> dict[str, int]:
    """Say what a run may take, as the policy's quotas count it: one step at a time, each within its time-out."""
    return {"cpus": 1, "max_runtime_s": int(sum(step.timeout_s for step in TRAINING_PIPELINE))}


class Triggers:
    """Asks the policy whether a run may start by itself."""

    def __init__(self, access: Access, clock: Clock) -> None:
        self._access = access
        self._clock = clock

    async def objections(self, tx: Transaction, pipeline: Pipeline, *, tenant: str) -> tuple[str, ...]:
        """List the policy's reasons against a run; none lets it start.

        Raises:
            Unavailable: Nobody could decide.
        """
        trainer = Caller(
            subject_id=TRAINER,
            subject_type="service",
            tenant=SYSTEM_TENANT,
            method="internal_jwt",
            expires_at=self._clock.now().timestamp() + _QUESTION_S,
        )
        properties = {
            "tenant": tenant,
            "namespace": pipeline.spec.namespace,
            "request": wanted_resources(),
            "features": [],  # its steps read them as `features:offline.read`, where the purpose of each is judged
        }
        resource = Resource("run", f"pipelines/{pipeline.name}/runs", properties)
        running = await runs.active_runs_of(tx.session, tenant)
        decision = await self._access.check(trainer, "training:run.trigger", resource, running_jobs=running)
        return () if decision.allow else decision.reasons
