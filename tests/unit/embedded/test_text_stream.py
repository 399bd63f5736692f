"""What text may go out, and when, while tokens come in."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.workers.embedded.text_stream import TextStream


def stream_of(pieces: list[bytes], stops: tuple[str, ...] = (), *, keep_stop: bool = False) -> TextStream:
    return TextStream(pieces.__getitem__, stops, keep_stop=keep_stop)


def run(pieces: list[bytes], stops: tuple[str, ...] = (), *, keep_stop: bool = False) -> list[tuple[str, list[int]]]:
    """All that is released, token by token, the last with `finish`."""
    stream, released = stream_of(pieces, stops, keep_stop=keep_stop), []
    for token in range(len(pieces)):
        if stream.push(token):
            break
        released.append(stream.take())
    return [*released, stream.finish()]


def test_plain_text_goes_out_token_by_token() -> None:
    assert run([b"The", b" sea"]) == [("The", [0]), (" sea", [1]), ("", [])]


def test_an_unfinished_character_is_held_back_with_its_tokens() -> None:
    euro = "€".encode()
    pieces = [b"5 ", euro[:1], euro[1:2], euro[2:] + b"!"]
    assert run(pieces) == [("5 ", [0]), ("", []), ("", []), ("€!", [1, 2, 3]), ("", [])]


def test_a_token_that_ends_within_a_character_waits_for_the_rest_of_it() -> None:
    umlaut = "ü".encode()
    assert run([b"a" + umlaut[:1], umlaut[1:] + b"b"]) == [("", []), ("aüb", [0, 1]), ("", [])]


def test_a_character_that_never_becomes_whole_ends_as_a_replacement() -> None:
    assert run([b"x", b"\xe2\x82"]) == [("x", [0]), ("", []), ("\ufffd", [1])]


def test_bytes_that_are_no_utf8_are_replaced_and_do_not_block() -> None:
    assert run([b"\xff", b"y"])[:2] == [("\ufffd", [0]), ("y", [1])]


def test_an_ending_that_could_become_a_stop_string_is_held_back() -> None:
    assert run([b"one", b" EN", b"tire"], (" END",)) == [("one", [0]), ("", []), (" ENtire", [1, 2]), ("", [])]


@pytest.mark.parametrize(
    ("pieces", "stops", "keep_stop", "text", "stopped_by"),
    [
        ([b"a. b"], (".",), False, "a", "."),
        ([b"a. b"], (".",), True, "a.", "."),
        ([b"a\n", b"\nb"], ("\n\n",), False, "a", "\n\n"),
        ([b"xaab"], ("aab", "ab"), False, "x", "aab"),
        ([b"aa", b"ab"], ("aab",), False, "a", "aab"),
        ([b"abc"], ("d",), False, "abc", None),
    ],
)
def test_text_is_cut_at_the_first_stop_string(
    pieces: list[bytes], stops: tuple[str, ...], keep_stop: bool, text: str, stopped_by: str | None
) -> None:
    stream = stream_of(pieces, stops, keep_stop=keep_stop)
    released = ""
    for token in range(len(pieces)):
        if stream.push(token):
            break
        released += stream.take()[0]
    assert released + stream.finish()[0] == text
    assert stream.stopped_by == stopped_by


def test_a_stop_string_before_min_tokens_is_text() -> None:
    stream = stream_of([b"a.", b"b."], (".",))
    assert not stream.push(0, may_stop=False)
    assert stream.push(1)
    assert stream.finish()[0] == "a.b"


@given(
    st.text(alphabet="ab€ü\n", max_size=12), st.lists(st.text("ab€\n", min_size=1, max_size=3), max_size=3), st.data()
)
def test_released_text_and_ids_always_end_at_the_same_place(text: str, stops: list[str], data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(raw) - 1)), max_size=len(raw))))
    borders = [0, *cuts, len(raw)]
    pieces = [raw[start:end] for start, end in itertools.pairwise(borders)]
    released = run(pieces, tuple(stops))
    sent, ids = "", 0
    for part, tokens in released[:-1]:
        sent += part
        ids += len(tokens)
        assert b"".join(pieces[:ids]).decode() == sent
    whole = sent + released[-1][0]
    assert text.startswith(whole) if any(stop in text for stop in stops) else text == whole


@given(st.text(max_size=30), st.integers(1, 4))
def test_any_cut_into_tokens_gives_back_the_text(text: str, size: int) -> None:
    raw = text.encode()
    pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
    released = run(pieces)
    assert "".join(part for part, _ in released) == text
    assert [token for _, tokens in released for token in tokens] == list(range(len(pieces)))
