"""Reading what the monitor knows: reports, windows, labelled predictions, policies, alerts, decisions."""

from datetime import datetime
from typing import Any

from clave_common.access import Caller
from clave_common.database import Database, Transaction
from clave_common.errors import NotFound
from clave_common.pages import decode_token, encode_token
from clave_contracts.monitor import (
    Alert,
    AlertPage,
    Decision,
    DecisionPage,
    FeatureDrift,
    LabelledPage,
    LabelledRow,
    PerformanceReport,
    Report,
    RetrainingPolicy,
)

from clave_monitor.domain.drift import DriftState
from clave_monitor.services.policies import policy_of
from clave_monitor.services.state import restored
from clave_monitor.storage import alerts, decisions, monitors, predictions
from clave_monitor.storage.records import EndpointRow, Key, MonitorRow


class EndpointUnknown(NotFound):
    """No prediction and no policy ever named the endpoint."""

    code = "endpoint_not_found"


class Reporting:
    """Answers questions about monitors."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def report(self, endpoint: str, *, version: int | None = None) -> Report:
        """Describe an endpoint's live version, or another of its versions.

        Raises:
            EndpointUnknown: Nothing is known of the endpoint or the version.
        """
        async with self._database.transaction() as tx:
            known = await _endpoint(tx, endpoint)
            key = await _choose(tx, known, version)
            monitor = await monitors.find(tx, key)
            rows, labels = await predictions.not_taken_yet(tx, key)
        if monitor is not None:
            rows, labels = rows + monitor.rows, labels + monitor.labels
        at = known.live_at or (monitor.first_at if monitor else None)
        if at is None:
            raise _unknown(endpoint)
        if monitor is None or not monitor.report:
            problem = monitor.reference_problem if monitor else None
            return _empty(key, at, rows=rows, labels=labels, problem=problem)
        return _report(monitor, policy_of(known.policy), at=at, rows=rows, labels=labels)

    async def windows(self, endpoint: str, *, page_token: str | None, limit: int) -> tuple[list[dict[str, Any]], str]:
        """List an endpoint's windows, newest first, and the token of the next page."""
        query = f"windows:{endpoint}"
        before = int(decode_token(page_token, query=query, kinds=(int,))[0]) if page_token else None
        async with self._database.transaction() as tx:
            await _endpoint(tx, endpoint)
            rows = await monitors.window_page(tx, endpoint, before=before, limit=limit)
        more = len(rows) == limit
        return rows, encode_token([rows[-1]["id"]], query=query) if more else ""

    async def labelled(
        self, endpoint: str, *, after: datetime | None, page_token: str | None, limit: int
    ) -> LabelledPage:
        """List labelled predictions, oldest label first."""
        query = f"labelled:{endpoint}:{after.isoformat() if after else ''}"
        position = None
        if page_token:
            at, prediction_id, row = decode_token(page_token, query=query, kinds=(datetime, str, int))
            position = (datetime.fromisoformat(at), str(prediction_id), int(row))
        async with self._database.transaction() as tx:
            rows = await predictions.labelled_page(tx, endpoint, after=after, position=position, limit=limit)
        token = ""
        if len(rows) == limit:
            last = rows[-1]
            place = [last["labelled_at"].isoformat(), last["prediction_id"], last["row"]]
            token = encode_token(place, query=query)
        return LabelledPage(
            rows=[LabelledRow(**(row | {"attributes": row["attributes"] or {}})) for row in rows],
            next_page_token=token,
        )

    async def alerts(
        self, caller: Caller, *, endpoint: str | None, state: str | None, page_token: str | None, limit: int
    ) -> AlertPage:
        """List alerts of endpoints that the caller may see, latest first."""
        query = f"alerts:{endpoint}:{state}"
        position = _position(page_token, query)
        async with self._database.transaction() as tx:
            rows = await alerts.page(tx, caller, endpoint=endpoint, state=state, position=position, limit=limit)
        token = ""
        if len(rows) == limit:
            token = encode_token([rows[-1]["last_at"].isoformat(), rows[-1]["id"]], query=query)
        return AlertPage(alerts=[Alert(**row) for row in rows], next_page_token=token)

    async def decisions(self, endpoint: str, *, page_token: str | None, limit: int) -> DecisionPage:
        """List an endpoint's decisions, newest first."""
        query = f"decisions:{endpoint}"
        position = _position(page_token, query)
        async with self._database.transaction() as tx:
            rows = await decisions.page(tx, endpoint, position=position, limit=limit)
        token = ""
        if len(rows) == limit:
            token = encode_token([rows[-1]["at"].isoformat(), rows[-1]["id"]], query=query)
        return DecisionPage(decisions=[Decision(**row) for row in rows], next_page_token=token)

    async def policy(self, endpoint: str) -> tuple[RetrainingPolicy, int]:
        """Give an endpoint's policy and its revision; the defaults have revision 0."""
        async with self._database.transaction() as tx:
            known = await monitors.endpoint(tx, endpoint)
        return policy_of(known.policy if known else {}), known.policy_revision if known else 0

    async def endpoint(self, endpoint: str) -> EndpointRow | None:
        """Give what is known of an endpoint."""
        async with self._database.transaction() as tx:
            return await monitors.endpoint(tx, endpoint)

    async def all_keys(self, endpoint: str) -> list[Key]:
        """List the versions that answered for an endpoint."""
        async with self._database.transaction() as tx:
            known = await _endpoint(tx, endpoint)
            found = {monitor.key for monitor in await monitors.all_monitors(tx, endpoint)}
        return sorted(found | ({known.live} if known.live else set()), key=lambda key: key.model_version)


def _position(page_token: str | None, query: str) -> tuple[datetime, str] | None:
    if not page_token:
        return None
    at, identifier = decode_token(page_token, query=query, kinds=(datetime, str))
    return datetime.fromisoformat(at), str(identifier)


def _unknown(endpoint: str) -> EndpointUnknown:
    return EndpointUnknown(
        f"No prediction of endpoint '{endpoint}' has arrived yet; send one first.", endpoint=endpoint
    )


async def _endpoint(tx: Transaction, name: str) -> EndpointRow:
    known = await monitors.endpoint(tx, name)
    if known is None:
        raise _unknown(name)
    return known


async def _choose(tx: Transaction, endpoint: EndpointRow, version: int | None) -> Key:
    if version is None:
        if endpoint.live is None:
            raise _unknown(endpoint.name)
        return endpoint.live
    for monitor in await monitors.all_monitors(tx, endpoint.name):
        if monitor.key.model_version == version:
            return monitor.key
    if endpoint.live is not None and endpoint.live.model_version == version:
        return endpoint.live
    raise EndpointUnknown(f"Version {version} never answered for '{endpoint.name}'.", endpoint=endpoint.name)


def _empty(key: Key, at: datetime, *, rows: int, labels: int, problem: str | None) -> Report:
    quality = [{"check": "reference", "detail": problem}] if problem else []
    return Report(
        endpoint=key.endpoint,
        model=key.model,
        model_version=key.model_version,
        at=at,
        state="no_data",
        windows=0,
        window_rows=0,
        rows=rows,
        data_quality=quality,
        performance=PerformanceReport(labels=labels, label_coverage=labels / rows if rows else 0.0),
    )


def _report(monitor: MonitorRow, policy: RetrainingPolicy, *, at: datetime, rows: int, labels: int) -> Report:
    stored, state = monitor.report, restored(monitor.state)
    performance = stored["performance"] | {"labels": labels, "label_coverage": labels / rows if rows else 0.0}
    harmed = state.harm.proven(policy.harm_false_alarm_labels)
    return Report(
        endpoint=monitor.key.endpoint,
        model=monitor.key.model,
        model_version=monitor.key.model_version,
        at=datetime.fromisoformat(stored["at"]) if "at" in stored else at,
        state=_state(harmed=harmed, gated=state.gated, watched=state.watched, windows=monitor.windows),
        windows=monitor.windows,
        window_rows=stored.get("window_rows", 0),
        rows=rows,
        drift_evidence_log10=max(scope.evidence.log10 for scope in state.scopes.values()),
        drift_gated=state.gated,
        features=[FeatureDrift(**feature) for feature in stored.get("features", [])],
        data_quality=stored.get("data_quality", []),
        performance=PerformanceReport(**(performance | {"harmed": harmed})),
        fairness=stored.get("fairness", {}),
    )


def _state(*, harmed: bool, gated: bool, watched: bool, windows: int) -> Any:
    if harmed:
        return "harm"
    if gated:
        return DriftState.DRIFT.value
    if watched:
        return DriftState.WATCH.value
    return "ok" if windows else "no_data"
