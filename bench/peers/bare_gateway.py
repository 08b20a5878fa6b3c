"""The least that a gateway made of the same libraries can do: no keys, no contract, no limits, no metering.

    python bench/peers/bare_gateway.py http://127.0.0.1:1234/v1

Decodes and encodes what is in one piece, and passes streams on as they are. Prints its base URL. What Quillgate costs
more than this is what it does; what this costs is aiohttp, the event loop and the machine.
"""

import asyncio
import sys
from contextlib import suppress

import msgspec
import uvloop
from aiohttp import ClientSession, TCPConnector, web

HEADERS = {"authorization": "Bearer unused", "content-type": "application/json"}


class BareGateway:
    """Passes chat completions on to one address."""

    def __init__(self, http: ClientSession, url: str) -> None:
        self._http = http
        self._url = f"{url}/chat/completions"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Asks the provider and answers what it answers."""
        asked = msgspec.json.decode(await request.read())
        async with self._http.post(self._url, data=msgspec.json.encode(asked), headers=HEADERS) as answer:
            if not asked.get("stream"):
                body = msgspec.json.encode(msgspec.json.decode(await answer.read()))
                return web.Response(body=body, content_type="application/json")
            stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await stream.prepare(request)
            async for data in answer.content.iter_any():
                await stream.write(data)
            await stream.write_eof()
            return stream


async def main(url: str) -> None:
    """Serves until the process is ended."""
    async with ClientSession(connector=TCPConnector(limit=0)) as http:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", BareGateway(http, url).answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
        print(f"listening at http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        uvloop.run(main(sys.argv[1]))
