"""Look at the values of credentials, and tell whether each can be read and whether it changed."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Final

from everesthood.apis.reasons import Reason
from everesthood.domain.credentials import fingerprint, usable
from everesthood.domain.errors import Refused, Unavailable
from everesthood.usecases.ports.identity import Secrets
from everesthood.usecases.ports.record import ObservationStore
from everesthood.usecases.ports.registry import PublishedCredential

_AT_ONCE: Final = 8


async def observe_credentials(
    *, store: ObservationStore, secrets: Secrets, key: bytes, older_than_seconds: float
) -> Mapping[str, int]:
    """Look at every credential that is due; return counts by reason.

    What cannot be looked at, because Kubernetes is away, keeps its last observation.
    """
    counts: Counter[str] = Counter()
    gate = asyncio.Semaphore(_AT_ONCE)

    async def look(credential: PublishedCredential) -> None:
        async with gate:
            seen = await _look(secrets, credential, key)
        if seen is None:
            counts["unavailable"] += 1
            return
        await store.observe(credential.uid, *seen)
        counts[seen[0]] += 1

    due = await store.credentials_due(older_than_seconds)
    await asyncio.gather(*(look(credential) for credential in due))
    return counts


async def _look(secrets: Secrets, credential: PublishedCredential, key: bytes) -> tuple[str, str] | None:
    try:
        value = await secrets.value(credential.namespace, credential.secret_name, credential.secret_key)
    except Unavailable:
        return None
    except Refused as error:
        return error.reason, ""
    return Reason.CREDENTIAL_VERIFIED, fingerprint(key, usable(value))
