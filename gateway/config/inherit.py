"""Policy inheritance: `extends`, merged section by section, on the plain mappings of gateway.yaml."""

from collections.abc import Mapping
from typing import Any

DEFAULT = "default"
#: Policies that are there without being written; writing one replaces it whole. An image comes whole, so its first byte
#: takes as long as all of it.
BUILT_IN: Mapping[str, Mapping[str, Any]] = {DEFAULT: {}, "images": {"timeout": {"first_token": "2m"}}}


def parent_of(name: str, policy: Any) -> Any:
    """What a policy extends as written: its `extends`, else `default`; nothing for `default` itself."""
    written = policy.get("extends") if isinstance(policy, Mapping) else None
    if written is None and name != DEFAULT:
        return DEFAULT
    return written


def lineage(name: str, policies: Mapping[str, Any]) -> tuple[list[str], str | None]:
    """The policy and its ancestors, nearest first, and what is wrong with the chain (None if nothing).

    A fault is a sentence about the LAST policy of the list: a cycle, or a parent that is not there.
    """
    chain = [name]
    while (parent := parent_of(chain[-1], policies.get(chain[-1]))) is not None:
        if not isinstance(parent, str):
            return chain, None  # not a name: the schema says so
        if chain[-1] == DEFAULT:
            return chain, "default can't extend another policy: every policy builds on it"
        if parent in chain:
            return chain, f"policies extend each other in a circle: {' -> '.join([*chain, parent])}"
        if parent not in policies:
            if parent in BUILT_IN:
                break
            return chain, f"there is no policy {parent!r} to extend"
        chain.append(parent)
    return chain, None


def merge(base: Any, over: Any) -> Any:
    """`over` laid upon `base`: mappings key by key, everything else replaced.

    A mapping whose `mode` differs is replaced whole: the other mode's settings make no sense in it.
    """
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    if "mode" in over and over["mode"] != base.get("mode", "adaptive"):
        return over
    merged = dict(base)
    for key, value in over.items():
        # A section with nothing below it changes nothing.
        if value is None and isinstance(base.get(key), Mapping) and key not in NULLABLE:
            continue
        merged[key] = merge(base[key], value) if key in base else value
    return merged


#: Sections that null turns off, where for the others it means that nothing is written below them.
NULLABLE = frozenset({"slow_call", "fault", "degrade"})


def resolve(policies: Mapping[str, Any]) -> dict[str, Any]:
    """All policies complete, the built-in ones among them. Raises ValueError for a faulty chain.

    Policies that are not mappings are left as they are, for the schema to refuse.
    """
    written: dict[str, Any] = dict(BUILT_IN)
    written.update((name, {} if policy is None else policy) for name, policy in policies.items())
    resolved: dict[str, Any] = {}
    for name, policy in written.items():
        chain, fault = lineage(name, written)
        if fault:
            raise ValueError(fault)
        if not isinstance(policy, Mapping):
            resolved[name] = policy
            continue
        merged: Any = {}
        for ancestor in reversed(chain):
            if isinstance(written[ancestor], Mapping):
                merged = merge(merged, written[ancestor])
        merged["extends"] = parent_of(name, policy)
        resolved[name] = merged
    return resolved
