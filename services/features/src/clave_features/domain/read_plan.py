"""How the features of a service are read online: worked out once per state of the definitions."""

from dataclasses import dataclass

from clave_features.domain.definitions import Entity, FeatureService, Repository, View
from clave_features.domain.expressions import Column
from clave_features.domain.on_demand import computed
from clave_features.domain.online_values import OnlineColumns, OnlineSchema


@dataclass(frozen=True, slots=True)
class ViewRead:
    """What is read of one view.

    Attributes:
        stored: Pairs (position in the packed row, position in the answer) of stored features.
        on_demand: Pairs (feature, position in the answer) of computed ones.
        inputs: Pairs (stored feature, position in the packed row) that the computed ones need.
    """

    view: View
    entity: Entity
    schema: OnlineSchema
    stored: tuple[tuple[int, int], ...] = ()
    on_demand: tuple[tuple[str, int], ...] = ()
    inputs: tuple[tuple[str, int], ...] = ()

    def compute(self, columns: OnlineColumns, rows: int) -> list[tuple[int, Column]]:
        """Give the computed features with their positions in the answer."""
        if not self.on_demand:
            return []
        stored = {name: columns.numbers(at) for name, at in self.inputs}
        values = computed(self.view, [name for name, _ in self.on_demand], stored, rows)
        return [(at, values[name]) for name, at in self.on_demand]


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """What is read of all views of a feature service.

    Attributes:
        columns: Names of the features in the order of the answer.
    """

    columns: tuple[str, ...]
    views: tuple[ViewRead, ...]


def view_read(repository: Repository, name: str) -> ViewRead:
    """Plan to read whole rows of a view."""
    view = repository.view(name)
    return ViewRead(view, repository.entity(view.entity), OnlineSchema.of(view))


def read_plan(repository: Repository, service: FeatureService) -> ReadPlan:
    """Plan to read the features of a service."""
    reads = tuple(_service_view(repository, service, name) for name in service.views)
    return ReadPlan(tuple(ref.column for ref in service.features), reads)


def _service_view(repository: Repository, service: FeatureService, name: str) -> ViewRead:
    whole = view_read(repository, name)
    position = {one.name: at for at, one in enumerate(whole.view.stored)}
    wanted = [(ref.feature, at) for at, ref in enumerate(service.features) if ref.view == name]
    on_demand = tuple((feature, at) for feature, at in wanted if feature not in position)
    inputs = whole.view.inputs_of(tuple(feature for feature, _ in on_demand))
    return ViewRead(
        whole.view,
        whole.entity,
        whole.schema,
        stored=tuple((position[feature], at) for feature, at in wanted if feature in position),
        on_demand=on_demand,
        inputs=tuple((feature, position[feature]) for feature in inputs),
    )
