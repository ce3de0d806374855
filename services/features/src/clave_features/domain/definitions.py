"""What a feature repository declares: entities, views, services. Built valid or not at all.

`Repository` checks how its definitions fit together: unknown entities, columns and features, names used twice, rules
that do not fit their type, on-demand features that need each other in a circle, protected attributes or outcomes
offered to a model. All problems are collected and reported at once.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from clave_features.domain.dtypes import KEY_DTYPES, LEVELS_MAX, Dtype
from clave_features.domain.errors import (
    DefinitionInvalid,
    EntityNotFound,
    FeatureNotFound,
    ServiceNotFound,
    ViewNotFound,
)
from clave_features.domain.expressions import Expression
from clave_features.domain.rules import Allowed, Rule, rule_problems

NAME: Final = re.compile(r"[A-Za-z0-9](?:[_.-]?[A-Za-z0-9])*")
COLUMN_NAME: Final = re.compile(r"[A-Za-z](?:_?[A-Za-z0-9])*_?")
NAME_LENGTH_MAX: Final = 63
RESERVED: Final = frozenset({"event_ts", "created_ts", "seq", "status"})
FEATURES_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature of a feature view, or an outcome of a label view.

    Attributes:
        column: Name in the source table.
        levels: Of a category: its levels in the order of their codes 0, 1, 2, ...
        expression: Computed from the view's other features at the moment of reading, instead of being stored.
        nullable: A null passes the row rules of this feature.
        protected: Kept for fairness only; no feature service may offer it to a model.
    """

    name: str
    dtype: Dtype
    column: str
    levels: tuple[str, ...] = ()
    expression: Expression | None = None
    nullable: bool = False
    protected: bool = False
    rules: tuple[Rule, ...] = ()
    description: str = ""


@dataclass(frozen=True, slots=True)
class Entity:
    """What features describe, and the key columns that name one."""

    name: str
    keys: tuple[tuple[str, Dtype], ...]
    description: str = ""

    @property
    def key_names(self) -> tuple[str, ...]:
        """Names of the key columns, in order."""
        return tuple(name for name, _ in self.keys)


@dataclass(frozen=True, slots=True)
class View:
    """A feature view or a label view: features of one entity over time.

    Attributes:
        timestamp_column: Source column of the event time.
        created_column: Source column of the time at which the row became known; the server's clock when absent.
        ttl: How long a value stays usable; None for ever.
        is_label: The features are outcomes, read at their own time only.
        purposes: What the data may be used for; empty when it was not restricted.
    """

    name: str
    entity: str
    features: tuple[Feature, ...]
    timestamp_column: str = "event_ts"
    created_column: str | None = None
    ttl: timedelta | None = None
    is_label: bool = False
    online: bool = True
    purposes: tuple[str, ...] = ()

    @property
    def ttl_us(self) -> int | None:
        """Time to live in microseconds; None or 0 means that values never expire."""
        return None if self.ttl is None else self.ttl // timedelta(microseconds=1)

    @property
    def stored(self) -> tuple[Feature, ...]:
        """Features that are ingested and kept."""
        return tuple(one for one in self.features if one.expression is None)

    def find(self, name: str) -> Feature | None:
        """Find a feature by name."""
        return next((one for one in self.features if one.name == name), None)

    def feature(self, name: str) -> Feature:
        """Give a feature.

        Raises:
            FeatureNotFound: The view has none of that name.
        """
        found = self.find(name)
        if found is None:
            known = ", ".join(one.name for one in self.features)
            raise FeatureNotFound(f"View '{self.name}' has no feature '{name}', only {known}.", feature=name)
        return found

    def inputs_of(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """List the stored features needed to give some features, in the view's order."""
        needed: set[str] = set()
        open_ends = list(names)
        while open_ends:
            one = self.feature(open_ends.pop())
            if one.expression is None:
                needed.add(one.name)
            else:
                open_ends.extend(one.expression.inputs)
        return tuple(one.name for one in self.stored if one.name in needed)


@dataclass(frozen=True, slots=True)
class FeatureRef:
    """One feature of one view; in columns ``view__feature``, in text ``view:feature``."""

    view: str
    feature: str

    @property
    def column(self) -> str:
        """Name of the feature's column in training sets and online answers."""
        return f"{self.view}__{self.feature}"

    @classmethod
    def parse(cls, text: str) -> "FeatureRef":
        """Read ``view:feature``.

        Raises:
            DefinitionInvalid: There is no colon, or nothing on one side of it.
        """
        view, colon, feature = text.partition(":")
        if not (view and colon and feature):
            raise DefinitionInvalid([f"'{text}' is not of the form view:feature"])
        return cls(view, feature)


@dataclass(frozen=True, slots=True)
class FeatureService:
    """What one model reads: features in the order of its inputs.

    Attributes:
        purpose: What it reads them for.
    """

    name: str
    features: tuple[FeatureRef, ...]
    purpose: str | None = None

    @property
    def views(self) -> tuple[str, ...]:
        """Views in the order of their first use."""
        return tuple(dict.fromkeys(ref.view for ref in self.features))


@dataclass(frozen=True, slots=True)
class Repository:
    """A set of definitions that fit together.

    Raises:
        DefinitionInvalid: They do not; lists every problem.
    """

    entities: tuple[Entity, ...] = ()
    views: tuple[View, ...] = ()
    services: tuple[FeatureService, ...] = ()
    _by_name: dict[str, View] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._by_name.update({view.name: view for view in self.views})
        problems = list(_repository_problems(self))
        if problems:
            raise DefinitionInvalid(problems)

    def view(self, name: str) -> View:
        """Give a feature view or label view.

        Raises:
            ViewNotFound: There is none of that name.
        """
        view = self._by_name.get(name)
        if view is None:
            known = ", ".join(sorted(self._by_name)) or "none; apply a repository with 'clave apply'"
            raise ViewNotFound(f"There is no view '{name}'. Applied views: {known}.", view=name)
        return view

    def entity(self, name: str) -> Entity:
        """Give an entity.

        Raises:
            EntityNotFound: There is none of that name.
        """
        entity = next((one for one in self.entities if one.name == name), None)
        if entity is None:
            raise EntityNotFound(f"There is no entity '{name}'.", entity=name)
        return entity

    def service(self, name: str) -> FeatureService:
        """Give a feature service.

        Raises:
            ServiceNotFound: There is none of that name.
        """
        service = next((one for one in self.services if one.name == name), None)
        if service is None:
            known = ", ".join(sorted(one.name for one in self.services)) or "none"
            raise ServiceNotFound(f"There is no feature service '{name}'. Applied: {known}.", service=name)
        return service

    def feature(self, ref: FeatureRef) -> Feature:
        """Give a feature by reference; ViewNotFound or FeatureNotFound when there is none."""
        return self.view(ref.view).feature(ref.feature)


def name_problems(name: str, *, where: str) -> list[str]:
    """List what is wrong with the name of a definition; views join theirs to column names with ``__``."""
    if len(name) > NAME_LENGTH_MAX or not NAME.fullmatch(name):
        rule = f"letters and digits, joined by single '_', '.' or '-', at most {NAME_LENGTH_MAX}"
        return [f"{where}: '{name}' is no name ({rule})"]
    return []


def column_problems(name: str, *, where: str) -> list[str]:
    """List what is wrong with the name of a key or feature."""
    if len(name) > NAME_LENGTH_MAX or not COLUMN_NAME.fullmatch(name):
        rule = f"a letter, then letters, digits and single underscores, at most {NAME_LENGTH_MAX}"
        return [f"{where}: '{name}' is no column name ({rule})"]
    if name in RESERVED:
        return [f"{where}: '{name}' is reserved for the store's own columns"]
    return []


def _twice(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _repository_problems(repository: Repository) -> Iterator[str]:
    for noun, names in (
        ("entity", [one.name for one in repository.entities]),
        ("view", [one.name for one in repository.views]),
        ("feature service", [one.name for one in repository.services]),
    ):
        yield from (f"{noun} '{name}' is defined twice" for name in _twice(names))
    for entity in repository.entities:
        yield from _entity_problems(entity)
    entities = {entity.name: entity for entity in repository.entities}
    for view in repository.views:
        yield from _view_problems(view, entities)
    for service in repository.services:
        yield from _service_problems(service, repository)


def _entity_problems(entity: Entity) -> Iterator[str]:
    where = f"entity {entity.name}"
    yield from name_problems(entity.name, where=where)
    if not entity.keys:
        yield f"{where}: needs at least one join key"
    for name, dtype in entity.keys:
        yield from column_problems(name, where=where)
        if dtype not in KEY_DTYPES:
            yield f"{where}: key '{name}' must be int64 or string, not {dtype}"


def _view_problems(view: View, entities: dict[str, Entity]) -> Iterator[str]:
    where = f"view {view.name}"
    yield from name_problems(view.name, where=where)
    entity = entities.get(view.entity)
    if entity is None:
        yield f"{where}: there is no entity '{view.entity}'"
    if not view.stored or len(view.features) > FEATURES_MAX:
        yield f"{where}: needs between 1 and {FEATURES_MAX} features, at least one of them stored"
    yield from (f"{where}: feature '{name}' is defined twice" for name in _twice([one.name for one in view.features]))
    keys = entity.key_names if entity is not None else ()
    yield from (f"{where}: '{one.name}' is a key of the entity" for one in view.features if one.name in keys)
    if view.ttl is not None and view.ttl < timedelta(0):
        yield f"{where}: a time to live cannot be negative"
    for one in view.features:
        yield from _feature_problems(one, view, where=f"{where}, {one.name}")
    yield from _circle_problems(view)


def _feature_problems(one: Feature, view: View, *, where: str) -> Iterator[str]:
    yield from column_problems(one.name, where=where)
    if one.dtype is Dtype.CATEGORY and not one.levels:
        yield f"{where}: a category needs its levels"
    if one.dtype is not Dtype.CATEGORY and one.levels:
        yield f"{where}: only a category has levels"
    if len(one.levels) > LEVELS_MAX:
        yield f"{where}: more than {LEVELS_MAX} levels"
    yield from (f"{where}: level '{level}' is listed twice" for level in _twice(list(one.levels)))
    for rule in one.rules:
        yield from rule_problems(rule, one.dtype, where=where)
        if isinstance(rule, Allowed) and one.levels:
            strange = [value for value in rule.values if value not in one.levels]
            yield from (f"{where}: allowed value '{value}' is not one of the levels" for value in strange)
    if one.expression is not None:
        yield from _expression_problems(one, one.expression, view, where)


def _expression_problems(one: Feature, expression: Expression, view: View, where: str) -> Iterator[str]:
    if not one.dtype.is_numeric:
        yield f"{where}: an expression gives a number, not {one.dtype}"
    if one.rules:
        yield f"{where}: rules judge what is ingested, not what is computed"
    for name in sorted(expression.inputs):
        found = view.find(name)
        if found is None:
            yield f"{where}: the view has no feature '{name}' for its expression"
        elif not found.dtype.is_model_input:
            yield f"{where}: '{name}' of type {found.dtype} cannot enter an expression"


def _circle_problems(view: View) -> Iterator[str]:
    needs = {one.name: sorted(one.expression.inputs) for one in view.features if one.expression is not None}
    done: set[str] = set()
    for start in needs:
        path: list[str] = []
        stack = [(start, False)]
        while stack:
            node, leaving = stack.pop()
            if leaving:
                done.add(path.pop())
            elif node in path:
                yield f"view {view.name}: on-demand features need each other: {' -> '.join([*path, node])}"
                return
            elif node in needs and node not in done:
                path.append(node)
                stack.append((node, True))
                stack.extend((one, False) for one in needs[node])


def _service_problems(service: FeatureService, repository: Repository) -> Iterator[str]:
    where = f"feature service {service.name}"
    yield from name_problems(service.name, where=where)
    if not service.features:
        yield f"{where}: needs at least one feature"
    yield from (f"{where}: '{name}' is listed twice" for name in _twice([ref.column for ref in service.features]))
    views = {view.name: view for view in repository.views}
    for name in service.views:
        allowed = views[name].purposes if name in views else ()
        if allowed and service.purpose not in allowed:
            asked = f"not for '{service.purpose}'" if service.purpose else "and the service states no purpose"
            yield f"{where}: view '{name}' may be used for {', '.join(allowed)} only, {asked}"
    for ref in service.features:
        view = views.get(ref.view)
        one = view.find(ref.feature) if view is not None else None
        if view is None or one is None:
            yield f"{where}: there is no feature '{ref.view}:{ref.feature}'"
        elif view.is_label:
            yield f"{where}: '{ref.view}' is a label view; a model must not read its own outcome"
        elif one.protected:
            yield f"{where}: '{ref.view}:{ref.feature}' is a protected attribute; a model must not read it"
        elif not one.dtype.is_model_input:
            yield f"{where}: '{ref.view}:{ref.feature}' is {one.dtype}; a model reads numbers, bools and categories"
