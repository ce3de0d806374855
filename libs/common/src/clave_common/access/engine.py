"""The policy engines behind one Protocol: the embedded one here, a real OPA server in `opa_engine`.

Only an answer whose ``allow`` is exactly true and which names no reason allows. Undefined, a time-out, an exception
or an odd document is no decision, and no decision is a deny: the caller raises Unavailable.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
import regorus

from clave_common.access.policy_bundle import DECISION_RULE, VISIBLE_RULE, PolicyBundle
from clave_common.access.policy_index import merged_for
from clave_common.errors import InvalidArgument, Unavailable

GROUPS_WALKED_MAX = 20
"""Groups holding something that one question is answered for by walking them."""
_RVM_UNDEFINED = "<undefined>"


class PolicyEngine(Protocol):
    """Something that answers policy questions."""

    name: str

    async def load(self, bundle: PolicyBundle) -> None:
        """Switch to a bundle."""
        ...

    async def decide(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the decision document for an AuthZEN input.

        Raises:
            Unavailable: The engine gave no usable answer.
        """
        ...

    async def visible(self, question: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Return the clauses that let a row through, for list endpoints."""
        ...


def encode_question(question: Mapping[str, Any]) -> bytes:
    """Write a policy input as JSON; NaN and infinities become null, which every rule refuses.

    Raises:
        InvalidArgument: A value has no place in JSON, for example an integer of more than 64 bits.
    """
    try:
        return orjson.dumps(question, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    except TypeError as error:
        raise InvalidArgument(
            "The request holds a value that no policy can judge.", code="malformed_policy_input"
        ) from error


def no_answer(engine: str, why: str) -> Unavailable:
    """Build the refusal for a question that nobody answered."""
    return Unavailable(
        f"The policy engine ({engine}) gave no decision: {why}. Nothing was done; try again shortly.",
        code="policy_unavailable",
        retry_after_s=1.0,
        engine=engine,
    )


@dataclass(slots=True)
class _Loaded:
    """A compiled bundle on one thread.

    Attributes:
        crowd: The machine for a subject in many groups, made when the first one comes.
        crowd_of: Whose bindings that machine holds: the subject and its groups.
    """

    generation: int
    program: regorus.Program
    machine: regorus.Rvm
    crowd: regorus.Rvm | None = None
    crowd_of: tuple[str, list[str]] | None = None


class EmbeddedEngine:
    """The Rego virtual machine of regorus, one per thread (a machine is bound to the thread that made it).

    A machine stops after 25,000 instructions. Bindings are arranged beforehand, so that their number does not count;
    groups are walked one by one. A subject in more than `GROUPS_WALKED_MAX` groups that hold something is therefore
    asked about on a machine of its own, whose data hold its own and its groups' bindings as if all were its own.
    """

    name = "embedded"

    def __init__(self) -> None:
        self._bundle: PolicyBundle | None = None
        self._generation = 0
        self._local = threading.local()

    async def load(self, bundle: PolicyBundle) -> None:
        """Compile a bundle on this thread; other threads follow at their next question."""
        self.use(bundle)

    def use(self, bundle: PolicyBundle) -> None:
        """Compile and switch.

        Raises:
            InvalidArgument: The modules do not compile.
        """
        loaded = self._compiled(bundle, self._generation + 1)
        self._bundle = bundle
        self._generation += 1
        self._local.loaded = loaded

    @staticmethod
    def _compiled(bundle: PolicyBundle, generation: int) -> _Loaded:
        data = orjson.dumps({"clave": bundle.document()}).decode()
        try:
            program = regorus.Program.compile_from_modules(
                data, sorted(bundle.modules.items()), [DECISION_RULE, VISIBLE_RULE]
            )
            return _Loaded(generation, program, _machine(program, data))
        except RuntimeError as error:
            raise InvalidArgument(f"The policy does not compile: {str(error)[:500]}", code="policy_invalid") from error

    def _loaded(self) -> _Loaded:
        if self._bundle is None:
            raise no_answer(self.name, "no policy is loaded yet")
        loaded: _Loaded | None = getattr(self._local, "loaded", None)
        if loaded is None or loaded.generation != self._generation:
            loaded = self._local.loaded = self._compiled(self._bundle, self._generation)
        return loaded

    async def decide(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        """Evaluate here and now (about 0.15 ms)."""
        return self._decision(self._ask(question, DECISION_RULE))

    async def visible(self, question: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Evaluate the list filter."""
        clauses = self._ask(question, VISIBLE_RULE)
        return [clause for clause in clauses if isinstance(clause, dict)] if isinstance(clauses, list) else []

    def evaluate(self, question: bytes) -> Mapping[str, Any]:
        """Evaluate the decision for an encoded input."""
        return self._decision(self._run(self._loaded().machine, question, DECISION_RULE))

    def _decision(self, document: Any) -> Mapping[str, Any]:
        if not isinstance(document, dict):
            raise no_answer(self.name, "the decision is undefined")
        mask = document.get("obligations", {}).get("mask")
        if isinstance(mask, list) and _RVM_UNDEFINED in mask:
            document["obligations"]["mask"] = [name for name in mask if name != _RVM_UNDEFINED]
        return document

    def _ask(self, question: Mapping[str, Any], rule: str) -> Any:
        loaded = self._loaded()
        groups = _groups(question)
        if len(groups) <= GROUPS_WALKED_MAX or self._bundle is None:
            return self._run(loaded.machine, encode_question(question), rule)
        known = self._bundle.data.get("group_bindings", {})
        walked = [group for group in groups if isinstance(group, str) and group in known]
        if len(walked) > GROUPS_WALKED_MAX:
            machine = self._crowded(loaded, self._bundle, str(question["subject"].get("id")), walked)
            return self._run(machine, encode_question(_in_groups(question, [])), rule)
        return self._run(loaded.machine, encode_question(_in_groups(question, walked)), rule)

    @staticmethod
    def _crowded(loaded: _Loaded, bundle: PolicyBundle, subject_id: str, groups: list[str]) -> regorus.Rvm:
        """Give the machine whose data hold one subject's bindings and its groups' (some ms, but for the last one's)."""
        if loaded.crowd is None:
            loaded.crowd = _machine(loaded.program, None)
        if loaded.crowd_of != (subject_id, groups):
            loaded.crowd_of = None
            merged = {"clave": merged_for(bundle.data, subject_id, groups)}
            loaded.crowd.set_data_json(orjson.dumps(merged).decode())
            loaded.crowd_of = (subject_id, groups)
        return loaded.crowd

    def _run(self, machine: regorus.Rvm, question: bytes, rule: str) -> Any:
        try:
            machine.set_input_json(question.decode())
            return orjson.loads(machine.execute_entry_point(rule))
        except (RuntimeError, orjson.JSONDecodeError) as error:
            raise no_answer(self.name, type(error).__name__) from error


def _machine(program: regorus.Program, data: str | None) -> regorus.Rvm:
    machine = regorus.Rvm()
    machine.load_program(program)
    if data is not None:
        machine.set_data_json(data)
    return machine


def _groups(question: Mapping[str, Any]) -> list[Any]:
    """Give the groups that a question names; none where it is malformed, which the rules refuse."""
    subject = question.get("subject")
    properties = subject.get("properties") if isinstance(subject, Mapping) else None
    groups = properties.get("groups") if isinstance(properties, Mapping) else None
    return groups if isinstance(groups, list) else []


def _in_groups(question: Mapping[str, Any], groups: list[str]) -> dict[str, Any]:
    """Give a question whose subject is in other groups."""
    subject = question["subject"]
    return {**question, "subject": {**subject, "properties": {**subject["properties"], "groups": groups}}}
