"""Facts of a version from which tests build cards."""

from datetime import UTC, datetime
from typing import Any

from clave_registry.domain.card import CardFacts


def facts(**changes: Any) -> CardFacts:
    values: dict[str, Any] = {
        "model": "churn",
        "version": 3,
        "status": "approved",
        "risk_class": "high",
        "manifest_digest": "f" * 64,
        "signature": {"columns": ["tenure", "contract"], "task": "binary", "threshold": 0.5},
        "params": {"max_depth": 5},
        "lineage": {
            "run_id": "run_1",
            "datasets": [{"id": "ts", "name": "churn", "digest": "a" * 64, "rows": 5634, "as_of": "2026-11-01"}],
        },
        "evaluation": {
            "metrics": {"test": {"auc": 0.8391, "accuracy": 0.7998}, "train": {"auc": 0.8702, "logloss": 0.4}},
            "gates": [
                {
                    "gate": "parity female",
                    "verdict": "review",
                    "detail": "interval crosses 0.8",
                    "estimate": 0.82,
                    "low": 0.74,
                    "high": 0.9,
                    "limit": 0.8,
                    "n": 1409,
                }
            ],
            "passed": True,
            "rows": 1409,
            "fairness": {"female": {"parity_ratio": 0.92, "low": 0.86, "high": 0.98, "n": 1409}},
        },
        "texts": {"limitations": ["International customers"], "rate_limit_per_minute": 1000.0},
        "contributors": ["user:ana"],
        "approvals": [{"by": "user:bob", "decision": "approve", "at": "2026-11-02", "comment": "fine"}],
        "approved_by": "user:bob",
        "endpoints": ["churn"],
        "created_at": datetime(2026, 11, 1, tzinfo=UTC),
        "created_by": "user:ana",
        "links": {"run": "/api/trainer/v1/runs/run_1"},
    }
    return CardFacts(**{**values, **changes})
