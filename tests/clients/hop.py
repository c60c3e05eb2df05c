"""What stands between the clients and tidegate: it passes everything on as it comes, notes each request, and can do as a CDN does."""

import asyncio
import contextlib
import dataclasses
import itertools
import threading

PASSED_AT_ONCE = 64 * 1024
PLACES = ("VIE", "FRA", "AMS")


@dataclasses.dataclass
class Request:
    """A request as the client sent it."""

    method: str
    target: str
    fields: list                   # (name, value) as they came
    body: bytes = b""

    def value(self, name):
        return next((value for other, value in self.fields if other.lower() == name), "")


class Hop:
    """Listens on a port until the `with` block ends.

    With `cdn`, each request gets a `CF-Ray` that no request had before, and what else such a network says of it. `sent` is called, in a thread
    of its own, as soon as a request has been passed on whole."""

    def __init__(self, port, tidegate, cdn, sent=None):
        self.port, self.tidegate, self.cdn, self.sent = port, tidegate, cdn, sent
        self.requests = []         # in the order in which they were passed on
        self.numbers = itertools.count(0x84F2A1B3C4D5E6F7)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        self.server = self.run(asyncio.start_server(self.serve, "127.0.0.1", self.port, limit=PASSED_AT_ONCE))
        return self

    def __exit__(self, *_):
        self.run(self.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    async def close(self):
        self.server.close()
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def serve(self, reader, writer):
        """One connection of a client, with one of its own to tidegate; ended by `close`, it ends like any other."""
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.CancelledError):
            answers, tidegate = await asyncio.open_connection("127.0.0.1", self.tidegate)
            with contextlib.closing(tidegate):
                asked = asyncio.create_task(self.ask(reader, tidegate))
                answered = asyncio.create_task(pass_on(answers, writer))
                try:
                    await asyncio.wait([asked, answered], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    asked.cancel()
                    answered.cancel()
                    await asyncio.gather(asked, answered, return_exceptions=True)

    async def ask(self, reader, tidegate):
        """Passes requests on, one after the other."""
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
            method, target, _ = head[0].split(" ")
            request = Request(method, target, [tuple(part.strip() for part in line.split(":", 1)) for line in head[1:]])
            added = self.added() if self.cdn else []
            tidegate.write("".join(line + "\r\n" for line in [*head, *added, ""]).encode("latin-1"))
            async for piece in body(reader, request):
                tidegate.write(piece)
                await tidegate.drain()
            await tidegate.drain()
            self.requests.append(request)
            if self.sent:
                self.loop.run_in_executor(None, self.sent, request)

    def added(self):
        """What a CDN says of a request; nothing but the number in `CF-Ray` and the client's address changes."""
        number = next(self.numbers)
        return [
            f"CF-Ray: {number:016x}-{PLACES[number % len(PLACES)]}", f"X-Forwarded-For: 198.51.100.{number % 250}",
            f"CF-Connecting-IP: 198.51.100.{number % 250}", "X-Forwarded-Proto: http", 'CF-Visitor: {"scheme":"http"}', "CDN-Loop: cloudflare",
        ]


async def body(reader, request):
    """The pieces of a request's body as they come; `request.body` holds them in the end, without the marks of chunks."""
    whole = []
    if "chunked" in request.value("transfer-encoding").lower():
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            piece = await reader.readexactly(size + 2)
            whole.append(piece[:-2])
            yield line + piece
            if not size:
                break
    elif left := int(request.value("content-length") or 0):
        while left:
            piece = await reader.read(min(left, PASSED_AT_ONCE))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            whole.append(piece)
            yield piece
    request.body = b"".join(whole)


async def pass_on(reader, writer):
    """All bytes until the end of one side."""
    while piece := await reader.read(PASSED_AT_ONCE):
        writer.write(piece)
        await writer.drain()
