"""The gateway's tables. What they mean is said in `domain`; how they came to be, in `migrations`."""

from clave_common.database import service_metadata
from sqlalchemy import BigInteger, Boolean, Column, DateTime, ForeignKey, Identity, Index, LargeBinary, Table, Text
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

SCHEMA = "gateway"
metadata = service_metadata(SCHEMA)


def _moment(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


principals = Table(
    "principals",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("groups", ARRAY(Text), nullable=False, server_default="{}"),
    Column("disabled", Boolean, nullable=False, server_default=sql("false")),
    Column("created_by", Text, nullable=False),
    _moment("created_at"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("principal_id", Text, ForeignKey(f"{SCHEMA}.principals.id"), nullable=False),
    Column("tenant", Text, nullable=False),
    Column("mac", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("replaces", Text, nullable=True),
    Column("created_by", Text, nullable=False),
    _moment("created_at"),
    _moment("expires_at"),
    _moment("revoked_at", nullable=True),
    Column("revoked_by", Text, nullable=True),
    _moment("last_used_at", nullable=True),
    Index("ix_api_keys_tenant_created_at", "tenant", "created_at"),
)

bindings = Table(
    "bindings",
    metadata,
    Column("id", Text, primary_key=True),
    Column("subject", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("namespaces", ARRAY(Text), nullable=False),
    Column("resources", ARRAY(Text), nullable=False),
    Column("created_by", Text, nullable=False),
    _moment("created_at"),
    Index("ix_bindings_subject", "subject"),
)

policy_bundles = Table(
    "policy_bundles",
    metadata,
    Column("version", BigInteger, Identity(always=True), primary_key=True),
    Column("digest", Text, nullable=False),
    Column("modules", JSONB, nullable=False),
    Column("data", JSONB, nullable=False),
    Column("origin", Text, nullable=False),
    Column("note", Text, nullable=False, server_default=""),
    Column("signature", Text, nullable=False),
    Column("plan", JSONB, nullable=True),
    Column("created_by", Text, nullable=False),
    _moment("created_at"),
    Column("activated_by", Text, nullable=True),
    _moment("activated_at", nullable=True),
)

access_state = Table(
    "access_state",
    metadata,
    Column("only", Boolean, primary_key=True, server_default=sql("true")),
    Column("revision", BigInteger, nullable=False),
    Column("active_bundle", BigInteger, nullable=True),
    Column("previous_bundle", BigInteger, nullable=True),
    Column("lockdown", Boolean, nullable=False, server_default=sql("false")),
    Column("lockdown_reason", Text, nullable=False, server_default=""),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", Text, primary_key=True),
    _moment("at"),
    Column("service", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("resource", Text, nullable=False),
    Column("allow", Boolean, nullable=False),
    Column("reasons", ARRAY(Text), nullable=False),
    Column("policy_version", Text, nullable=False),
    Column("engine", Text, nullable=False),
    Column("input", JSONB, nullable=False),
    Column("input_digest", Text, nullable=False),
    Index("ix_decisions_at", "at"),
    Index("ix_decisions_subject_at", "subject", "at"),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("index", BigInteger, primary_key=True, autoincrement=False),
    Column("entry_id", Text, nullable=False, unique=True),
    Column("canonical", LargeBinary, nullable=False),
    Column("leaf_hash", LargeBinary, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("resource", Text, nullable=False),
    _moment("at"),
    _moment("recorded_at"),
    Index("ix_audit_log_at", "at"),
    Index("ix_audit_log_actor", "actor"),
    Index("ix_audit_log_resource", "resource"),
)

audit_tree = Table(
    "audit_tree",
    metadata,
    Column("only", Boolean, primary_key=True, server_default=sql("true")),
    Column("size", BigInteger, nullable=False),
    Column("frontier", ARRAY(LargeBinary), nullable=False),
)

audit_checkpoints = Table(
    "audit_checkpoints",
    metadata,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("root", LargeBinary, nullable=False),
    Column("note", Text, nullable=False),
    _moment("at"),
)
