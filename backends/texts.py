"""What model servers say in words: numbers, parameters and waits read out of error texts, and what of them is shown.

An error text has two readers. Operators get `evidence`: short, one line, without credentials or echoed input. Clients
get at most `client_safe`: the reason for a refusal, and only if nothing in it looks internal.
"""

from __future__ import annotations

import re

MAX_EVIDENCE = 500
MAX_CLIENT_TEXT = 300
#: Longer texts are cut before a pattern sees them, so that no answer costs more than microseconds to judge.
MAX_JUDGED = 4096

_CREDENTIALS = re.compile(r"(?:\b(?:sk|hf|pk|rk|ghp|xai|gsk)[-_][\w*.-]{3,}|\bbearer\s+\S+|\bAKIA\w{8,})", re.I)
#: pydantic and vLLM repeat the request's own value: the rest of the text may be a prompt.
_ECHOED_INPUT = re.compile(r"""(?:,\s*)?(?:['"]?input['"]\s*:|\binput_value=|\binput=).*""", re.S)
_SPACE = re.compile(r"\s+")


def without_echo(text: str) -> str:
    """The text up to where a validator starts to repeat the request's own input."""
    return _ECHOED_INPUT.sub("", text)


def evidence(text: str) -> str:
    """At most `MAX_EVIDENCE` characters for an operator's log: one line, no credentials, no echoed input."""
    text = _CREDENTIALS.sub("[redacted]", without_echo(text[:MAX_JUDGED]))
    return _shortened(_SPACE.sub(" ", text).strip(), MAX_EVIDENCE)


_NOT_FOR_CLIENTS = re.compile(
    r"""
      [a-z][a-z0-9+.-]*://                          # an address
    | \b\d{1,3}(?:\.\d{1,3}){3}\b                   # IPv4
    | \b(?:[0-9a-f]{1,4}:){3,}                      # IPv6
    | \b[\w-]+(?:\.[\w-]+)*:\d{2,5}\b               # host:port
    | \b[\w-]+\.(?:local|internal|lan|svc|corp|cluster)\b
    | (?<![\w/.])(?:~|\.{1,2})?(?:/[\w.@+-]+){2,}   # a path
    | \b[a-z]:\\                                    # a Windows path
    | traceback|stack\ trace|\bfile\ "|\bline\ \d+,\ in\b|\.(?:py|cpp|cu|cc|rs|go)\b
    | \b0x[0-9a-f]{6,}                              # a pointer
    | \b[\w+/-]{40,}                                # a token or a hash
    | \b(?:api[_ ]?key|secret|password|token)\s*[:=]
    | \bpid\b|\bcuda\b|\brank\s*\d
    """,
    re.I | re.X,
)
_SERVED_PATH = re.compile(r"(?<![\w/])/(?:v1|v2|api|generate|tokenize|detokenize)(?:/[\w-]+)*")
_NOISE = re.compile(
    r"\s*\(parameter=.*\)\s*$"  # vLLM: the value once more
    r"|\s*For further information visit \S+"  # pydantic
    r"|^\s*(?:Input validation error|Bad request|ValueError|Value error)\s*[:,]\s*",
    re.I,
)
#: vLLM's and FastAPI's dump of pydantic errors: where it was and what was wrong.
_DUMPED_ERROR = re.compile(
    r"""['"]loc['"]\s*:\s*(?P<loc>\([^)]*\)|\[[^\]]*\]|'[^']*'|"[^"]*").*?['"]msg['"]\s*:\s*(?P<q>['"])(?P<msg>.*?)(?P=q)""",
    re.S,
)


def client_safe(text: str) -> str | None:
    """A backend's reason for a refusal, at most `MAX_CLIENT_TEXT` characters on one line, or None.

    None when anything in it looks like an address, a host, a path, a credential or a stack: a reason is dropped
    whole rather than mended, for what a pattern cuts out of an unsafe text is seldom all of it.
    """
    text = text[:MAX_JUDGED]
    if dumped := _DUMPED_ERROR.search(text):
        where = plain_param(dumped["loc"])
        text = f"{where}: {dumped['msg']}" if where else dumped["msg"]
    text = _NOISE.sub("", without_echo(text)).strip()
    text = _SPACE.sub(" ", text)
    if not text or not text.isprintable() or _CREDENTIALS.search(text):
        return None
    if _NOT_FOR_CLIENTS.search(_SERVED_PATH.sub("", text)):
        return None
    return _shortened(text, MAX_CLIENT_TEXT)


_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
#: What vLLM names as the parameter of an over-long prompt: no field of the request.
_NOT_FIELDS = frozenset({"body", "query", "path", "header", "input_text", "input_tokens", "prompt_token_ids"})


def plain_param(param: object) -> str | None:
    """The request's top-level field that `param` names ("temperature", "body.messages", "('body', 'n')"), or None."""
    if not isinstance(param, str):
        return None
    for field in re.split(r"[^A-Za-z0-9_]+", param[:200]):
        if field not in _NOT_FIELDS and _FIELD.fullmatch(field):
            return field
    return None


_OVERFLOW = re.compile(
    r"""
      maximum\ (?:context|prompt|input)\ length | maximum\ model\ length
    | (?:longer|greater)\ than\ (?:the\ )?(?:model'?s\ |maximum\ )?(?:context|model)\ ?length
    | exceeds?\ (?:the\ )?(?:model'?s\ |available\ |maximum\ |max\ )*
      (?:context|allowed\ (?:input\ )?length|input\ length)
    | larger\ than\ the\ max(?:imum)?\ context | context\ (?:window|length)\ (?:is\ full|exceed)
    | exceed(?:ed|s)?\ (?:the\ )?(?:context\ (?:limit|window|size|length)|max\ context|model\ token\ limit)
    | cannot\ be\ greater\ than\ max_model_len | prompt\ (?:is\ )?too\ long | input\ is\ too\ long\ for
    | `inputs`\ (?:tokens\ \+|must\ have\ less\ than) | `max_new_tokens`\ must\ be\ <=
    | too\ large\ to\ process | maximum\ number\ of\ tokens\ allowed
    | input\ tokens\ exceed\ the\ configured\ limit | too\ large\ for\ model\ with
    | prompt\ token\ count\ of\ \d+\ exceeds | tokens\ than\ the\ .{0,20}\ ?kv\ cache\ can\ hold
    | reduce\ the\ length\ of\ the\ (?:messages|input\ prompt)
    """,
    re.I | re.X,
)
_MAX = re.compile(
    r"""
      maximum\ (?:context|prompt)\ length\ (?:is|of|\()\ ?(\d+) | maximum\ (?:model|input)\ length\ (?:of|\()\ ?(\d+)
    | context\ (?:length|size)\ (?:of\ )?\((\d+) | max_model_len=(?:max_total_tokens=)?(\d+)
    | maximum\ context\ length\ \((\d+) | must\ be\ <=\ (\d+) | must\ have\ less\ than\ (\d+)
    | >\ (\d+)(?:\ maximum|,|$) | maximum\ allowed\ (?:input\ )?length\ (?:of\ )?\(?(\d+)
    | batch\ size:\ (\d+) | exceeds\ the\ limit\ of\ (\d+) | with\ (\d+)\ maximum\ context
    | configured\ limit\ of\ (\d+) | token\ limit:\ (\d+) | tokens\ allowed\ \((\d+) | kv_capacity=(\d+)
    """,
    re.I | re.X,
)
_INPUT = re.compile(
    r"""
      (?:contains|has)\ (?:at\ least\ )?(\d+)\ (?:input\ )?tokens | resulted\ in\ (\d+)\ tokens
    | prompt\ is\ (\d+)\ tokens
    | \((\d+)\ (?:in\ (?:the\ messages|(?:your|the)\ prompt)|of\ text\ input) | (\d+)\ tokens\ from\ the\ input
    | (?:input|request|prompt)(?:\ length)?\ \((?:length\ )?(\d+) | (?:prompt|input)\ length\ (?:of\ )?(\d+)
    | too\ long:\ (\d+)\ tokens | given:\ (\d+)(?:\ `inputs`|\s*$) | context\ limit:\ (\d+)\ \+
    | requested\ (\d+)\ tokens\ in\ the\ input | token\ count\ (?:of\ )?\(?(\d+) | input_tokens=(\d+)
    """,
    re.I | re.X,
)
_OUTPUT = re.compile(
    r"""
      (\d+)\ (?:tokens\ )?(?:in|for)\ the\ completion | requested\ (\d+)\ output\ tokens | and\ (\d+)\ `max_new_tokens`
    | context\ limit:\ \d+\ \+\ (\d+) | max_(?:completion_|output_|new_)?tokens=(\d+) | is\ too\ large:\ (\d+)
    | `max_new_tokens`\ must\ be\ <=\ \d+\.\ given:\ (\d+)
    """,
    re.I | re.X,
)
_CHARACTERS = re.compile(r"contains (\d+) characters", re.I)


def context_overflow(text: str) -> dict[str, int] | None:
    """The numbers of a context-length error in any server's words, or None if the text is not one.

    Keys, each only where the text states it: `max_length`, `input_length` and `output_length` (asked for) in tokens,
    `input_characters`.
    """
    if not _OVERFLOW.search(text):
        return None
    only_output = "`max_new_tokens` must be" in text and "`inputs`" not in text  # TGI: what was given is the output's length
    found = {
        "input_length": None if only_output else _number(_INPUT, text),
        "max_length": _number(_MAX, text),
        "output_length": _number(_OUTPUT, text),
        "input_characters": _number(_CHARACTERS, text),
    }
    return {name: number for name, number in found.items() if number is not None}


_WAIT = re.compile(r"(?:try again|retry) (?:in|after) (\d{1,6}(?:\.\d{1,6})?) ?(ms|milliseconds|s|sec|m|min)", re.I)
_UNITS = {"ms": 0.001, "milliseconds": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0}


def wait_in_text(text: str) -> float | None:
    """Seconds of a wait stated in words ("Please try again in 20s"), or None."""
    found = _WAIT.search(text)
    return float(found[1]) * _UNITS[found[2].lower()] if found else None


def _number(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    return int(found[found.lastindex or 0][:12]) if found else None


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
