"""What each reason of the policy means, and what would be needed: the text behind `clave explain`."""

import re
from collections.abc import Iterable, Mapping

REMEDIES: dict[str, str] = {
    "malformed_input": "The service asked a question the policy cannot read: a fault of the service, not the caller.",
    "unauthenticated": "This kind of principal may not use this kind of credential; use one that its kind allows.",
    "subject_disabled": "The principal is disabled; an administrator must enable it.",
    "credential_expired": "The credential has expired; make a new key with 'clave keys create' or sign in again.",
    "scope_exceeded": "The key's scopes do not cover this action; use a key with a wider scope.",
    "unknown_action": "The action is not in the policy's catalogue; nobody may do it.",
    "no_grant": "No role of the caller permits the action; bind one with 'clave bindings create'.",
    "tenant_mismatch": "The thing belongs to another tenant; ask there.",
    "namespace_not_bound": "The role is bound, but not in this environment; bind it there.",
    "resource_not_bound": "The role is bound here, but not for this thing; widen the binding's resources.",
    "internal_only": "Only services do this; ask for the operation that causes it instead.",
    "mfa_required": "A second factor is needed: sign in with one and try again.",
    "network_not_allowed": "Administration is only accepted from the networks in 'admin_networks'.",
    "lockdown": "The installation is locked down; wait for its end or ask who declared it.",
    "separation_of_duties": "Whoever made the thing may not decide on it; a person who did not contribute must.",
    "already_approved_by_subject": "The caller has voted on this version already; another person must.",
    "status_not_allowed": "The version's status does not allow this here; submit or approve it first.",
    "insufficient_approvals": "More people must approve the version first: 'clave approve'.",
    "artifact_not_signed": "The version carries no verified signature, which this environment requires.",
    "evaluation_gate_not_passed": "The version has not passed its evaluation gate, which this environment requires.",
    "evaluator_not_accepted": "Its evaluation was recorded by somebody whom this environment does not take it from "
    "(require_evaluated_by); let the pipeline, or another principal named there, evaluate and register it.",
    "card_forbids_namespace": "The model's card does not allow this environment (allowed_namespaces).",
    "outside_change_window": "Changes wait for the next window; an incident commander with a second factor may break "
    "the glass: CLAVE_BREAK_GLASS='INC-12345 why', or the header clave-break-glass.",
    "purpose_not_permitted": "A feature asked for is not permitted for this purpose; name another purpose or feature.",
    "consent_missing": "A feature asked for needs the person's consent to this purpose.",
    "quota_exceeded": "The tenant's quota of cores, run time or jobs at once is used up, or the request names none.",
    "privilege_escalation": "Nobody hands out more than they hold in this tenant with this credential; ask for less.",
}


_RAISED = r'^reasons contains "%s" if (?:\{.*?\bnot (?P<block>\w+)\n\}|not (?P<line>\w+)$)'


def rules_of(reasons: Iterable[str], modules: Mapping[str, str]) -> dict[str, str]:
    """Name for each reason the rule that did not hold and where it stands, as ``release.rego:12 sod_ok``."""
    found = {reason: _rule_of(reason, modules) for reason in reasons}
    return {reason: rule for reason, rule in found.items() if rule is not None}


def _rule_of(reason: str, modules: Mapping[str, str]) -> str | None:
    pattern = re.compile(_RAISED % re.escape(reason), re.MULTILINE | re.DOTALL)
    raised = next((match for text in modules.values() if (match := pattern.search(text))), None)
    if raised is None:
        return None
    rule = raised["block"] or raised["line"]
    stands = re.compile(rf"^{rule}(?= if\b| :=| contains\b|$)", re.MULTILINE)
    for name, text in sorted(modules.items()):
        if match := stands.search(text):
            return f"{name}:{text.count(chr(10), 0, match.start()) + 1} {rule}"
    return None


def remedies(reasons: Iterable[str]) -> dict[str, str]:
    """Say for each reason what would be needed."""
    return {reason: REMEDIES.get(reason, "No explanation is known.") for reason in reasons}
