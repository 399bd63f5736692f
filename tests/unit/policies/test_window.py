"""The sliding window against a list of everything that was recorded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.window import OutcomeWindow


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 1.0, 2.5, 9.0, 40.0, 1e6]), st.booleans(), st.booleans())))
def test_counts_are_those_of_the_last_ten_buckets(steps: list[tuple[float, bool, bool]]) -> None:
    window, now = OutcomeWindow(10.0), 0.0
    recorded: list[tuple[int, bool, bool]] = []
    for pause, failed, slow in steps:
        now += pause
        window.record(now, failed=failed, slow=slow)
        recorded.append((int(now), failed, slow))
        recent = [entry for entry in recorded if entry[0] > int(now) - 10]
        assert window.requests == len(recent)
        assert window.failures == sum(entry[1] for entry in recent)
        assert window.slow == sum(entry[2] for entry in recent)


def test_a_clock_that_reads_older_counts_as_now() -> None:
    window = OutcomeWindow(10.0)
    window.record(100.0, failed=True, slow=False)
    window.record(50.0, failed=True, slow=False)
    window.advance(50.0)
    assert window.failures == 2
