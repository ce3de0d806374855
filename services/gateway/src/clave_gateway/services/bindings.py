"""Gives and takes roles. Nobody gives more than they hold; the policy decides that (delegation.rego)."""

from clave_common.access.enforcement import Access
from clave_common.access.model import Caller, Decision, Resource
from clave_common.clock import Clock
from clave_common.database import Database, Transaction
from clave_common.errors import InvalidArgument, NotFound
from clave_common.ids import new_id

from clave_gateway.services.changes import record_change
from clave_gateway.storage import identity
from clave_gateway.storage.identity import BindingRow


class BindingService:
    """Operations on bindings."""

    def __init__(self, database: Database, access: Access, clock: Clock) -> None:
        self._database = database
        self._access = access
        self._clock = clock

    async def create(
        self, caller: Caller, *, subject: str, role: str, namespaces: list[str], resources: list[str]
    ) -> BindingRow:
        """Bind a role to a subject or group in the caller's tenant.

        Raises:
            InvalidArgument: Unknown role.
            PermissionDenied: The caller may not give this role there.
        """
        binding, decision = await self.prepare(
            caller, subject=subject, role=role, namespaces=namespaces, resources=resources
        )
        async with self._database.transaction() as tx:
            await self.add(tx, caller, binding, decision)
        return binding

    async def prepare(
        self, caller: Caller, *, subject: str, role: str, namespaces: list[str], resources: list[str]
    ) -> tuple[BindingRow, Decision]:
        """Build a binding and ask whether the caller may give it."""
        if role not in self._access.policy_data().get("roles", {}):
            raise InvalidArgument(f"There is no role {role!r}; 'clave roles list' shows which there are.", field="role")
        binding = BindingRow(
            id=new_id("bnd"),
            subject=subject,
            role=role,
            tenant=caller.tenant,
            namespaces=namespaces,
            resources=resources,
            created_by=caller.subject_id,
            created_at=self._clock.now(),
        )
        decision = await self._access.require(
            caller,
            "admin:binding.create",
            Resource(
                "binding",
                "bindings/new",
                {
                    "tenant": caller.tenant,
                    "binding": {
                        "subject": subject,
                        "role": role,
                        "tenant": binding.tenant,
                        "namespaces": binding.namespaces,
                        "resources": resources,
                    },
                },
            ),
        )
        return binding, decision

    async def add(self, tx: Transaction, caller: Caller, binding: BindingRow, decision: Decision) -> None:
        """Write a prepared binding in a running transaction."""
        await identity.add_binding(tx.session, binding)
        await record_change(
            tx,
            self._clock,
            caller=caller,
            action="admin:binding.create",
            resource=f"bindings/{binding.id}",
            decision=decision,
            details={
                "subject": binding.subject,
                "role": binding.role,
                "namespaces": binding.namespaces,
                "resources": binding.resources,
            },
        )

    async def list_bindings(self, caller: Caller, *, limit: int) -> list[BindingRow]:
        """List the bindings that the caller may see."""
        clauses = await self._access.visible(caller, "admin:binding.list")
        async with self._database.transaction() as tx:
            return await identity.list_bindings(tx.session, clauses, limit=limit)

    async def delete(self, caller: Caller, binding_id: str) -> None:
        """Take a role back; services follow within two seconds.

        Raises:
            NotFound: No such binding in the caller's tenant.
        """
        async with self._database.transaction() as tx:
            binding = await identity.find_binding(tx.session, binding_id)
            if binding is None or binding.tenant != caller.tenant:
                raise NotFound(f"There is no binding {binding_id}.", code="binding_not_found")
            decision = await self._access.require(
                caller,
                "admin:binding.delete",
                Resource("binding", f"bindings/{binding_id}", {"tenant": binding.tenant}),
            )
            await identity.remove_binding(tx.session, binding_id)
            await record_change(
                tx,
                self._clock,
                caller=caller,
                action="admin:binding.delete",
                resource=f"bindings/{binding_id}",
                decision=decision,
                details={"subject": binding.subject, "role": binding.role},
            )
