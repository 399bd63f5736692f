"""What sanitising takes out of text, and that clean text costs and changes nothing."""

from __future__ import annotations

import unicodedata
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sanitise import drop_lone_surrogates, may_hold_controls, sanitise, sanitise_value

any_text = st.text(st.characters(exclude_categories=()))
values: st.SearchStrategy[Any] = st.recursive(
    any_text | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("null\x00byte", "nullbyte"),
        ("\x01\x08\x0b\x0c\x0e\x1f", ""),
        ("del\x7f c1\x80\x85\x9f", "del c1"),
        ("half \ud83d", "half "),
        ("tab\t line\n return\r", "tab\t line\n return\r"),
        ("nbsp\xa0 é 漢字 😀", "nbsp\xa0 é 漢字 😀"),
        ("\u202bאבג\u202c \u200d \u2028", "\u202bאבג\u202c \u200d \u2028"),
    ],
)
def test_what_is_taken_out_and_what_stays(dirty: str, clean: str) -> None:
    assert sanitise(dirty) == clean


@given(any_text)
def test_no_control_is_left_and_a_second_time_is_the_same_object(text: str) -> None:
    clean = sanitise(text)
    assert not [c for c in clean if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n\r"]
    assert sanitise(clean) is clean


@given(values)
def test_clean_values_are_the_same_object(value: Any) -> None:
    clean = sanitise_value(value)
    assert sanitise_value(clean) is clean
    assert (clean is value) == (clean == value)


def test_keys_stay_and_emptied_strings_are_told_by_path() -> None:
    emptied: list[tuple[int | str, ...]] = []
    value = [{"a\x00": "\x00", "b": ""}, "x\x00"]
    assert sanitise_value(value, ("messages",), emptied) == [{"a\x00": "", "b": ""}, "x"]
    assert emptied == [("messages", 0, "a\x00")]


@given(st.text())
def test_the_quick_check_misses_no_control_however_json_spells_it(text: str) -> None:
    escaped = '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else c for c in text) + '"'
    for body in (orjson.dumps(text), escaped.encode()):
        assert orjson.loads(body) == text
        assert may_hold_controls(body) or sanitise(text) is text


@pytest.mark.parametrize("text", ["plain", 'line\n\ttab \\ " quote', "漢字 😀 é nbsp\xa0 « »"])
def test_the_quick_check_lets_common_text_by(text: str) -> None:
    assert not may_hold_controls(orjson.dumps(text))


@pytest.mark.parametrize(
    ("body", "mended"),
    [
        (rb'"\ud83d"', rb'""'),
        (rb'"\ude00\ud83d x"', rb'" x"'),
        (rb'"\ud83d\ude00"', rb'"\ud83d\ude00"'),
        (rb'"\ud83d\ud83d\ude00"', rb'"\ud83d\ude00"'),
        (rb'"\\ud83d"', rb'"\\ud83d"'),
        (rb'"\\\ud83d\n"', rb'"\\\n"'),
    ],
)
def test_only_lone_surrogates_are_dropped(body: bytes, mended: bytes) -> None:
    assert drop_lone_surrogates(body) == mended
