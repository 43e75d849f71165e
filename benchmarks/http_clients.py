"""Clients of a served model that cost little beside it, and what they saw.

They speak HTTP/1.1 over asyncio's streams and parse no JSON until an answer is whole, as the cores
that they run on are the server's too. Connections are kept, as the clients of all libraries do.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_EVENT = b"data: "
_END = b"0\r\n\r\n"  # of chunks; events end otherwise
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Reply:
    """What came of one request; times in seconds of one clock."""

    asked_s: float = 0.0
    status: int = 0
    """Of HTTP; 0 of a connection that broke."""
    retry_after: str | None = None
    event_s: list[float] = field(default_factory=list)
    """When each piece of a stream came."""
    ended_s: float = 0.0
    body: bytes = b""

    @property
    def took_s(self) -> float:
        return self.ended_s - self.asked_s

    @property
    def first_s(self) -> float:
        return self.event_s[0] - self.asked_s

    def longest_gap_s(self, start_s: float, end_s: float) -> float:
        """Between two pieces, of the gaps that lie at least in part between these times."""
        pairs = itertools.pairwise(self.event_s)
        return max((b - a for a, b in pairs if b > start_s and a < end_s), default=0.0)

    @property
    def num_tokens(self) -> int:
        """Of a stream that ends with its usage."""
        usage = self.body.rpartition(b'"usage"')[2].partition(b"\n")[0].decode()
        said, _ = json.JSONDecoder().raw_decode(usage, usage.index("{"))
        return int(said["completion_tokens"])

    @property
    def is_whole(self) -> bool:
        return self.status == 200 and b'"error"' not in self.body


class Server:
    """A server that is asked; the body of a request is given as what JSON holds."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._idle: list[tuple[asyncio.AbstractEventLoop, Streams]] = []
        """Connections whose answer is whole, and the event loop of each."""

    async def ask(self, path: str, body: dict[str, Any], reply: Reply | None = None) -> Reply:
        """One request; what is seen can be looked at meanwhile."""
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        reply = reply or Reply()
        reply.asked_s = time.monotonic()
        try:
            await self._ask(head.encode() + data, reply)
        except (OSError, asyncio.IncompleteReadError) as error:
            reply.status, reply.body = 0, repr(error).encode()
        reply.ended_s = time.monotonic()
        return reply

    async def _ask(self, request: bytes, reply: Reply) -> None:
        while streams := self._take_idle():
            try:
                await self._talk(streams, request, reply)
            except (OSError, asyncio.IncompleteReadError):
                if reply.status:
                    raise
            else:
                return
            # The server had closed it before it read anything.
        await self._talk(await asyncio.open_connection(self._host, self._port), request, reply)

    def _take_idle(self) -> Streams | None:
        own = asyncio.get_running_loop()
        while self._idle:
            loop, streams = self._idle.pop()
            if loop is own:
                return streams
            if not loop.is_closed():
                streams[1].close()
        return None

    async def _talk(self, streams: Streams, request: bytes, reply: Reply) -> None:
        reader, writer = streams
        is_kept = False
        try:
            writer.write(request)
            is_kept = await self._read(reader, reply)
        finally:
            if is_kept:
                self._idle.append((asyncio.get_running_loop(), streams))
            else:
                writer.close()

    async def _read(self, reader: asyncio.StreamReader, reply: Reply) -> bool:
        """Whether the connection may be asked again."""
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        reply.status, reply.retry_after = int(lines[0].split()[1]), headers.get("retry-after")
        length = headers.get("content-length")
        if length is not None:
            reply.body = await reader.readexactly(int(length))
        else:
            await self._read_chunks(reader, reply)
        return headers.get("connection") != "close"

    async def _read_chunks(self, reader: asyncio.StreamReader, reply: Reply) -> None:
        pieces, tail = [], b""
        while not tail.endswith(_END):
            piece = await reader.read(2**16)
            if not piece:
                raise asyncio.IncompleteReadError(b"".join(pieces), None)
            pieces.append(piece)
            tail = (tail + piece)[-len(_END) :]
            if _EVENT in piece:
                reply.event_s.append(time.monotonic())
        reply.body = b"".join(pieces)


async def ask_at_once(server: Server, path: str, bodies: Iterable[dict[str, Any]]) -> list[Reply]:
    """All at the same time."""
    return await asyncio.gather(*(server.ask(path, body) for body in bodies))


async def keep_asking(
    server: Server,
    path: str,
    body_of: Callable[[int], dict[str, Any]],
    clients: int,
    seconds: float,
) -> list[Reply]:
    """Each client asks again as soon as it is answered, for so long."""
    end_s, replies = time.monotonic() + seconds, []

    async def client(number: int) -> None:
        while time.monotonic() < end_s:
            replies.append(await server.ask(path, body_of(number)))
            number += clients

    await asyncio.gather(*map(client, range(clients)))
    return replies


async def arrive(
    server: Server, path: str, body_of: Callable[[int], dict[str, Any]], at_s: Iterable[float]
) -> list[Reply]:
    """Requests that come at these times, however long the answers take."""
    start_s, asked = time.monotonic(), []
    for number, due_s in enumerate(at_s):
        await asyncio.sleep(max(0.0, start_s + due_s - time.monotonic()))
        asked.append(asyncio.ensure_future(server.ask(path, body_of(number))))
    return await asyncio.gather(*asked)


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest of the values that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
