"""The journal gives back what it was given, within its bounds."""

from __future__ import annotations

from random import Random

import pytest

from gateway.relay import journal
from gateway.relay.journal import Journal


def test_frames_come_back_as_they_were_over_many_pages() -> None:
    kept, frames = Journal(), [b'data: {"n":%d,"pad":"%b"}\n\n' % (n, b"x" * (n % 300)) for n in range(2000)]
    for place in range(0, len(frames), 3):
        kept.add(b"".join(frames[place : place + 3]))
    assert list(kept.frames()) == frames


@pytest.mark.parametrize("bound", ["MAX_JOURNAL", "MAX_STORED"])
def test_beyond_a_bound_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(journal, bound, 100_000)
    kept, noise = Journal(), Random(1)
    for _ in range(100):
        kept.add(b"data: " + noise.randbytes(3000).replace(b"\n", b" ") + b"\n\n")
    assert kept.overflowed
    assert sum(map(len, kept.frames())) < 40_000
