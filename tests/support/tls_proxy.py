"""TLS in front of a plain server: the Valkey of the wheel is built without it."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextmanager
def tls_in_front_of(port: int, certificate: Path) -> Iterator[int]:
    """Yield the port of a TLS server that passes everything on to `port`, in a thread of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "tls.crt", certificate / "tls.key")
    ready, stop = threading.Event(), asyncio.Event()
    found: dict[str, object] = {}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))

    async def serve() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
        found["port"], found["loop"] = server.sockets[0].getsockname()[1], asyncio.get_running_loop()
        ready.set()
        await stop.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield int(found["port"])  # type: ignore[call-overload]
    finally:
        found["loop"].call_soon_threadsafe(stop.set)  # type: ignore[attr-defined]
        thread.join(10)
