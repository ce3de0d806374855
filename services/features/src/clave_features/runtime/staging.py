"""Reads an upload into a staged table, whatever its form, and says clearly when it cannot.

CSV and JSON are read as text, so that validation alone decides what a value is: no guessing of types, no integer
through a float. Parquet keeps its own types.
"""
# ruff: noqa: S608 - SQL is this module's product; names and literals are quoted by `domain.sql`.

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from clave_features.domain.errors import ColumnsMissing, ColumnsUnknown, TableEmpty, TableMalformed
from clave_features.domain.sql import identifier, literal, text_list
from clave_features.runtime.engine import path_literal

if TYPE_CHECKING:
    import duckdb

STAGED: Final = "staged"
_OBJECT_BYTES_MAX: Final = 64 * 1024 * 1024
_MAGIC: Final = b"PAR1"


class Form(StrEnum):
    """How an upload is written."""

    PARQUET = "parquet"
    CSV = "csv"
    JSON = "json"


_FORMS: Final = {
    "application/vnd.apache.parquet": Form.PARQUET,
    "application/x-parquet": Form.PARQUET,
    "application/parquet": Form.PARQUET,
    "text/csv": Form.CSV,
    "application/csv": Form.CSV,
    "application/json": Form.JSON,
    "application/x-ndjson": Form.JSON,
}


def form_of(media_type: str | None, head: bytes) -> Form:
    """Tell the form of an upload by its content type, or by its first bytes where that says nothing.

    Raises:
        TableEmpty: There are no bytes.
        TableMalformed: The content type promises Parquet and the bytes are not.
    """
    if not head.strip():
        raise TableEmpty("The upload is empty; send a table with a header and at least one row.")
    named = _FORMS.get((media_type or "").partition(";")[0].strip().lower())
    if named is Form.PARQUET and not head.startswith(_MAGIC):
        raise TableMalformed("The content type says Parquet, but the bytes are not a Parquet file.", form="parquet")
    if named is not None:
        return named
    if head.startswith(_MAGIC):
        return Form.PARQUET
    return Form.JSON if head.lstrip()[:1] in {b"[", b"{"} else Form.CSV


def stage(connection: "duckdb.DuckDBPyConnection", path: Path, form: Form) -> dict[str, str]:
    """Read an upload into the table `staged` with `_row` 0, 1, 2, ... in the order of the upload.

    Returns:
        DuckDB type of each column of the upload.

    Raises:
        TableMalformed: The bytes are not a table of this form.
        TableEmpty: The table has no rows.
    """
    import duckdb  # noqa: PLC0415 - imported when first needed, see runtime.engine

    readers = {Form.PARQUET: _stage_parquet, Form.CSV: _stage_csv, Form.JSON: _stage_json}
    try:
        readers[form](connection, path)
        ((rows,),) = connection.execute(f"SELECT count(*) FROM {STAGED}").fetchall()
        described = connection.execute(f"DESCRIBE {STAGED}").fetchall()
    except (duckdb.Error, UnicodeDecodeError) as error:
        raise TableMalformed(
            f"The upload cannot be read as {form.upper()}: {_cause(error, path)}", form=form
        ) from error
    if not rows:
        raise TableEmpty("The table has no rows; nothing was ingested.")
    return {str(name): str(kind) for name, kind, *_ in described if name != "_row"}


def _cause(error: Exception, path: Path) -> str:
    first = str(error).replace(str(path), "upload").replace("\n\n", "\n").splitlines()
    lines = [line.strip() for line in first if line.strip() and not line.startswith("LINE ")]
    return " ".join(lines[:3])[:300] or "unknown cause"


def _stage_parquet(connection: "duckdb.DuckDBPyConnection", path: Path) -> None:
    connection.execute(
        f"CREATE TEMP TABLE {STAGED} AS SELECT file_row_number AS _row, * EXCLUDE (file_row_number) "
        f"FROM read_parquet({path_literal(path)}, file_row_number = true)"
    )


def _stage_csv(connection: "duckdb.DuckDBPyConnection", path: Path) -> None:
    connection.execute(
        f"CREATE TEMP TABLE {STAGED} AS SELECT row_number() OVER () - 1 AS _row, * "
        f"FROM read_csv({path_literal(path)}, all_varchar = true, header = true, delim = ',', quote = '\"', "
        "escape = '\"', comment = '', strict_mode = true, null_padding = false, auto_detect = true)"
    )


def _stage_json(connection: "duckdb.DuckDBPyConnection", path: Path) -> None:
    connection.execute(
        "CREATE TEMP TABLE _objects AS SELECT row_number() OVER () - 1 AS _row, json AS o "
        f"FROM read_json_objects({path_literal(path)}, format = 'auto', "
        f"maximum_object_size = {_OBJECT_BYTES_MAX})"
    )
    ((wrapped,),) = connection.execute(
        "SELECT count(*) = 1 AND bool_and(json_type(o, '$.rows') = 'ARRAY') FROM _objects WHERE json_type(o) = 'OBJECT'"
    ).fetchall()
    if wrapped:
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE _objects AS "
            "SELECT row_number() OVER () - 1 AS _row, unnest(CAST(o->'rows' AS JSON[])) AS o FROM _objects"
        )
    ((strange,),) = connection.execute("SELECT min(_row) FROM _objects WHERE json_type(o) <> 'OBJECT'").fetchall()
    if strange is not None:
        raise TableMalformed(
            f'Row {strange} of the JSON is not an object; send a list of rows like {{"column": value}}.',
            form="json",
        )
    keys = connection.execute(
        "SELECT key FROM (SELECT unnest(json_keys(o)) AS key, _row FROM _objects) GROUP BY key ORDER BY min(_row), key"
    ).fetchall()
    columns = [f"o ->> {literal('$.' + _json_name(key))} AS {identifier(key)}" for (key,) in keys]
    connection.execute(
        f"CREATE TEMP TABLE {STAGED} AS SELECT {text_list(['_row', *columns])} FROM _objects ORDER BY _row"
    )


def _json_name(key: str) -> str:
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


def require_columns(found: list[str], wanted: list[str], *, view: str, ignore_unknown: bool) -> None:
    """Insist on the view's columns.

    Raises:
        ColumnsMissing: Some are absent.
        ColumnsUnknown: There are others, and they are not to be ignored.
    """
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    if missing:
        raise ColumnsMissing(
            f"The table lacks {_named(missing)}, which view '{view}' needs. It has {_named(found)}.",
            missing=missing,
            unknown=unknown,
            expected=wanted,
        )
    if unknown and not ignore_unknown:
        raise ColumnsUnknown(
            f"View '{view}' does not declare {_named(unknown)}. Drop the columns, declare them in the repository, "
            "or send ?unknown_columns=ignore.",
            unknown=unknown,
            expected=wanted,
        )


def _named(names: list[str], limit: int = 20) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
