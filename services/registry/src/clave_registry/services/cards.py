"""Operations on model cards: generate one, and write the parts that only a person can."""

from typing import Any

import orjson
from clave_common.access import Caller
from clave_common.clock import Clock
from clave_common.database import Database, Transaction
from clave_common.errors import FailedPrecondition, PayloadTooLarge
from clave_contracts import registry as contract

from clave_registry.converters import to_artifacts
from clave_registry.domain.card import CardFacts, build_card
from clave_registry.domain.card_diff import card_diff
from clave_registry.services.governance import record_change, require_revision, version_path
from clave_registry.services.versions import version_of
from clave_registry.storage import endpoints, versions
from clave_registry.storage.records import ModelRow, VersionRow

CARD_BYTES_MAX = 100_000


def require_card_size(card: dict[str, Any]) -> None:
    """Refuse texts that no reader would read.

    Raises:
        PayloadTooLarge: They have more than `CARD_BYTES_MAX` bytes as JSON.
    """
    size = len(orjson.dumps(card))
    if size > CARD_BYTES_MAX:
        raise PayloadTooLarge(
            f"A card's texts have at most {CARD_BYTES_MAX} bytes; these have {size}.", limit=CARD_BYTES_MAX
        )


class Cards:
    """Generate and complete model cards."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def get(self, caller: Caller, model: str, version: int) -> tuple[dict[str, Any], int]:
        """Generate a version's card; also gives the version's revision."""
        async with self._database.transaction() as tx:
            model_row, row = await version_of(tx, caller, model, version)
            return build_card(await _facts(tx, model_row, row)), row.revision

    async def get_with_artifacts(
        self, caller: Caller, model: str, version: int
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Generate a version's card, and list its artifacts."""
        async with self._database.transaction() as tx:
            model_row, row = await version_of(tx, caller, model, version)
            entries = await versions.entries_of(tx, [row.manifest_digest])
            artifacts = [artifact.model_dump() for artifact in to_artifacts(row, entries)]
            return build_card(await _facts(tx, model_row, row)), artifacts

    async def diff(self, caller: Caller, model: str, version: int, other: int | None) -> dict[str, Any]:
        """Compare a version's card with another's.

        Args:
            caller: Who asks.
            model: Name of the model.
            version: Number of the version.
            other: Number to compare with; when None the champion: the version it was evaluated against, or its
                parent, or the one that answers for an endpoint.

        Raises:
            FailedPrecondition: There is no champion to compare with.
        """
        async with self._database.transaction() as tx:
            model_row, row = await version_of(tx, caller, model, version)
            found = other if other is not None else await _champion(tx, model_row, row)
            if found is None:
                raise FailedPrecondition(
                    "There is no champion to compare with; name a version.", code="no_champion", version=version
                )
            _, other_row = await version_of(tx, caller, model, found)
            return card_diff(
                build_card(await _facts(tx, model_row, row)), build_card(await _facts(tx, model_row, other_row))
            )

    async def edit(
        self, caller: Caller, model: str, version: int, changes: dict[str, Any], *, revision: int | None
    ) -> tuple[dict[str, Any], int]:
        """Change texts of the card; what is not named stays.

        Args:
            caller: Who writes.
            model: Name of the model.
            version: Number of the version.
            changes: Fields of `CardInput`; validated as a whole with what is there.
            revision: From If-Match.
        """
        async with self._database.transaction() as tx:
            model_row, row = await version_of(tx, caller, model, version, lock=True)
            require_revision(row.revision, revision)
            card = contract.CardInput.model_validate({**row.card, **changes}).model_dump(mode="json")
            require_card_size(card)
            row = await versions.change(tx, row, at=self._clock.now(), card=card)
            fields = sorted(changes)
            await versions.remember(
                tx, row, at=self._clock.now(), by=caller.acting_for, action="card", detail=", ".join(fields)
            )
            await record_change(
                tx,
                caller,
                "registry:card.edit",
                version_path(model, version),
                tenant=model_row.tenant,
                fields=fields,
            )
            return build_card(await _facts(tx, model_row, row)), row.revision


async def _champion(tx: Transaction, model: ModelRow, row: VersionRow) -> int | None:
    compared = ((row.evaluation or {}).get("champion") or {}).get("version")
    live = [e.live_version for e in await endpoints.of_model(tx, model.id) if e.live_version]
    for number in (compared, row.lineage.get("parent_version"), *live):
        if number is not None and number != row.version:
            return int(number)
    return None


def _run_link(run_id: str, *, by_mlflow: bool) -> str:
    return f"/api/2.0/mlflow/runs/get?run_id={run_id}" if by_mlflow else f"/api/trainer/v1/runs/{run_id}"


async def _facts(tx: Transaction, model: ModelRow, row: VersionRow) -> CardFacts:
    spoken = await versions.approvals_of(tx, [(row.model_id, row.version)])
    serving = await endpoints.of_model(tx, model.id)
    prefix = f"{contract.API}/models/{model.name}/versions/{row.version}"
    links = {"version": prefix, "lineage": f"{prefix}/lineage"}
    if row.lineage.get("run_id"):
        links["run"] = _run_link(str(row.lineage["run_id"]), by_mlflow=row.source is not None)
    for dataset in row.lineage.get("datasets") or []:
        links[f"training set {dataset['name']}"] = f"/api/features/v1/training-sets/{dataset['id']}"
    return CardFacts(
        model=model.name,
        version=row.version,
        status=row.status,
        risk_class=model.risk_class,
        manifest_digest=row.manifest_digest,
        signature=row.signature,
        params=row.params,
        lineage=row.lineage,
        evaluation=row.evaluation,
        texts=row.card,
        contributors=row.contributors,
        approvals=[{"by": a.by, "decision": a.decision, "at": a.at.isoformat(), "comment": a.comment} for a in spoken],
        approved_by=row.approved_by,
        endpoints=[e.name for e in serving if e.live_version == row.version],
        created_at=row.created_at,
        created_by=row.created_by,
        links=links,
    )
