"""Fills both databases with the same models and versions by SQL, up to a number of versions.

Half of the versions belong to one model, ``big``; the other half is spread over 100 models. Every version has a tag
that a tenth of all share (``team``) and one of its own kind (``kind``: one in a thousand is ``rare``). 2,000 runs of
one experiment have three params, three metrics and two tags each.
"""

import psycopg

MODELS = 100
RUNS = 2_000
_NAME = "case when g %% 2 = 0 then 'big' else 'model-' || (g / 2) %% %(models)s::int end"
_NUMBER = "case when g %% 2 = 0 then g / 2 + 1 else (g / 2) / %(models)s::int + 1 end"
_MOMENT = "1700000000000 + g::bigint * 1000"
_TEAM = "'t' || g %% 10"
_KIND = "case when g %% 1000 = 1 then 'rare' else 'common' end"
_NAMES = "select 'big' as name union all select 'model-' || n from generate_series(0, %(models)s::int - 1) n"

CLAVE = [
    f"""insert into registry.models (id, tenant, name, created_by, created_at, updated_at)
        select 'mdl_' || replace(name, '-', ''), 'default', name, 'user:bench', now(), now() from ({_NAMES}) names
        on conflict do nothing""",
    f"""insert into registry.versions (model_id, version, status, manifest_digest, signature, params, lineage, card,
          tags, description, contributors, created_by, created_at, updated_at, source, run_id)
        select 'mdl_' || replace({_NAME}, '-', ''), {_NUMBER}, 'draft', repeat('0', 64), '{{"inputs":[],"outputs":[]}}',
          '{{}}', '{{}}', '{{}}', jsonb_build_object('team', {_TEAM}, 'kind', {_KIND}), '', '["user:bench"]',
          'user:bench', to_timestamp(({_MOMENT}) / 1000.0), to_timestamp(({_MOMENT}) / 1000.0),
          's3://bucket/model/' || g, md5(g::text)
        from generate_series(%(first)s::int, %(last)s::int) g""",
    """update registry.models m set next_version = coalesce((select max(version) + 1 from registry.versions v
         where v.model_id = m.id), 1)""",
    """insert into registry.aliases (model_id, alias, version, at, by)
        select id, 'champion', 1, now(), 'user:bench' from registry.models where next_version > 1
        on conflict do nothing""",
]
MLFLOW = [
    f"""insert into registered_models (workspace, name, creation_time, last_updated_time)
        select 'default', name, 1700000000000, 1700000000000 from ({_NAMES}) names on conflict do nothing""",
    f"""insert into model_versions (workspace, name, version, creation_time, last_updated_time, description, user_id,
          current_stage, source, run_id, status)
        select 'default', {_NAME}, {_NUMBER}, {_MOMENT}, {_MOMENT}, '', 'bench', 'None', 's3://bucket/model/' || g,
          md5(g::text), 'READY' from generate_series(%(first)s::int, %(last)s::int) g""",
    f"""insert into model_version_tags (workspace, name, version, key, value)
        select 'default', {_NAME}, {_NUMBER}, 'team', {_TEAM} from generate_series(%(first)s::int, %(last)s::int) g
        union all
        select 'default', {_NAME}, {_NUMBER}, 'kind', {_KIND} from generate_series(%(first)s::int, %(last)s::int) g""",
    f"""insert into registered_model_aliases (workspace, name, alias, version)
        select 'default', name, 'champion', 1 from ({_NAMES}) names on conflict do nothing""",
]
_METRIC = "row_number() over (partition by key order by random()) / %(runs)s::float"
CLAVE_RUNS = [
    """insert into registry.runs (run_id, tenant, experiment_id, run_name, user_id, status, start_time, end_time,
          lifecycle_stage, artifact_uri, tags, params)
        select 'r' || g, 'default', 0, 'run-' || g, 'bench', 'FINISHED', 1700000000000 + g, 1700000000000 + g, 'active',
          'mlflow-artifacts:/0/r' || g || '/artifacts',
          jsonb_build_object('team', 't' || g %% 10, 'mlflow.runName', 'run-' || g),
          jsonb_build_object('a', g::text, 'b', (g %% 7)::text, 'c', 'x')
        from generate_series(1, %(runs)s::int) g""",
    f"""insert into registry.latest_metrics (run_id, key, timestamp, step, value, is_nan)
        select 'r' || g, key, 1700000000000, 0, {_METRIC}, false
        from generate_series(1, %(runs)s::int) g, unnest(array['auc', 'loss', 'f1']) key""",
    """insert into registry.metrics (run_id, key, timestamp, step, value, is_nan)
        select run_id, key, timestamp, step, value, is_nan from registry.latest_metrics""",
]
MLFLOW_RUNS = [
    """insert into runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time,
          end_time, source_version, lifecycle_stage, artifact_uri, experiment_id)
        select 'r' || g, 'run-' || g, 'LOCAL', '', '', 'bench', 'FINISHED', 1700000000000 + g, 1700000000000 + g, '',
          'active', 'mlflow-artifacts:/0/r' || g || '/artifacts', 0 from generate_series(1, %(runs)s::int) g""",
    """insert into tags (key, value, run_uuid)
        select 'team', 't' || g %% 10, 'r' || g from generate_series(1, %(runs)s::int) g
        union all select 'mlflow.runName', 'run-' || g, 'r' || g from generate_series(1, %(runs)s::int) g""",
    """insert into params (key, value, run_uuid)
        select key, case key when 'a' then g::text when 'b' then (g %% 7)::text else 'x' end, 'r' || g
        from generate_series(1, %(runs)s::int) g, unnest(array['a', 'b', 'c']) key""",
    f"""insert into latest_metrics (key, value, timestamp, step, is_nan, run_uuid)
        select key, {_METRIC}, 1700000000000, 0, false, 'r' || g
        from generate_series(1, %(runs)s::int) g, unnest(array['auc', 'loss', 'f1']) key""",
    """insert into metrics (key, value, timestamp, step, is_nan, run_uuid)
        select key, value, timestamp, step, is_nan, run_uuid from latest_metrics""",
]


def fill(host: str, *, versions: int) -> None:
    """Bring both databases to a number of versions, and give them their runs."""
    for name, statements, runs, table in (
        ("clave", CLAVE, CLAVE_RUNS, "registry.versions"),
        ("mlflow", MLFLOW, MLFLOW_RUNS, "model_versions"),
    ):
        with psycopg.connect(host=host, user="postgres", dbname=name, autocommit=True) as database:
            filled = database.execute(f"select count(*) from {table} where source like 's3://bucket/model/%'")
            first = (filled.fetchone() or (0,))[0]
            facts = {"models": MODELS, "first": first, "last": versions - 1, "runs": RUNS}
            if first < versions:
                for statement in statements:
                    database.execute(statement, facts)
            runs_table = "registry.runs" if name == "clave" else "runs"
            if not database.execute(f"select 1 from {runs_table} where user_id = 'bench' limit 1").fetchone():
                for statement in runs:
                    database.execute(statement, facts)
            database.execute("vacuum analyze")
