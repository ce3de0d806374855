"""Operations on schedules, and their firing: any number of schedulers, no leader, no double fire.

A due schedule is locked with SKIP LOCKED; its fire row (unique per schedule and due time), its run and its next due
time are written in one transaction.
"""

from clave_common.access import Access, Caller
from clave_common.access.model import INSTALLATION_TENANT
from clave_common.clock import Clock
from clave_common.database import Database, Transaction
from clave_common.ids import new_id
from clave_common.logs import get_logger
from clave_contracts.events import AuditEntry
from clave_contracts.trainer import RunCreate, Schedule, ScheduleSpec

from clave_trainer.domain.schedule import Timetable, timetable
from clave_trainer.services.errors import PipelineNotFound, ScheduleNotFound
from clave_trainer.services.leave import TRAINER, Triggers, require_in_environments
from clave_trainer.services.runs import Origin, add_run
from clave_trainer.storage import runs, schedules

_log = get_logger(__name__)
DUE_MAX = 20
_ANYWHERE = "Production"  # where nothing is known of a schedule, its removal asks for the most


def timetable_of(spec: ScheduleSpec) -> Timetable:
    """Read a schedule's rule.

    Raises:
        BadSchedule: Names the field and the remedy.
    """
    hours = spec.business_hours
    return timetable(
        cron=spec.cron,
        interval_s=spec.interval_s,
        zone=spec.zone,
        misfire=spec.misfire,
        business_days=hours.days if hours else None,
        business_from=hours.start if hours else None,
        business_to=hours.end if hours else None,
    )


class Schedules:
    """Keeps schedules and starts their runs."""

    def __init__(self, database: Database, clock: Clock, access: Access) -> None:
        self._database = database
        self._clock = clock
        self._access = access
        self._triggers = Triggers(access, clock)

    async def put(self, schedule_id: str | None, spec: ScheduleSpec, caller: Caller) -> Schedule:
        """Create a schedule, or change one.

        Raises:
            BadSchedule: It cannot be read.
            PipelineNotFound: It names a pipeline that is not there.
            PermissionDenied: The caller may not write schedules where its pipeline acts, or the one it has now.
        """
        next_at = timetable_of(spec).next_after(self._clock.now()) if spec.enabled else None
        async with self._database.transaction() as tx:
            await self._require_write(tx, caller, schedule_id, spec.pipeline)
            stored = await schedules.put(
                tx.session,
                schedule_id or new_id("sch"),
                spec,
                by=caller.acting_for,
                next_at=next_at,
            )
            await _audit(tx, caller, stored.id, spec.model_dump(mode="json"))
        return stored

    async def require_write(self, caller: Caller, pipeline: str) -> None:
        """Insist that the caller may write schedules of a pipeline.

        Raises:
            PipelineNotFound: It is not there.
            PermissionDenied: The caller may not where it acts.
        """
        async with self._database.transaction() as tx:
            await self._require_write(tx, caller, None, pipeline)

    async def _require_write(
        self, tx: Transaction, caller: Caller, schedule_id: str | None, pipeline: str | None
    ) -> None:
        """Ask where the pipelines act that a schedule starts now, and that it is to start."""
        known = await schedules.find(tx.session, schedule_id) if schedule_id is not None else None
        environments: set[str] = set()
        for name in {pipeline, known.spec.pipeline if known else None} - {None}:
            found = await runs.pipeline(tx.session, str(name))
            if found is None and name == pipeline:
                raise PipelineNotFound(str(name))
            environments |= {str(found.spec.namespace)} if found else set()
        resource = f"schedules/{schedule_id}" if schedule_id is not None else "schedule"
        await require_in_environments(
            self._access, caller, "training:schedule.write", resource, environments or {_ANYWHERE}
        )

    async def list(self) -> list[Schedule]:
        """Read every schedule."""
        async with self._database.transaction() as tx:
            return await schedules.all_of(tx.session)

    async def delete(self, schedule_id: str, caller: Caller) -> None:
        """Remove a schedule and its fires; its runs stay.

        Raises:
            ScheduleNotFound: No such schedule.
        """
        async with self._database.transaction() as tx:
            await self._require_write(tx, caller, schedule_id, None)
            if not await schedules.delete(tx.session, schedule_id):
                raise ScheduleNotFound(f"There is no schedule {schedule_id!r}.", schedule=schedule_id)
            await _audit(tx, caller, schedule_id, {"change": "delete"})

    async def fire_due(self) -> int:
        """Start the runs of every schedule that is due.

        Returns:
            Number of due times handled, started or skipped.
        """
        async with self._database.transaction() as tx:
            due = await schedules.due(tx.session, self._clock.now(), DUE_MAX)
            for schedule in due:
                await self._fire(tx, schedule)
        return len(due)

    async def _fire(self, tx: Transaction, schedule: Schedule) -> None:
        now = self._clock.now()
        rule = timetable_of(schedule.spec)
        at = schedule.next_at or now
        skipped = rule.refusal(at, now)
        pipeline = await runs.pipeline(tx.session, schedule.spec.pipeline)
        if pipeline is None:
            skipped = "the pipeline is gone"
        elif not skipped:
            active = await runs.active_runs(tx.session, pipeline.name)
            if active >= schedule.spec.active_runs_max:
                skipped = f"{active} runs have not ended"
            elif against := await self._triggers.objections(tx, pipeline, tenant=INSTALLATION_TENANT):
                skipped = f"the policy refuses it: {', '.join(against)}"
        await schedules.advance(tx.session, schedule.id, rule.following(at, now), skipped)
        if not await schedules.record_fire(tx.session, schedule.id, at, skipped):
            return
        if skipped or pipeline is None:
            _log.info("schedule_skipped", schedule=schedule.id, why=skipped)
            return
        request = RunCreate(
            reason=f"schedule {schedule.id}: {schedule.spec.reason}".rstrip(": "), params=schedule.spec.params
        )
        origin = Origin("schedule", schedule.created_by, TRAINER)
        run_id = await add_run(tx, pipeline, request, origin, self._clock)
        await schedules.note_run(tx.session, schedule.id, at, run_id)


async def _audit(tx: Transaction, caller: Caller, schedule_id: str, details: dict[str, object]) -> None:
    await tx.audit(
        AuditEntry(
            service="trainer",
            actor=caller.subject_id,
            on_behalf_of=caller.on_behalf_of,
            tenant=caller.tenant,
            action="training:schedule.write",
            resource=f"schedules/{schedule_id}",
            details=details,
        )
    )
