"""Rings queues in Redis: many rings, few round trips, and never an error for who rings."""

import asyncio
import hashlib
import time
from importlib.resources import files
from uuid import uuid4

import structlog
from prometheus_client import Counter
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from everesthood.domain.bells import BELL_SECONDS, bell_key, bell_message, queue_key

_log = structlog.get_logger(__name__)
_SCRIPT = files(__package__).joinpath("ring.lua").read_text(encoding="utf-8")
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
_PATIENCE_SECONDS = 0.1
_GAP_SECONDS = 0.002
"""Between batches: at full load a round trip per accepted run would be a third of the work."""
_SILENCE_SECONDS = 1.0
_BATCH = 500

_RINGS = Counter("everesthood_bell_rings", "Bells asked for, by what became of them.", ["outcome"])

Queue = tuple[str, str]
"""(instance uid, revision)"""


class RedisBell:
    """Bell in Redis. Ringing hands over and returns; rings that come together travel together."""

    def __init__(self, redis: Redis) -> None:
        """Ring through this client."""
        self._redis = redis
        self._waiting: set[Queue] = set()
        self._sender: asyncio.Task[None] | None = None
        self._silent_until = 0.0

    async def ring(self, instance_uid: str, revision: str) -> None:
        """Ring soon, unless a bell rings there already."""
        if time.monotonic() < self._silent_until:
            _RINGS.labels("skipped").inc()
            return
        # A batch is put together just before it is sent, so what is added here is sent after it was
        # added: a caller that rings after its commit is never answered by an older ring.
        self._waiting.add((instance_uid, revision))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_waiting())

    async def settle(self, instance_uid: str, revision: str) -> None:
        """Forget the bell. If Redis is away there is nothing to do: a bell ends by itself."""
        if time.monotonic() < self._silent_until:
            return
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._redis.delete(bell_key(instance_uid, revision))
        except (RedisError, OSError) as error:
            self._be_silent(error)

    async def flush(self) -> None:
        """Wait until everything rung so far is sent or given up."""
        while self._sender is not None and not self._sender.done():
            await asyncio.wait({self._sender})

    async def aclose(self) -> None:
        """Send what still waits, then close the connections."""
        await self.flush()
        await self._redis.aclose()

    async def _send_waiting(self) -> None:
        while self._waiting:
            batch = [self._waiting.pop() for _ in range(min(_BATCH, len(self._waiting)))]
            try:
                _count(await self._send(batch))
            except (RedisError, OSError) as error:
                self._waiting.clear()
                self._be_silent(error)
                return
            await asyncio.sleep(_GAP_SECONDS)

    async def _send(self, batch: list[Queue]) -> list[object]:
        answers = await self._pipeline(batch)
        if any(isinstance(answer, NoScriptError) for answer in answers):
            await self._redis.script_load(_SCRIPT)
            answers = await self._pipeline(batch)
        return answers

    async def _pipeline(self, batch: list[Queue]) -> list[object]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for uid, revision in batch:
                message = bell_message(revision, message_id=str(uuid4()), delivery_tag=str(uuid4()))
                pipe.evalsha(
                    *(_SHA, 2, bell_key(uid, revision), queue_key(uid, revision)),
                    *(str(int(BELL_SECONDS * 1000)), message),
                )
            return await pipe.execute(raise_on_error=False)

    def _be_silent(self, error: Exception) -> None:
        """Leave Redis alone for a moment, so that its outage costs accepting a run nothing."""
        if time.monotonic() >= self._silent_until:
            _log.warning("the bell cannot be rung", error=str(error))
        self._silent_until = time.monotonic() + _SILENCE_SECONDS
        _RINGS.labels("failed").inc()


def _count(answers: list[object]) -> None:
    for answer in answers:
        if isinstance(answer, Exception):
            _RINGS.labels("failed").inc()
            _log.warning("a queue cannot be rung", error=str(answer))
        else:
            _RINGS.labels("rung" if answer else "already_ringing").inc()
