"""Which conditions are told, when, and how often."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.alerts import MAX_FOLLOWED, AlertPolicy, AlertSettings, Condition, Message

SETTINGS = AlertSettings(hold={"slow": 60.0}, calm=30.0, group=10.0, repeat=3600.0, per_hour=6.0, burst=3)
Steps = list[tuple[float, list[Condition]]]
A, B, SLOW = Condition("down", "a"), Condition("down", "b"), Condition("slow", "a")


def play(steps: Steps, settings: AlertSettings = SETTINGS) -> list[tuple[float, Message]]:
    """The messages, with their times, of a policy that is shown these conditions at these times."""
    policy = AlertPolicy(settings)
    shown = ((now, policy.update({c: f"{c.kind} {c.subject}" for c in holding}, now)) for now, holding in steps)
    return [(now, message) for now, message in shown if message is not None]


def every(
    seconds: float, until: float, holding: list[Condition], start: float = 0.0
) -> list[tuple[float, list[Condition]]]:
    return [(start + seconds * step, holding) for step in range(int((until - start) / seconds) + 1)]


def fired(message: Message) -> list[Condition]:
    return [alert.condition for alert in message.fired]


def test_a_condition_is_told_once_after_the_others_had_time_to_join() -> None:
    ((now, message),) = play(every(5, 600, [A]))
    assert now == 10.0
    assert fired(message) == [A]
    assert (message.fired[0].since, message.fired[0].text) == (0.0, "down a")
    assert message.ended == message.continuing == ()


def test_what_changes_at_about_the_same_time_is_one_message() -> None:
    ((now, message),) = play([(0, [A]), (5, [A, B]), (10, [A, B]), (15, [A, B]), (60, [A, B])])
    assert now == 10.0
    assert fired(message) == [A, B]


def test_a_kind_has_to_hold_for_its_time() -> None:
    assert play([*every(5, 55, [SLOW]), *every(5, 300, [], start=60)]) == []
    ((now, _),) = play(every(5, 300, [SLOW]))
    assert now == 70.0


def test_an_end_is_told_when_it_has_lasted() -> None:
    (_, (now, message)) = play([*every(5, 60, [A]), *every(5, 300, [], start=65)])
    assert [alert.condition for alert in message.ended] == [A]
    assert now == 65 + 30 + 10
    assert message.fired == ()


def test_a_condition_that_comes_and_goes_within_the_calm_time_is_told_once() -> None:
    steps = [(5.0 * step, [A] if step % 4 else []) for step in range(1, 200)]
    assert len(play(steps)) == 1


def test_a_condition_that_was_over_before_anyone_was_told_is_told_to_nobody() -> None:
    assert play([(0, [A]), (5, []), (50, []), (100, [])]) == []


def test_what_goes_on_is_repeated_after_hours_and_beside_news() -> None:
    messages = play(every(60, 7300, [A]))
    assert [now for now, _ in messages] == [60, 3660, 7260]
    assert [alert.condition for alert in messages[1][1].continuing] == [A]
    news = play([*every(5, 60, [A]), *every(5, 100, [A, B], start=65)])
    assert fired(news[1][1]) == [B]
    assert [alert.condition for alert in news[1][1].continuing] == [A]


def test_messages_are_limited_and_the_next_one_tells_the_state_as_it_is_then() -> None:
    steps = []
    for number in range(30):
        steps += every(5, number * 60 + 55, [Condition("down", str(each)) for each in range(number + 1)], number * 60)
    messages = play(steps)
    assert len(messages) <= 3 + 30 * 60 / 3600 * 6
    told = [condition for _, message in messages for condition in fired(message)]
    assert len(told) == len(set(told))
    assert max(len(fired(message)) for _, message in messages) > 1


def test_the_number_of_conditions_followed_is_bounded() -> None:
    policy = AlertPolicy(SETTINGS)
    policy.update({Condition("down", str(each)): "" for each in range(10 * MAX_FOLLOWED)}, 0.0)
    assert len(policy.firing) == MAX_FOLLOWED


CONDITIONS = [A, B, SLOW, Condition("slow", "b")]


@given(
    st.lists(
        st.tuples(st.floats(0.1, 400.0), st.lists(st.sampled_from(CONDITIONS), unique=True)), min_size=1, max_size=120
    )
)
def test_fired_and_ended_alternate_and_the_rate_is_kept(pauses: list[tuple[float, list[Condition]]]) -> None:
    now, steps = 0.0, []
    for pause, holding in pauses:
        now += pause
        steps.append((now, holding))
    messages = play(steps)
    open_ones: set[Condition] = set()
    for _, message in messages:
        ended = {alert.condition for alert in message.ended}
        assert ended <= open_ones
        assert not set(fired(message)) & open_ones
        assert {alert.condition for alert in message.continuing} == open_ones - ended
        open_ones = open_ones - ended | set(fired(message))
        assert message.fired or message.ended or message.continuing
    for at, (began, _) in enumerate(messages):
        within = [when for when, _ in messages[at:] if when - began <= 3600.0]
        assert len(within) <= SETTINGS.burst + SETTINGS.per_hour
