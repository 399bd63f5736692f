"""What one writes in an afternoon: aiohttp's server and client on uvloop, no policy at all."""

from __future__ import annotations

import sys

import aiohttp
import uvloop
from aiohttp import web


async def _proxy(request: web.Request) -> web.StreamResponse:
    session: aiohttp.ClientSession = request.app["session"]
    body = await request.read()
    headers = {"content-type": request.headers.get("content-type", "application/json")}
    async with session.post(request.app["backend"] + request.path, data=body, headers=headers) as answer:
        if not answer.content_type.startswith("text/event-stream"):
            return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)
        response = web.StreamResponse(status=answer.status, headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
        return response


async def _application() -> web.Application:
    app = web.Application(client_max_size=32 * 2**20)
    app["backend"] = sys.argv[2]
    app["session"] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    app.router.add_post("/{path:.*}", _proxy)
    return app


if __name__ == "__main__":
    loop = uvloop.new_event_loop()
    web.run_app(_application(), host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None, loop=loop)
