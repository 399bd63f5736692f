"""Anthropic's SDK, unchanged but for its base URL. Usage: anthropic_client.py GATEWAY."""

import json
import sys
from typing import Any

import anthropic

client = anthropic.Anthropic(base_url=sys.argv[1], api_key="none", max_retries=0)
QUESTION = [{"role": "user", "content": "What do seals eat?"}]
GREEDY = {"temperature": 0}  # no argument of its own any more


def ask(**changes: Any) -> anthropic.types.Message:
    return client.messages.create(
        **{"model": "tiny", "max_tokens": 12, "extra_body": GREEDY, "messages": QUESTION, **changes}
    )


def told(**changes: Any) -> dict[str, Any]:
    """The exception of a request that must fail."""
    try:
        ask(**changes)
    except anthropic.APIStatusError as error:
        detail = error.body["error"] if isinstance(error.body, dict) else {}
        return {
            "name": type(error).__name__,
            "status": error.status_code,
            "type": detail.get("type"),
            "message": detail.get("message"),
            "request_id": error.request_id,
            "correlation_id": error.response.headers["x-correlation-id"],
        }
    raise AssertionError("no error")


whole = ask()
with client.messages.stream(model="tiny", max_tokens=12, extra_body=GREEDY, messages=QUESTION) as stream:
    text = "".join(stream.text_stream)
    final = stream.get_final_message()
print(
    json.dumps(
        {
            "whole": whole.content[0].text,
            "role": whole.role,
            "request_id": whole._request_id,
            "output_tokens": whole.usage.output_tokens,
            "stop_reason": whole.stop_reason,
            "streamed": text,
            "final": final.content[0].text,
            "streamed_tokens": final.usage.output_tokens,
            "not_found": told(model="nope"),
            "not_found_there": told(model="ghost"),
            "too_long": told(messages=[{"role": "user", "content": "far too long " * 800}]),
        }
    )
)
