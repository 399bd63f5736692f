"""Whether an endpoint is there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.vitality import Vitality


def test_nothing_heard_is_no_doubt() -> None:
    assert not Vitality().doubtful
    assert not Vitality().seen_since(0.0)


def test_one_that_was_missed_is_in_doubt_until_it_is_seen() -> None:
    vitality = Vitality()
    vitality.seen(1.0)
    vitality.missed(2.0)
    assert vitality.doubtful
    vitality.seen(3.0)
    assert not vitality.doubtful
    assert vitality.seen_since(2.0)
    assert not vitality.seen_since(3.0)


def test_a_check_that_began_before_the_miss_does_not_clear_it() -> None:
    vitality = Vitality()
    vitality.missed(2.0)
    vitality.seen(1.5)
    assert vitality.doubtful


def test_a_check_is_no_answer_to_a_request() -> None:
    vitality = Vitality()
    vitality.seen(2.0)
    assert not vitality.answered_since(1.0)
    vitality.answered(3.0)
    assert vitality.answered_since(2.0)
    assert not vitality.answered_since(3.0)
    assert vitality.seen_since(2.0)


def test_a_check_brings_back_one_that_could_not_be_reached_and_not_one_that_fails_requests() -> None:
    vitality = Vitality()
    vitality.answered(1.0)
    vitality.seen(3.0)
    assert not vitality.back_since(2.0)
    vitality.missed(4.0)
    vitality.seen(5.0)
    assert vitality.back_since(4.0)
    vitality.answered(6.0)
    vitality.seen(8.0)
    assert vitality.back_since(5.0)
    assert not vitality.back_since(7.0)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100))))
def test_the_latest_word_counts(words: list[tuple[bool, float]]) -> None:
    vitality = Vitality()
    for seen, at in sorted(words, key=lambda word: word[1]):
        (vitality.seen if seen else vitality.missed)(at)
    latest = max((at for _, at in words), default=0.0)
    said = {seen for seen, at in words if at == latest}
    if len(said) == 1:
        assert vitality.doubtful is (said == {False})
