"""The refusals of the inference service, each with the facts a caller needs to mend the call."""

from typing import Any

from clave_common.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    Unavailable,
)


class InvalidInferRequest(InvalidArgument):
    """The request breaks the protocol or the model's signature; the text names field, fault and remedy."""

    code = "invalid_infer_request"

    def __init__(self, field: str, fault: str, remedy: str = "", **facts: Any) -> None:
        detail = f"{field}: {fault}" + (f" {remedy}" if remedy else "")
        super().__init__(detail, field=field, **facts)


class BodyTooLarge(PayloadTooLarge):
    """The body is larger than the service reads."""

    code = "body_too_large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"The body is larger than {limit_bytes} bytes. Split the rows over several requests.",
            limit_bytes=limit_bytes,
        )


class ModelUnknown(NotFound):
    """No endpoint or model of that name, or no such version, is served here."""

    code = "model_unknown"

    def __init__(self, model: str, version: str | None = None) -> None:
        what = f"model '{model[:200]}'" + (f" version '{version[:100]}'" if version else "")
        super().__init__(
            f"There is no {what} here. POST /v2/repository/index lists what is served.",
            model=model[:200],
            version=version and version[:100],
        )


class ModelNotReady(Unavailable):
    """The model is desired but not loaded yet, or failed to load."""

    code = "model_not_ready"

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"Model '{model}' is not ready: {reason}. Try again shortly.", retry_after_s=1.0, model=model)


class Overloaded(Unavailable):
    """More rows wait than can be answered in time."""

    code = "overloaded"

    def __init__(self, queued_rows: int, limit_rows: int) -> None:
        super().__init__(
            f"{queued_rows} rows wait already (limit {limit_rows}). Slow down and try again.",
            retry_after_s=1.0,
            queued_rows=queued_rows,
            limit_rows=limit_rows,
        )


class DeadlinePassed(DeadlineExceeded):
    """The caller's time was over before the model ran."""

    code = "deadline_passed"

    def __init__(self) -> None:
        super().__init__("The request's timeout passed before the model ran; nothing was predicted.")


class ModelRunFailed(InvalidArgument):
    """The runtime refused these rows although they fit the signature."""

    code = "model_run_failed"

    def __init__(self, model: str, version: str) -> None:
        super().__init__(
            f"Model '{model}' version '{version}' could not compute these rows; others were not affected.",
            model=model,
            version=version,
        )


class FeatureMasked(PermissionDenied):
    """The policy withholds features that the model needs, and the caller did not accept to go without them."""

    code = "feature_masked"


class FeaturesUnavailable(Unavailable):
    """The feature service did not answer in time."""

    code = "features_unavailable"


class CannotExplain(InvalidArgument):
    """The model is of a kind whose predictions cannot be explained here."""

    code = "cannot_explain"


class ModelRejected(Exception):
    """A model file must not be loaded; says why in one sentence."""
