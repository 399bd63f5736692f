"""The answers kept for when everything fails."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.config.schema import StaleIfErrorPolicy
from gateway.stale import KeptAnswer, StaleAnswers


def answer(size: int, at: float) -> KeptAnswer:
    return KeptAnswer(b"x" * size, b"application/json", b"", "m", at)


def test_an_answer_is_found_until_it_is_too_old() -> None:
    kept = StaleAnswers(StaleIfErrorPolicy(ttl=10.0))
    kept.keep(b"a", answer(1, 1.0))
    assert kept.find(b"a", 11.0) is not None
    assert kept.find(b"b", 1.0) is None
    assert kept.find(b"a", 11.1) is None
    assert len(kept) == 0


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 100)), max_size=60))
def test_what_is_kept_stays_within_both_bounds_and_the_newest_is_among_it(puts: list[tuple[int, int]]) -> None:
    kept = StaleAnswers(StaleIfErrorPolicy(ttl=1000.0, max_entries=5, max_size=800))
    newest: tuple[bytes, int] | None = None
    for at, (name, size) in enumerate(puts):
        key = bytes([name])
        kept.keep(key, answer(size, float(at)))
        if size <= 50:
            newest = key, size
            found = kept.find(key, float(at))
            assert found is not None
            assert len(found.body) == size
        assert len(kept) <= 5
        assert kept._size == sum(len(each.body) for each in kept._answers.values()) <= 800
    assert newest is None or len(kept) > 0
