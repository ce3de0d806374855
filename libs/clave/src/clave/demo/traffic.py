"""An application of the demo: asks for predictions with its own key, and later tells what really happened."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from clave_contracts.features import OnlineRead
from clave_contracts.inference import InferAnswer, InferTensor
from clave_contracts.monitor import FeedbackItem
from clave_contracts.problems import ServiceProblem

from clave.client import AsyncClient
from clave.demo.telco import KEY, LABEL, PROTECTED, Customer

_ROWS_PER_REQUEST = 5
_CONCURRENT = 4
_ATTEMPTS = 8
_RETRIABLE = {0, 429, 503}
_BACK_OFF_S = 0.25
T = TypeVar("T")


@dataclass
class Tally:
    """What the application has seen.

    Attributes:
        requests: Prediction requests answered.
        rows: Rows in them.
        failed: Requests that no retry could save.
        retried: Attempts that were answered with "later".
        outcomes: Outcomes taken by the monitor.
        rows_by_version: Rows that each model version answered, by ``v<version>``.
        canary_rows: Rows among them that a version answered while it was a canary.
    """

    requests: int = 0
    rows: int = 0
    failed: int = 0
    retried: int = 0
    outcomes: int = 0
    rows_by_version: Counter[str] = field(default_factory=Counter)
    canary_rows: int = 0


class Application:
    """The scoring application.

    Args:
        client: Speaks with the application's own key.
        endpoint: Which endpoint it asks.
        feature_service: Whose features it sends when it sends tensors.
    """

    def __init__(self, client: AsyncClient, *, endpoint: str, feature_service: str) -> None:
        self.client = client
        self.tally = Tally()
        self._endpoint = endpoint
        self._feature_service = feature_service

    async def serve(self, customers: Sequence[Customer], *, tell_outcomes: bool = True) -> None:
        """Ask for predictions for customers, a few in a request, and tell the outcomes that the table knows."""
        groups = [customers[start : start + _ROWS_PER_REQUEST] for start in range(0, len(customers), _ROWS_PER_REQUEST)]
        gate = asyncio.Semaphore(_CONCURRENT)

        async def one(group: Sequence[Customer]) -> list[FeedbackItem]:
            async with gate:
                answer = await self.ask(group)
            return [] if answer is None else outcomes_of(answer, group)

        told = await asyncio.gather(*(one(group) for group in groups))
        items = [item for group in told for item in group]
        if tell_outcomes and items:
            await self.tell(items)

    async def ask(self, group: Sequence[Customer]) -> InferAnswer | None:
        """Send one feature request, again while the answer is "later"; None when it failed for good."""
        answer = await self._patiently(
            lambda: self.client.predict(self._endpoint, entities={KEY: [row[KEY] for row in group]})
        )
        if answer is not None:
            self._count(answer, len(group))
        return answer

    async def ask_with_tensors(self, group: Sequence[Customer]) -> tuple[InferAnswer, InferTensor]:
        """Read the online features, send them as a tensor, and give the answer and what was sent."""
        rows = await self.client.features.read_online(
            OnlineRead(feature_service=self._feature_service, entities={KEY: [row[KEY] for row in group]})
        )
        metadata = await self.client.inference.metadata(self._endpoint)
        expected = metadata["inputs"][0]
        tensor = InferTensor(
            name=expected["name"],
            datatype=expected["datatype"],
            shape=[len(group), len(rows.columns)],
            data=[value for row in rows.values for value in row],
        )
        answer = await self.client.predict(self._endpoint, inputs=[tensor])
        self._count(answer, len(group))
        return answer, tensor

    async def tell(self, items: Sequence[FeedbackItem]) -> None:
        """Tell outcomes; again while the answer is "later", for telling twice counts once."""
        result = await self._patiently(lambda: self.client.send_feedback(items))
        if result is not None:
            self.tally.outcomes += result.joined + result.pending

    async def _patiently(self, send: Callable[[], Awaitable[T]]) -> T | None:
        for attempt in range(_ATTEMPTS):
            try:
                return await send()
            except ServiceProblem as problem:
                if problem.status not in _RETRIABLE:
                    raise
                self.tally.retried += 1
                await asyncio.sleep(float(problem.problem.get("retry_after_s") or _BACK_OFF_S * (attempt + 1)))
        self.tally.failed += 1
        return None

    def _count(self, answer: InferAnswer, rows: int) -> None:
        self.tally.requests += 1
        self.tally.rows += rows
        self.tally.rows_by_version[f"v{answer.model_version}"] += rows
        if answer.parameters.get("arm") == "canary":
            self.tally.canary_rows += rows


def outcomes_of(answer: InferAnswer, group: Sequence[Customer]) -> list[FeedbackItem]:
    """Name the real outcome of every row of an answer."""
    prediction_id = str(answer.parameters["prediction_id"])
    return [
        FeedbackItem(
            prediction_id=prediction_id,
            row=row,
            outcome=float(customer[LABEL]),
            attributes={name: customer[name] for name in PROTECTED},
        )
        for row, customer in enumerate(group)
    ]
