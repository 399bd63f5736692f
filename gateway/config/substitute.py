"""`${VAR}` and `${VAR:-default}` in strings of gateway.yaml."""

import re
from collections.abc import Mapping

_SUBSTITUTION = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<body>[^{}]*)\}|(?P<broken>\{))")
_BODY = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.ASCII | re.DOTALL)


class SubstitutionError(ValueError):
    """A substitution that can't be made; `args` are what is wrong and a hint. Never holds a variable's value."""


def substitute(text: str, environ: Mapping[str, str]) -> str:
    """Replaces every substitution. `$$` is a dollar sign; as in a shell, `:-` also covers an empty variable.

    Raises SubstitutionError for a missing variable or a malformed substitution.
    """

    def replaced(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        if match["broken"]:
            raise SubstitutionError("'${' is not closed", "write ${VAR} or ${VAR:-default}; $${ for a literal ${")
        body = _BODY.fullmatch(match["body"])
        if body is None:
            raise SubstitutionError("malformed substitution", "write ${VAR} or ${VAR:-default}")
        value = environ.get(body["name"])
        if body["default"] is not None:
            return value or body["default"]
        if value is None:
            name = body["name"]
            raise SubstitutionError(
                f"the environment variable {name} is not set", f"set it, or write ${{{name}:-default}}"
            )
        return value

    return _SUBSTITUTION.sub(replaced, text)


def is_whole(text: str) -> bool:
    """Whether a string is one substitution and nothing else; its value is then typed as if written there."""
    match = _SUBSTITUTION.fullmatch(text)
    return match is not None and match["body"] is not None
