"""Stop strings across the cut of an answer: found where the undisturbed answer would have found them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.relay.stops import AmbiguousStopError, StopStrings

_STOPS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3)


def _undisturbed(pieces: list[str], stops: list[str], *, keep: bool) -> tuple[list[str], str | None]:
    """(text that went out with each piece, stop string): vLLM's detokenizer written down plainly."""
    hold = 0 if keep else max(map(len, stops)) - 1
    text, sent, out = "", 0, []
    for piece in pieces:
        text += piece
        for stop in stops:
            at = text.find(stop, max(0, len(text) - len(piece) - len(stop) + 1)) if piece else -1
            if at >= 0:
                return [*out, text[sent : at + len(stop) if keep else at]], stop
        end = max(sent, len(text) - hold)
        out.append(text[sent:end])
        sent = end
    return [*out, text[sent:]], None


@given(st.lists(st.text("ab", max_size=3), max_size=12), _STOPS, st.booleans(), st.integers(0, 12))
def test_an_answer_cut_anywhere_ends_where_it_would_have(
    pieces: list[str], stops: list[str], keep: bool, cut: int
) -> None:
    whole, stopped = _undisturbed(pieces, stops, keep=keep)
    cut = min(cut, len(whole) - 1)
    sent = "".join(whole[:cut])
    held = "".join(pieces[:cut])[len(sent) :]
    watch, out, found = StopStrings(stops, keep=keep, sent=sent, held=held), sent, None
    for piece in pieces[cut:]:
        text, found = watch.push(piece, tokens=1)
        out += text
        if found is not None:
            break
    if found is None:
        out += watch.rest()
    assert (out, found) == ("".join(whole), stopped)


def test_which_of_two_stop_strings_came_first_is_not_guessed() -> None:
    watch = StopStrings(["b", "a"], keep=False, sent="", held="")
    with pytest.raises(AmbiguousStopError):
        watch.push("xab", tokens=2)
    assert StopStrings(["b", "a"], keep=False, sent="", held="").push("xab", tokens=1) == ("xa", "b")
