"""What the feature store refuses, by name.

ClaveError
+-- InvalidArgument
|   +-- DefinitionInvalid        a repository that contradicts itself; lists every problem at once
|   +-- ExpressionInvalid        an on-demand expression that cannot be read
|   +-- TableMalformed           an upload that is not the Parquet, CSV or JSON it says it is
|   +-- TableEmpty               an upload without a single row
|   +-- ColumnsUnknown           an upload with columns that the view does not declare
|   +-- ColumnsMissing           an upload without columns that the view needs
|   +-- EntityKeysInvalid        a read whose keys are not those of the views
|   +-- NoLabels                 a training set without any label row
+-- NotFound
|   +-- ViewNotFound, ServiceNotFound, EntityNotFound, FeatureNotFound, TrainingSetNotFound
+-- FailedPrecondition
|   +-- DefinitionConflict       a change that the rows already kept do not allow
|   +-- BatchRefused             too many missing values in a batch; nothing was kept
+-- AlreadyExists
|   +-- IdempotencyKeyReused     the same key came with another content
+-- Unavailable
|   +-- OnlineStoreAway          the online store does not answer
|   +-- ScratchUnwritable        the disk is full or read-only
|   +-- CatalogueNotLoaded       the definitions could not be read yet
+-- ResourceExhausted
    +-- WorkTooLarge             more memory needed than the service may use
"""

from clave_common.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)


class DefinitionInvalid(InvalidArgument):
    """A definition contradicts itself or another; `problems` lists every place and cause."""

    code = "definition_invalid"

    def __init__(self, problems: list[str]) -> None:
        super().__init__("The definitions do not fit together: " + "; ".join(problems), problems=problems)
        self.problems = problems


class ExpressionInvalid(InvalidArgument):
    """An on-demand expression cannot be read."""

    code = "expression_invalid"


class TableMalformed(InvalidArgument):
    """The upload is not the table its content type promises."""

    code = "table_malformed"


class TableEmpty(InvalidArgument):
    """The upload has no rows."""

    code = "table_empty"


class ColumnsUnknown(InvalidArgument):
    """The upload has columns that the view does not declare."""

    code = "columns_unknown"


class ColumnsMissing(InvalidArgument):
    """The upload lacks columns that the view needs."""

    code = "columns_missing"


class EntityKeysInvalid(InvalidArgument):
    """The entity keys of a read do not fit the views."""

    code = "entity_keys_invalid"


class NoLabels(InvalidArgument):
    """No label row lies at or before the time asked for."""

    code = "no_labels"


class ViewNotFound(NotFound):
    """There is no such feature view or label view."""

    code = "view_not_found"


class ServiceNotFound(NotFound):
    """There is no such feature service."""

    code = "feature_service_not_found"


class EntityNotFound(NotFound):
    """There is no such entity."""

    code = "entity_not_found"


class FeatureNotFound(NotFound):
    """The view has no such feature."""

    code = "feature_not_found"


class TrainingSetNotFound(NotFound):
    """There is no such training set."""

    code = "training_set_not_found"


class BatchRefused(FailedPrecondition):
    """The whole batch is refused; nothing of it was kept."""

    code = "batch_refused"


class IdempotencyKeyReused(AlreadyExists):
    """The idempotency key was used before, with another content."""

    code = "idempotency_key_reused"


class OnlineStoreAway(Unavailable):
    """The online store does not answer."""

    code = "online_store_away"


class ScratchUnwritable(Unavailable):
    """The data folder is full or read-only."""

    code = "scratch_unwritable"


class CatalogueNotLoaded(Unavailable):
    """The definitions could not be read since the service started."""

    code = "catalogue_not_loaded"


class WorkTooLarge(ResourceExhausted):
    """The work needs more memory than the service may use."""

    code = "work_too_large"


class DefinitionConflict(FailedPrecondition):
    """A change that the rows already kept do not allow."""

    code = "definition_conflict"
