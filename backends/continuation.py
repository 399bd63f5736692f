"""How the request that continues a broken answer from its token ids is made of the request that was broken.

The answer so far becomes part of the prompt. That is exact only where nothing but the ids of prompt and answer, and
parameters that look at single tokens, decide what comes next. A field that is not known here may be anything, so it
rules the continuation out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

#: Sent along as they are.
_CARRIED = frozenset(
    {
        *("temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "repetition_penalty", "logit_bias"),
        *("stop", "stop_token_ids", "include_stop_str_in_output", "ignore_eos", "allowed_token_ids"),
        *("skip_special_tokens", "spaces_between_special_tokens", "priority", "user"),
    }
)
#: Left out: what shaped the prompt, whose ids are known, and what is asked anew.
_DROPPED = frozenset(
    {
        *("model", "messages", "prompt", "stream", "stream_options", "max_tokens", "max_completion_tokens"),
        *("min_tokens", "return_token_ids", "add_generation_prompt", "continue_final_message", "add_special_tokens"),
        *("chat_template", "chat_template_kwargs", "documents", "truncate_prompt_tokens", "tool_choice"),
        *("top_logprobs", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "request_id"),
        *("parallel_tool_calls", "echo", "n", "best_of", "cache_salt"),
    }
)
#: Harmless only with one of these values: otherwise they see the whole answer, or shape it as a whole.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "logprobs": (None, False),
    "echo": (None, False),
    "use_beam_search": (None, False),
    "tools": (None, []),
    "functions": (None, []),
    "suffix": (None,),
    "response_format": (None, {"type": "text"}),
    "bad_words": (None, []),
    "length_penalty": (None, 1),
}
#: What a completion without `max_tokens` gets from OpenAI's API and vLLM.
_DEFAULT_COMPLETION = 16


def continuable(path: str, asked: Mapping[str, Any]) -> bool:
    """Whether an answer to this request can be continued from token ids at all."""
    if path not in (CHAT, COMPLETIONS):
        return False
    for name, value in asked.items():
        if name in _NEUTRAL:
            if value not in _NEUTRAL[name]:
                return False
        elif value is not None and name not in _CARRIED and name not in _DROPPED:
            return False
    if path == COMPLETIONS:
        return _is_one_prompt(asked.get("prompt"))
    return all(_is_text(message) for message in asked.get("messages") or ())


def continuation(
    path: str, asked: Mapping[str, Any], prompt: Sequence[int], made: Sequence[int], *, model: str
) -> dict[str, Any]:
    """The body for `/v1/completions` that goes on after the token ids `made`; `asked` is the broken request's body.

    Its `max_tokens` is what is left: below 1 there is nothing to go on with. None leaves it to the model's length,
    which prompt and answer share, so that the whole answer can be as long as it could have been.
    """
    body = {name: value for name, value in asked.items() if name in _CARRIED}
    body |= {"model": model, "prompt": [*prompt, *made], "max_tokens": left(path, asked, len(made))}
    least = asked.get("min_tokens")
    if isinstance(least, int) and least > len(made):
        body["min_tokens"] = least - len(made)
    return body | {"stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True}


def left(path: str, asked: Mapping[str, Any], made: int) -> int | None:
    """Tokens that an answer of `made` tokens may still get; None where only the model's length bounds it."""
    limit = asked.get("max_tokens")
    if path == CHAT and asked.get("max_completion_tokens") is not None:
        limit = asked["max_completion_tokens"]
    elif path == COMPLETIONS and "max_tokens" not in asked:
        limit = _DEFAULT_COMPLETION
    return None if limit is None else int(limit) - made


def _is_one_prompt(prompt: Any) -> bool:
    if isinstance(prompt, list):
        return bool(prompt) and (type(prompt[0]) is int or (len(prompt) == 1 and isinstance(prompt[0], str)))
    return isinstance(prompt, str)


def _is_text(message: Any) -> bool:
    """Images and sounds are in a prompt's ids only as places to be filled."""
    if not isinstance(message, dict):
        return False
    content = message.get("content")
    if isinstance(content, list):
        return all(isinstance(part, str) or (isinstance(part, dict) and "text" in part) for part in content)
    return content is None or isinstance(content, str)
