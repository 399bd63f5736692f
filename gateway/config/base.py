"""What all sections of gateway.yaml share: the model base and the common field types."""

import hashlib
import ipaddress
import re
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, WithJsonSchema
from pydantic_core import PydanticCustomError

from gateway.config.scalars import typed_from_env

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Section(BaseModel):
    """A frozen mapping of gateway.yaml; unknown keys are errors and inputs never show in error texts."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def invalid(reason: str, hint: str = "", key: str = "") -> PydanticCustomError:
    """An error for validators: what is wrong, what to do, and the key inside the section that it is about."""
    # Through a placeholder: pydantic fills in templates, and a reason may quote braces from the file.
    return PydanticCustomError("invalid", "{reason}", {"reason": reason, "hint": hint, "key": key})


def or_empty(value: Any) -> Any:
    """Reads a key with nothing below it (all commented out, say) as an empty section."""
    return {} if value is None else value


def _plain_text(value: str) -> str:
    if not value.strip():
        raise invalid("must not be empty")
    if _CONTROL.search(value):
        raise invalid("must not hold control characters")
    return value


#: A short printable string: a model's name, a path.
Text = Annotated[str, AfterValidator(_plain_text), Field(max_length=512)]


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        raise invalid("is not a name", "names are 1 to 64 letters, digits, dots, dashes and underscores")
    return value


#: A name given in this file: of a backend, a policy or a key. Names become metric labels.
Name = Annotated[str, AfterValidator(_name)]

_TYPED = BeforeValidator(typed_from_env)
# Strict, because pydantic would else take "yes" for a flag and true for a number.
Number = Annotated[float, Field(strict=True, allow_inf_nan=False), _TYPED]
Integer = Annotated[int, Field(strict=True), _TYPED]
Flag = Annotated[bool, Field(strict=True), _TYPED]
#: A share between 0 and 1.
Ratio = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False), _TYPED]
#: A whole number, 1 or more.
Count = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1), _TYPED]


def _secret(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text.strip():
        raise invalid("must not be empty", "leave the key out, or check the variable it comes from")
    if _CONTROL.search(text):
        raise invalid("must not hold control characters or line ends")
    return value


#: Never shown: not in reprs, logs, diffs or error texts.
Secret = Annotated[SecretStr, AfterValidator(_secret)]


def _key_or_digest(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if text.lower().startswith("sha256:") and not _DIGEST.fullmatch(text):
        raise invalid("sha256: must be followed by 64 lower-case hex digits", "printf %s KEY | sha256sum")
    return value


#: A key that callers present, as it is or as `sha256:<hex>` of it.
AccessKey = Annotated[Secret, AfterValidator(_key_or_digest)]


def key_digest(key: SecretStr) -> bytes:
    """The SHA-256 (32 bytes) of an access key, whichever way it was written."""
    text = key.get_secret_value()
    if _DIGEST.fullmatch(text):
        return bytes.fromhex(text.removeprefix("sha256:"))
    return hashlib.sha256(text.encode()).digest()


def split_listen(address: str) -> tuple[str, int]:
    """Host (IPv6 without brackets) and port of `host:port`. Raises ValueError."""
    host, separator, port = address.rpartition(":")
    if not separator or not _HOST.fullmatch(host):
        raise ValueError("must be host:port")
    if not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise ValueError("the port must be between 0 and 65535")
    if host.startswith("["):
        host = host[1:-1]
        ipaddress.IPv6Address(host)
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether a listener on this host can be reached from its own machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(value: Any) -> Any:
    example = "127.0.0.1:8080 for this machine only, 0.0.0.0:8080 for all networks"
    if not isinstance(value, str):
        raise invalid("must be host:port", example)
    try:
        split_listen(value)
    except ValueError as error:
        raise invalid(str(error), example) from None
    return value


#: host:port.
Listen = Annotated[str, BeforeValidator(_listen), WithJsonSchema({"type": "string", "pattern": r"^.+:[0-9]+$"})]


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        try:
            wider = str(ipaddress.ip_network(value, strict=False))
        except ValueError:
            raise invalid("is not an IP network", "write an address or a CIDR such as 10.0.0.0/8") from None
        raise invalid("has host bits set", f"did you mean {wider}?") from None
    return value


#: An IP network in CIDR notation.
Network = Annotated[str, AfterValidator(_network)]


def split_url(value: str, schemes: tuple[str, ...], *, what: str = "url") -> SplitResult:
    """Splits an absolute URL without user, query or fragment. Raises PydanticCustomError, never quoting it."""
    if _CONTROL.search(value) or " " in value:
        raise invalid(f"the {what} must not hold spaces or control characters")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise invalid(f"the {what} is malformed", f"such as {schemes[0]}://10.0.0.5:8000") from None
    if parts.scheme not in schemes:
        raise invalid(f"the {what} must start with {' or '.join(s + '://' for s in schemes)}")
    if not parts.hostname or port == 0:
        raise invalid(f"the {what} has no host" if not parts.hostname else f"the {what}'s port can't be 0")
    if "@" in parts.netloc:
        raise invalid(f"the {what} must not hold credentials", "use api_key or headers")
    if parts.query or parts.fragment or value.endswith(("?", "#")):
        raise invalid(f"the {what} must not hold a query or fragment")
    return parts


LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]
