"""The operations that the routes call, built once in `app`."""

from dataclasses import dataclass

from clave_common.database import Database

from clave_registry.services.approvals import Approvals
from clave_registry.services.blobs import Blobs
from clave_registry.services.cards import Cards
from clave_registry.services.desired import DesiredStates
from clave_registry.services.endpoints import Endpoints
from clave_registry.services.holds import Holds
from clave_registry.services.lineage import Lineages
from clave_registry.services.models import Models
from clave_registry.services.rollouts import Rollouts
from clave_registry.services.signatures import Signatures
from clave_registry.services.uploads import Uploads
from clave_registry.services.versions import Versions
from clave_registry.services.webhooks import Webhooks


@dataclass(frozen=True, slots=True)
class Operations:
    """Everything the registry can do."""

    database: Database
    blobs: Blobs
    uploads: Uploads
    holds: Holds
    models: Models
    versions: Versions
    approvals: Approvals
    cards: Cards
    lineage: Lineages
    endpoints: Endpoints
    rollouts: Rollouts
    desired: DesiredStates
    signatures: Signatures
    webhooks: Webhooks
