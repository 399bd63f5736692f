import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.units import MAX_DURATION, MAX_SIZE, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("2s", 2.0),
        ("1.5m", 90.0),
        ("1h", 3600.0),
        ("0s", 0.0),
        (" 10 s ", 10.0),
        ("30", 30.0),
        (30, 30.0),
        (0.5, 0.5),
    ],
)
def test_durations_become_seconds(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64KiB", 65536),
        ("20MiB", 20971520),
        ("1.5KiB", 1536),
        ("1GiB", 2**30),
        ("64kB", 64000),
        ("20MB", 20_000_000),
        ("7B", 7),
        ("512", 512),
        (512, 512),
        (0, 0),
    ],
)
def test_sizes_become_bytes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("", "is not a duration"),
        ("soon", "is not a duration"),
        ("-1s", "is not a duration"),
        ("1h30m", "is not a duration"),
        ("5 days", "unknown unit 'days'"),
        ("5S", "unknown unit 'S'"),
        (-1, "negative"),
        ("721h", "at most 720h"),
        (float("inf"), "at most 720h"),
        (float("nan"), "negative"),
        (10**400, "at most 720h"),
        (True, "must be a duration"),
        (None, "must be a duration"),
        (["1s"], "must be a duration"),
        ("٣s", "is not a duration"),
    ],
)
def test_bad_durations_are_refused(value, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_duration(value)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("20mib", "did you mean MiB"),
        ("20M", "use B, KiB"),
        ("1KB", "did you mean kB"),
        ("1.5", "not a whole number of bytes"),
        ("0.3B", "not a whole number of bytes"),
        (1.5, "must be a size"),
        (-1, "negative"),
        ("9999TiB", "at most 1024TiB"),
        ("9" * 400, "at most 1024TiB"),
        (True, "must be a size"),
    ],
)
def test_bad_sizes_are_refused(value, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_size(value)


def test_a_long_bad_value_is_cut_in_the_message():
    with pytest.raises(ValueError) as caught:
        parse_duration("x" * 10_000)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(600.0, "10m"), (0.25, "250ms"), (75.0, "75s"), (7200.0, "2h"), (0.0, "0s"), (1.5, "1.5s"), (0.0005, "0.0005s")],
)
def test_durations_are_written_shortly(seconds, text):
    assert format_duration(seconds) == text


@given(st.floats(min_value=0, max_value=MAX_DURATION))
def test_writing_a_duration_and_reading_it_gives_it_back(seconds):
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=1e-15, rel=0)


@given(st.integers(min_value=0, max_value=MAX_SIZE))
def test_writing_a_size_and_reading_it_gives_it_back(size):
    assert parse_size(format_size(size)) == size


@given(st.text() | st.integers() | st.floats() | st.booleans() | st.none())
def test_any_value_gives_a_number_in_range_or_a_value_error(value):
    for parse, most in ((parse_duration, MAX_DURATION), (parse_size, MAX_SIZE)):
        try:
            number = parse(value)
        except ValueError:
            continue
        assert 0 <= number <= most
