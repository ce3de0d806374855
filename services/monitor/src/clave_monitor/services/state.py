"""A monitor's accumulated state between evaluations, and its stored form."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from clave_monitor.domain.counters import Scope
from clave_monitor.domain.drift import DriftState
from clave_monitor.domain.evidence import Evidence
from clave_monitor.domain.performance import Harm


@dataclass(frozen=True)
class ScopeState:
    """One scope's evidence and what the last look said."""

    evidence: Evidence = field(default_factory=Evidence)
    state: DriftState = DriftState.NO_DATA
    effect_low: float = 0.0
    since: datetime | None = None


@dataclass(frozen=True)
class MonitorState:
    """Everything that an evaluation hands to the next.

    Attributes:
        scopes: Evidence per scope; `since` is when the evidence last began to grow.
        harm: Evidence of realised harm.
        harm_since: When the harm's evidence last began to grow.
        quality_broken: The last window violated data quality.
        estimate_dropped: The last estimate was below its band.
    """

    scopes: dict[Scope, ScopeState] = field(default_factory=lambda: {scope: ScopeState() for scope in Scope})
    harm: Harm = field(default_factory=Harm)
    harm_since: datetime | None = None
    quality_broken: bool = False
    estimate_dropped: bool = False

    @property
    def gated(self) -> bool:
        """Some scope has evidence and effect."""
        return any(scope.state is DriftState.DRIFT for scope in self.scopes.values())

    @property
    def watched(self) -> bool:
        """Some scope has evidence without effect."""
        return any(scope.state is DriftState.WATCH for scope in self.scopes.values())

    @property
    def since(self) -> datetime | None:
        """When what was found began, as far as the evidence tells."""
        times = [scope.since for scope in self.scopes.values() if scope.state is DriftState.DRIFT]
        return min((t for t in (*times, self.harm_since) if t is not None), default=None)

    def clear_drift(self) -> "MonitorState":
        """Forget the evidence of drift, as a person decided."""
        return replace(self, scopes={scope: ScopeState() for scope in Scope})

    def clear_harm(self) -> "MonitorState":
        """Forget the evidence of harm, as a person decided."""
        return replace(self, harm=Harm(), harm_since=None)

    def stored(self) -> dict[str, Any]:
        """Write the state as JSON-able values."""
        return {
            "scopes": {
                scope.value: {
                    "level": state.evidence.level,
                    "latched": state.evidence.latched,
                    "updates": state.evidence.updates,
                    "state": state.state.value,
                    "effect_low": state.effect_low,
                    "since": _text(state.since),
                }
                for scope, state in self.scopes.items()
            },
            "harm": {
                "levels": list(self.harm.levels),
                "latched": self.harm.latched,
                "labels": self.harm.labels,
                "since": _text(self.harm_since),
            },
            "quality_broken": self.quality_broken,
            "estimate_dropped": self.estimate_dropped,
        }


def restored(stored: dict[str, Any]) -> MonitorState:
    """Read a stored state; an empty one is a new monitor."""
    if not stored:
        return MonitorState()
    harm = stored["harm"]
    return MonitorState(
        scopes={scope: _scope(stored["scopes"].get(scope.value)) for scope in Scope},
        harm=Harm(tuple(harm["levels"]), harm["latched"], harm["labels"]),
        harm_since=_moment(harm["since"]),
        quality_broken=stored["quality_broken"],
        estimate_dropped=stored["estimate_dropped"],
    )


def _scope(stored: dict[str, Any] | None) -> ScopeState:
    if stored is None:
        return ScopeState()
    evidence = Evidence(stored["level"], stored["latched"], stored["updates"])
    return ScopeState(evidence, DriftState(stored["state"]), stored["effect_low"], _moment(stored["since"]))


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
