"""Between what crosses the wire (`clave_contracts.features`) and what the rules speak (`domain`)."""

from collections.abc import Iterable
from datetime import timedelta

from clave_contracts import features as wire

from clave_features.domain.definitions import Entity, Feature, FeatureRef, FeatureService, Repository, View
from clave_features.domain.dtypes import Dtype, Value
from clave_features.domain.errors import DefinitionInvalid, ExpressionInvalid
from clave_features.domain.expressions import Expression
from clave_features.domain.rules import (
    Allowed,
    MissingShare,
    Outlier,
    OutlierMethod,
    Pattern,
    Range,
    Required,
    Rule,
)

_SIGMAS_DEFAULT = 4.0


def to_repository(
    entities: Iterable[wire.Entity], views: Iterable[wire.FeatureView], services: Iterable[wire.FeatureService]
) -> Repository:
    """Read definitions.

    Raises:
        DefinitionInvalid: They contradict themselves or one another; lists every problem.
    """
    problems: list[str] = []
    read_views: list[View] = []
    read_services: list[FeatureService] = []
    for view in views:
        try:
            read_views.append(_view(view))
        except DefinitionInvalid as error:
            problems += error.problems
    for service in services:
        try:
            read_services.append(_service(service))
        except DefinitionInvalid as error:
            problems += [f"feature service {service.name}: {problem}" for problem in error.problems]
    if problems:
        raise DefinitionInvalid(problems)
    return Repository(tuple(_entity(one) for one in entities), tuple(read_views), tuple(read_services))


def _entity(entity: wire.Entity) -> Entity:
    keys = tuple((name, Dtype(dtype)) for name, dtype in entity.join_keys.items())
    return Entity(entity.name, keys, entity.description)


def _service(service: wire.FeatureService) -> FeatureService:
    features = tuple(FeatureRef.parse(text) for text in service.features)
    return FeatureService(service.name, features, service.purpose)


def _view(view: wire.FeatureView) -> View:
    where = f"view {view.name}"
    columns = {one.name for one in view.features} | {one.source or one.name for one in view.features}
    problems = [
        f"{where}: rule '{rule.kind}' names the unknown column '{rule.column}'"
        for rule in view.rules
        if rule.column not in columns
    ]
    features: list[Feature] = []
    for one in view.features:
        try:
            features.append(_feature(one, view))
        except (DefinitionInvalid, ExpressionInvalid) as error:
            problems.append(f"{where}, {one.name}: {error.detail}")
    if problems:
        raise DefinitionInvalid(problems)
    return View(
        name=view.name,
        entity=view.entity,
        features=tuple(features),
        timestamp_column=view.timestamp_column,
        created_column=view.created_column,
        ttl=None if view.ttl_s is None else timedelta(seconds=view.ttl_s),
        is_label=view.label,
        online=view.online and not view.label,
        purposes=tuple(view.purposes),
    )


def _feature(one: wire.Feature, view: wire.FeatureView) -> Feature:
    if one.expression is not None and one.source is not None:
        raise DefinitionInvalid(["a feature has a source column or an expression, not both"])
    column = one.source or one.name
    rules = tuple(_rule(rule) for rule in view.rules if rule.column in {one.name, column})
    if view.missing_share_max < 1 and one.expression is None:
        rules += (MissingShare(view.missing_share_max),)
    return Feature(
        name=one.name,
        dtype=Dtype(one.dtype),
        column=column,
        levels=tuple(one.levels or ()),
        expression=None if one.expression is None else Expression(one.expression),
        nullable=one.nullable,
        protected=one.protected,
        rules=rules,
        description=one.description,
    )


def _rule(rule: wire.Rule) -> Rule:
    match rule.kind:
        case "not_null":
            return Required(rule.reason)
        case "range":
            return Range(rule.min, rule.max, rule.reason)
        case "set":
            values: tuple[Value, ...] = tuple(rule.values or ())
            return Allowed(values, rule.reason)
        case "regex":
            if rule.pattern is None:
                raise DefinitionInvalid(["a regex rule needs its pattern"])
            return Pattern(rule.pattern, rule.reason)
        case "outlier":
            if rule.iqr is not None:
                return Outlier(OutlierMethod.IQR, rule.iqr, reason=rule.reason)
            sigmas = _SIGMAS_DEFAULT if rule.sigmas is None else rule.sigmas
            return Outlier(OutlierMethod.Z_SCORE, sigmas, reason=rule.reason)
