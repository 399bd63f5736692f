"""The `/health` of a worker of ours that is ready, but for what its devices say."""

from __future__ import annotations

import orjson
from aiohttp import web

from backends.workers.gpu_watch import GpuReport


def health_answer(devices: GpuReport) -> web.Response:
    """503 when a device failed; 200 otherwise, with `status` `ok`, or `degraded` where memory is nearly used up."""
    fault = devices.fault
    status = "failed" if fault else "degraded" if devices.trouble else "ok"
    body = {"status": status, **devices.as_json()}
    if fault:
        body["error"] = {"message": fault, "type": "device_failed", "param": None, "code": 503}
    return web.Response(body=orjson.dumps(body), status=503 if fault else 200, content_type="application/json")
