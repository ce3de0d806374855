"""What a command that speaks to a stack is given: a client, and a way to show what came back."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from clave.cli import options
from clave.cli.output import Output, show_facts, show_json, show_table

if TYPE_CHECKING:
    from pydantic import BaseModel

    from clave.client import AsyncClient

T = TypeVar("T")


@dataclass(frozen=True)
class Session:
    """One command's conversation.

    Attributes:
        url: Address given by the user.
        api_key: Key given by the user.
        data_dir: Data directory given by the user.
        output: Form of the data.
    """

    url: str | None
    api_key: str | None
    data_dir: Path | None
    output: Output

    def ask(self, question: "Callable[[AsyncClient], Awaitable[T]]") -> T:
        """Run one conversation with the stack and give its outcome."""

        async def converse() -> T:
            from clave.client import AsyncClient  # noqa: PLC0415 - only when something is asked

            async with AsyncClient(self.url, self.api_key, data_dir=self.data_dir) as client:
                return await question(client)

        return asyncio.run(converse())

    def show(self, answer: "BaseModel | Mapping[str, Any]", facts: Mapping[str, Any]) -> None:
        """Show one thing: whole as JSON, or the named facts."""
        if self.output is Output.JSON:
            show_json(_plain(answer))
        else:
            show_facts(facts)

    def show_rows(
        self,
        answer: "BaseModel | Mapping[str, Any] | Sequence[Any]",
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
    ) -> None:
        """Show a list: whole as JSON, or as a table."""
        if self.output is Output.JSON:
            show_json(_plain(answer))
        else:
            show_table(columns, rows)


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options ``--data-dir --url --api-key --output`` and, for them, a `Session` first."""
    shared = {"data_dir": options.DataDir, "url": options.Url, "api_key": options.ApiKey}

    @functools.wraps(command)
    def with_session(
        *,
        data_dir: Path | None = None,
        url: str | None = None,
        api_key: str | None = None,
        output: Output = Output.TABLE,
        **own: object,
    ) -> None:
        # An address or a key from the environment speaks for itself; a data directory given by name wins over it.
        command(Session(url=url, api_key=api_key, data_dir=data_dir, output=output), **own)

    own_parameters = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter(name, keyword, annotation=kind, default=None) for name, kind in shared.items()]
    added.append(inspect.Parameter("output", keyword, annotation=options.OutputOption, default=Output.TABLE))
    parameters = [parameter.replace(kind=keyword) for parameter in own_parameters] + added
    with_session.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    with_session.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_session


def _plain(answer: "BaseModel | Mapping[str, Any] | Sequence[Any]") -> object:
    from pydantic import BaseModel  # noqa: PLC0415 - loaded already when there is an answer

    if isinstance(answer, BaseModel):
        return answer.model_dump(mode="json")
    if isinstance(answer, (list, tuple)):
        return [_plain(item) for item in answer]
    return answer
