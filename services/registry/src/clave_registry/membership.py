"""Asks the feature service which training sets hold an entity."""

from collections.abc import Mapping

from clave_common.errors import Unavailable
from clave_contracts.features import FeaturesClient
from clave_contracts.problems import ServiceProblem

from clave_registry.services.lineage import HeldIn, MembershipSource

PAGES_MAX = 50


class FeaturesMembership(MembershipSource):
    """The feature service's training sets."""

    def __init__(self, client: FeaturesClient) -> None:
        self._client = client

    async def training_sets_with(
        self, keys: Mapping[str, str | int], *, on_behalf_of: str
    ) -> tuple[list[HeldIn], bool]:
        """Ask page by page, newest training sets first.

        Raises:
            Unavailable: The feature service does not answer, or refuses.
        """
        held: list[HeldIn] = []
        token: str | None = None
        for _ in range(PAGES_MAX):
            try:
                page = await self._client.training_sets_with(dict(keys), page_token=token, on_behalf_of=on_behalf_of)
            except ServiceProblem as problem:
                raise Unavailable(
                    "The feature service could not say which training sets hold the entity; nothing is known until "
                    f"it does ({problem.code}).",
                    code="membership_unavailable",
                    retry_after_s=5.0,
                ) from problem
            held += [
                HeldIn(item.training_set.id, item.training_set.name, item.training_set.digest, item.matching_rows)
                for item in page.items
            ]
            token = page.next_page_token
            if token is None:
                return held, True
        return held, False
