"""Features: what its API takes and gives, and a typed client."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from clave_contracts.client import ServiceClient
from clave_contracts.problems import checked
from clave_contracts.schema import Answer, Digest, Name, Request, Whole

API = "/api/features/v1"
Dtype = Literal["float32", "float64", "int64", "bool", "string", "category", "timestamp"]
FeatureStatus = Literal["PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"]


class Entity(Request):
    """A thing that features describe; `join_keys` name its columns."""

    name: Name
    join_keys: dict[str, Literal["int64", "string"]]
    description: str = ""


class Rule(Request):
    """A validation rule of one column; a row that breaks it is quarantined.

    Attributes:
        column: The feature it judges. A null breaks every rule, unless the feature is `nullable`.
        sigmas: Of an ``outlier``: standard deviations around the batch's mean.
        iqr: Of an ``outlier``: interquartile ranges beyond the batch's quartiles, instead of `sigmas`.
    """

    column: str
    kind: Literal["not_null", "range", "set", "regex", "outlier"]
    min: float | None = None
    max: float | None = None
    values: list[str | float | bool] | None = None
    pattern: str | None = None
    sigmas: float | None = None
    iqr: float | None = None
    reason: str = ""


class Feature(Request):
    """One column of a view.

    Attributes:
        levels: Of a ``category``, in the order of their codes; models see the code as float32, unknown is missing.
        expression: An on-demand transformation over the view's other features, instead of a source column.
        nullable: A missing value passes the rules of this feature.
        protected: A protected attribute: never a model input, kept for fairness only.
    """

    name: Name
    dtype: Dtype
    source: str | None = None
    levels: list[str] | None = None
    expression: str | None = None
    nullable: bool = False
    protected: bool = False
    description: str = ""


class FeatureView(Request):
    """Features of one entity from one source.

    Attributes:
        created_column: Source column of the time at which a row became known; the server's clock when absent.
        ttl_s: Age in seconds beyond which a value counts as OUTSIDE_MAX_AGE; None = never.
        missing_share_max: Largest share of missing values in a column of a batch, 0 to 1; more refuses the batch.
    """

    name: Name
    entity: Name
    features: list[Feature]
    timestamp_column: str = "event_ts"
    created_column: str | None = None
    ttl_s: int | None = Field(default=None, ge=1, le=100 * 366 * 86_400)
    rules: list[Rule] = Field(default_factory=list)
    missing_share_max: float = Field(default=1.0, ge=0, le=1)
    online: bool = True
    label: bool = False
    owner: str = ""
    description: str = ""
    purposes: list[str] = Field(default_factory=list)


class FeatureService(Request):
    """The features that one model reads, in the order of its inputs: ``view:feature``.

    Attributes:
        purpose: What the model reads them for; must be among the purposes of every view that restricts its own.
    """

    name: Name
    features: list[str]
    purpose: str | None = None
    description: str = ""


class Repository(Request):
    """Everything `clave apply` sends: the wished state of the feature store."""

    entities: list[Entity] = Field(default_factory=list)
    feature_views: list[FeatureView] = Field(default_factory=list)
    feature_services: list[FeatureService] = Field(default_factory=list)


class Change(Answer):
    """One difference that applying a repository makes."""

    kind: Literal["entity", "feature_view", "feature_service"]
    name: str
    change: Literal["created", "updated", "unchanged"]
    version: int = 1


class ApplyAnswer(Answer):
    """What was (or, dry, would be) changed."""

    changes: list[Change]
    dry_run: bool = False


class QuarantineReason(Answer):
    """How many rows broke one rule."""

    rule: str
    column: str
    rows: int
    reason: str


class IngestReport(Answer):
    """What became of an ingested table."""

    batch_id: str
    view: str
    rows: int
    accepted: int
    quarantined: int
    reasons: list[QuarantineReason] = Field(default_factory=list)
    online_written: int = 0
    duplicate: bool = False
    digest: str = ""


class OnlineRead(Request):
    """Entity keys, column by column, and what to read for them."""

    feature_service: Name
    entities: dict[str, list[Any]]


class OnlineRows(Answer):
    """Values row by row in the order of the service's features.

    Attributes:
        columns: Feature names, the model's input order.
        values: Shape (rows, columns); categories as their codes, missing as null.
        statuses: Shape (rows, views): one status per row and view.
        event_times: Shape (rows, views).
    """

    columns: list[str]
    views: list[str]
    values: list[list[float | None]]
    statuses: list[list[FeatureStatus]]
    event_times: list[list[datetime | None]]


class TrainingSetRequest(Request):
    """A point-in-time-correct table to make.

    Attributes:
        label_view: View whose rows are the spine: entity keys, event time and the label.
        as_of: Only labels and feature values known at this time; now when absent.
        label_after: Only label rows at or after this time.
        extra: Further ``view:feature`` columns that are no model inputs (protected attributes).
        as_known: Use only what had been ingested at each label's time.
    """

    name: Name
    feature_service: Name
    label_view: Name
    label: str
    as_of: datetime | None = None
    label_after: datetime | None = None
    extra: list[str] = Field(default_factory=list)
    as_known: bool = False


class Column(Answer):
    """A column of a training set: its role and, for categories, its levels."""

    name: str
    role: Literal["entity", "timestamp", "feature", "label", "extra", "status"]
    dtype: str
    levels: list[str] | None = None
    view: str | None = None


class TrainingSet(Answer):
    """An immutable, hashed snapshot.

    Attributes:
        digest: sha256 of the Parquet file.
        manifest_digest: sha256 over source files, definitions, the SQL and the as-of time.
        feature_views: View name to definition version.
        statuses: Per view, how many label rows found it PRESENT, OUTSIDE_MAX_AGE or NOT_FOUND.
    """

    id: str
    name: str
    digest: Digest
    manifest_digest: Digest
    rows: int
    columns: list[Column]
    feature_service: str
    feature_views: dict[str, int]
    statuses: dict[str, dict[str, int]] = Field(default_factory=dict)
    label_view: str
    as_of: datetime
    label_after: datetime | None = None
    created_at: datetime
    bytes: int = 0
    consent_policy: str | None = None


class MembershipRequest(Request):
    """One entity, by its keys: ``{"customer_id": "7590-VHVEG"}``."""

    keys: dict[str, str | Whole] = Field(min_length=1, max_length=10)


class Membership(Answer):
    """A training set that holds rows of an entity."""

    training_set: TrainingSet
    matching_rows: int


class MembershipPage(Answer):
    """A page of training sets that hold rows of an entity.

    Attributes:
        searched: Training sets that were looked into for this page.
    """

    items: list[Membership]
    searched: int
    next_page_token: str | None = None


class FeaturesClient(ServiceClient):
    """Calls the feature service."""

    async def apply(self, repository: Repository, *, dry_run: bool = False) -> ApplyAnswer:
        """Bring the feature store to a repository's state, all or nothing."""
        response = await self.send(
            "PUT", f"{API}/repository", body=repository, params={"dry_run": str(dry_run).lower()}
        )
        return ApplyAnswer.model_validate_json(response.content)

    async def ingest(
        self,
        view: str,
        content: bytes | AsyncIterator[bytes],
        *,
        media_type: str = "application/vnd.apache.parquet",
        idempotency_key: str | None = None,
    ) -> IngestReport:
        """Ingest a table (Parquet, ``text/csv`` or ``application/json`` rows)."""
        headers = {"content-type": media_type}
        if idempotency_key:
            headers["idempotency-key"] = idempotency_key
        response = await self.send("POST", f"{API}/views/{view}/ingest", content=content, headers=headers)
        return IngestReport.model_validate_json(response.content)

    async def read_online(self, request: OnlineRead) -> OnlineRows:
        """Read the latest values."""
        return await self.post(OnlineRows, f"{API}/online/read", request)

    async def create_training_set(self, request: TrainingSetRequest, *, on_behalf_of: str | None = None) -> TrainingSet:
        """Make (or find again) a training set."""
        return await self.post(TrainingSet, f"{API}/training-sets", request, on_behalf_of=on_behalf_of)

    async def training_set(self, training_set_id: str) -> TrainingSet:
        """Describe a training set."""
        return await self.get(TrainingSet, f"{API}/training-sets/{training_set_id}")

    async def training_sets_with(
        self, keys: dict[str, str | int], *, page_token: str | None = None, on_behalf_of: str | None = None
    ) -> MembershipPage:
        """Page through the training sets that hold rows of an entity."""
        suffix = f"?page_token={page_token}" if page_token else ""
        return await self.post(
            MembershipPage,
            f"{API}/training-sets/search-by-entity{suffix}",
            MembershipRequest(keys=keys),
            on_behalf_of=on_behalf_of,
        )

    async def training_set_data(self, training_set_id: str) -> AsyncIterator[bytes]:
        """Stream a training set's Parquet file."""
        async with self.http.stream("GET", f"{API}/training-sets/{training_set_id}/data") as response:
            if response.is_error:
                await response.aread()
                checked(response)
            async for chunk in response.aiter_bytes():
                yield chunk
