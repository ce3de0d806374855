"""What Prometheus sees of the feature store, beyond what every service shows."""

from typing import Final

from clave_contracts.features import IngestReport
from prometheus_client import Counter

ROWS: Final = Counter("clave_features_ingested_rows_total", "Rows by what became of them.", ["view", "verdict"])
BATCHES: Final = Counter("clave_features_batches_total", "Ingested tables.", ["view", "duplicate"])


def count_ingest(report: IngestReport) -> None:
    """Count a settled batch; one that was there already brings no rows."""
    BATCHES.labels(report.view, str(report.duplicate).lower()).inc()
    if not report.duplicate:
        ROWS.labels(report.view, "accepted").inc(report.accepted)
        ROWS.labels(report.view, "quarantined").inc(report.quarantined)
