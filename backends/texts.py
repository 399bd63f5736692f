"""What model servers say in words: numbers, parameters and waits read out of error texts, and what of them is shown.

An error text has two readers. Operators get `evidence`: short, one line, without credentials or echoed input. Clients
get at most `client_safe`: the reason for a refusal, and only if nothing in it looks internal.
"""

from __future__ import annotations

import re

MAX_EVIDENCE = 500
MAX_CLIENT_TEXT = 300
#: The patterns cost about a microsecond for each character, on the event loop: longer texts are judged by their ends.
MAX_JUDGED = 1024

_CREDENTIALS = re.compile(r"(?:\b(?:sk|hf|pk|rk|ghp|xai|gsk)[-_][\w*.-]{3,}|\bbearer\s+\S+|\bAKIA\w{8,})", re.I)
#: pydantic and vLLM repeat the request's own value: the rest of the text may be a prompt.
_ECHOED_INPUT = re.compile(r"""(?:,\s*)?(?:['"]?input['"]\s*:|\binput_value=|\binput=).*""", re.S)
_SPACE = re.compile(r"\s+")


def ends_of(text: str) -> str:
    """A text of at most `MAX_JUDGED` characters: its ends, for a message says it first and a traceback last."""
    half = MAX_JUDGED // 2
    return text if len(text) <= MAX_JUDGED else text[: half - 1] + "…" + text[-half:]


def without_echo(text: str) -> str:
    """The text up to where a validator starts to repeat the request's own input."""
    return _ECHOED_INPUT.sub("", text)


def evidence(text: str) -> str:
    """At most `MAX_EVIDENCE` characters for an operator's log: one line, no credentials, no echoed input."""
    text = _CREDENTIALS.sub("[redacted]", without_echo(ends_of(text)))
    return _shortened(_SPACE.sub(" ", text).strip(), MAX_EVIDENCE)


_NOT_FOR_CLIENTS = re.compile(
    r"""
      [a-z][a-z0-9+.-]{0,20}://                     # an address
    | \b\d{1,3}(?:\.\d{1,3}){3}\b                   # IPv4
    | \b(?:[0-9a-f]{1,4}:){3,}                      # IPv6
    | \b[\w-]{1,63}(?:\.[\w-]{1,63}){0,6}:\d{2,5}\b  # host:port
    | \b[\w-]{1,63}\.(?:local|internal|lan|svc|corp|cluster)\b
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
    r" ?\(parameter=.*\) ?$"  # vLLM: the value once more
    r"| ?For further information visit \S+| ?\[type=\w*,? ?$"  # pydantic
    r"|^(?:Input validation error|Bad request|ValueError|Value error) ?[:,] ?",
    re.I,
)
#: vLLM's and FastAPI's dump of pydantic errors: where it was and what was wrong.
_DUMPED_ERROR = re.compile(
    r"""
      ['"]loc['"]\ ?:\ ?(?P<loc>\([^)]{0,200}\)|\[[^\]]{0,200}\]|'[^']{0,200}'|"[^"]{0,200}")
      .{0,100}?
      ['"]msg['"]\ ?:\ ?(?P<quote>['"])(?P<msg>.{1,300}?)(?P=quote)
    """,
    re.X,
)


def client_safe(text: str) -> str | None:
    """A backend's reason for a refusal, at most `MAX_CLIENT_TEXT` characters on one line, or None.

    None when anything in it looks like an address, a host, a path, a credential or a stack: a reason is dropped
    whole rather than mended, for what a pattern cuts out of an unsafe text is seldom all of it.
    """
    text = _SPACE.sub(" ", ends_of(text))
    if dumped := _DUMPED_ERROR.search(text):
        where = plain_param(dumped["loc"])
        text = f"{where}: {dumped['msg']}" if where else dumped["msg"]
    text = _NOISE.sub("", without_echo(text).strip()).strip()
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


def _stating(alternatives: str) -> re.Pattern[str]:
    """A verbose pattern in which each `<n>` captures a number."""
    return re.compile(alternatives.replace("<n>", r"(\d{1,12})"), re.I | re.X)


_MAX = _stating(
    r"""
      maximum\ (?:context|prompt)\ length\ (?:is|of|\()\ ?<n> | maximum\ (?:model|input)\ length\ (?:of|\()\ ?<n>
    | context\ (?:length|size)\ (?:of\ )?\(<n> | max_model_len=(?:max_total_tokens=)?<n>
    | maximum\ context\ length\ \(<n> | must\ be\ <=\ <n> | must\ have\ less\ than\ <n>
    | >\ <n>(?:\ maximum|,|$) | maximum\ allowed\ (?:input\ )?length\ (?:of\ )?\(?<n>
    | batch\ size:\ <n> | exceeds\ the\ limit\ of\ <n> | with\ <n>\ maximum\ context
    | configured\ limit\ of\ <n> | token\ limit:\ <n> | tokens\ allowed\ \(<n> | kv_capacity=<n>
    """
)
_INPUT = _stating(
    r"""
      (?:contains|has)\ (?:at\ least\ )?<n>\ (?:input\ )?tokens | resulted\ in\ <n>\ tokens
    | prompt\ is\ <n>\ tokens
    | \(<n>\ (?:in\ (?:the\ messages|(?:your|the)\ prompt)|of\ text\ input) | <n>\ tokens\ from\ the\ input
    | (?:input|request|prompt)(?:\ length)?\ \((?:length\ )?<n> | (?:prompt|input)\ length\ (?:of\ )?<n>
    | too\ long:\ <n>\ tokens | given:\ <n>(?:\ `inputs`|\s*$) | context\ limit:\ <n>\ \+
    | requested\ <n>\ tokens\ in\ the\ input | token\ count\ (?:of\ )?\(?<n> | input_tokens=<n>
    """
)
_OUTPUT = _stating(
    r"""
      <n>\ (?:tokens\ )?(?:in|for)\ the\ completion | requested\ <n>\ output\ tokens | and\ <n>\ `max_new_tokens`
    | context\ limit:\ \d+\ \+\ <n> | max_(?:completion_|output_|new_)?tokens=<n> | is\ too\ large:\ <n>
    | (?<!\+\ )`max_new_tokens`\ must\ be\ <=\ \d+\.\ given:\ <n>
    """
)
_CHARACTERS = re.compile(r"contains (\d{1,12}) characters", re.I)


def context_overflow(text: str) -> dict[str, int] | None:
    """The numbers of a context-length error in any server's words, or None if the text is not one.

    Keys, each only where the text states it: `max_length`, `input_length` and `output_length` (asked for) in tokens,
    `input_characters`.
    """
    if not _OVERFLOW.search(text):
        return None
    # TGI gives either the input's length or the output's, in the same words.
    only_output = "`max_new_tokens` must be" in text and "`inputs`" not in text
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
    return int(found[found.lastindex or 0]) if found else None


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
