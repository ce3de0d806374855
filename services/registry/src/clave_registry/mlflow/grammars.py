"""What each kind of thing can be searched by, as MLflow's clients expect."""

from clave_registry.domain.filters import NULL_OPS, SET_OPS, TEXT_OPS, Grammar, Kind

_EQUALITY = frozenset({"=", "!="})
_KEYED = TEXT_OPS | NULL_OPS

EXPERIMENTS = Grammar(
    text={"name": TEXT_OPS, "experiment_id": _EQUALITY | SET_OPS},
    numbers=frozenset({"creation_time", "last_update_time"}),
    kinds={Kind.TAG: _KEYED},
)
RUNS = Grammar(
    text={
        "run_id": TEXT_OPS | SET_OPS,
        "run_name": TEXT_OPS | SET_OPS,
        "status": TEXT_OPS | SET_OPS,
        "artifact_uri": TEXT_OPS,
        "user_id": TEXT_OPS,
        "lifecycle_stage": TEXT_OPS,
        "experiment_id": _EQUALITY | SET_OPS,
    },
    numbers=frozenset({"start_time", "end_time", "created", "Created"}),
    kinds={
        Kind.METRIC: frozenset(),
        Kind.PARAM: _KEYED,
        Kind.TAG: _KEYED,
        Kind.DATASET: TEXT_OPS | SET_OPS,
    },
)
LOGGED_MODELS = Grammar(
    text=dict.fromkeys(("name", "model_id", "model_type", "status", "source_run_id"), TEXT_OPS | SET_OPS),
    numbers=frozenset({"creation_timestamp", "creation_time", "last_updated_timestamp", "last_updated_time"}),
    kinds={Kind.METRIC: frozenset(), Kind.PARAM: _KEYED | SET_OPS, Kind.TAG: _KEYED | SET_OPS},
)
REGISTERED_MODELS = Grammar(
    text={"name": TEXT_OPS | SET_OPS},
    numbers=frozenset({"last_updated_timestamp", "timestamp", "creation_timestamp"}),
    kinds={Kind.TAG: TEXT_OPS},
)
MODEL_VERSIONS = Grammar(
    text={"name": TEXT_OPS | SET_OPS, "run_id": TEXT_OPS | SET_OPS, "source_path": TEXT_OPS},
    numbers=frozenset({"version_number", "creation_timestamp", "last_updated_timestamp"}),
    kinds={Kind.TAG: TEXT_OPS},
)
