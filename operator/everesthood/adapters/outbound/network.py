"""Connections to checked addresses only: what is resolved is judged, and what was judged is connected to."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence

import httpcore2

from everesthood.apis.reasons import Reason
from everesthood.domain.addresses import refusal
from everesthood.domain.errors import StepFailed

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


async def resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses that the machine's resolver gives for a host."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class GuardedNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to hosts whose every address is allowed.

    The name stays with the request, so TLS and the Host header speak of the host, not the address.
    """

    def __init__(self, *, internal_hosts: frozenset[str], resolve: Resolve = resolve) -> None:
        """Let `internal_hosts` (`host:port`) lead inside the cluster."""
        self._internal_hosts = internal_hosts
        self._resolve = resolve
        self._plain = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface of httpcore2
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Resolve, judge every address, connect to the first that answers."""
        addresses = await self._judged(host, port)
        error: Exception = httpcore2.ConnectError("no address")
        for address in addresses:
            try:
                return await self._plain.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as failed:
                error = failed
        raise error

    async def _judged(self, host: str, port: int) -> Sequence[str]:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError):
            raise httpcore2.ConnectError("the name cannot be resolved") from None
        is_internal = f"{host}:{port}" in self._internal_hosts
        for address in addresses:
            why = refusal(address, is_internal_host=is_internal)
            if why is not None:
                said = f"{host} leads to {address}, which {why} that agents may not reach"
                raise StepFailed(said, Reason.ADDRESS_REFUSED)
        return addresses

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
