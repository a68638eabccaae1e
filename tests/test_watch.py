"""Who is judged a straggler, from signs with made-up clocks."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.driver.watch import TIMES, Watch
from workers.activity import BETWEEN, Doing, Sign

PATIENCE = 8.0


class Rank:
    """A rank that computes, in turn, programs of so many seconds, and waits for the others at the end of each round."""

    def __init__(self, seconds: float, round: float) -> None:
        self.seconds, self.round = seconds, max(seconds, round)

    def sign(self, now: float) -> Sign:
        runs, into = divmod(now, self.round)
        if into < self.seconds:
            doing: Doing = ("computes", "map", (0,))
            spent = runs * self.seconds
        else:
            doing, spent, runs, into = ("waits", 0, ()), (runs + 1) * self.seconds, runs + 1, into - self.seconds
        return Sign(doing, into, {"map": (int(runs), spent)}, int(runs), now)


def judged(seconds: list[float], until: float = 60.0, every: float = 2.0) -> tuple[float, int] | None:
    """When which rank is judged slow, if ranks take so long for a round."""
    watch, ranks = Watch(len(seconds), PATIENCE), [Rank(each, max(seconds)) for each in seconds]
    now = 0.0
    while now < until:
        for number, rank in enumerate(ranks):
            watch.take(number, now, rank.sign(now))
        found = watch.slow()
        if found is not None:
            return now, found[0]
        now += every
    return None


@given(st.lists(st.floats(0.001, 1.0), min_size=2, max_size=6), st.integers(0, 5), st.floats(4 * TIMES, 1000))
def test_one_that_is_far_slower_is_found(seconds: list[float], which: int, times: float) -> None:
    which %= len(seconds)
    usual = max(seconds)
    rest = [usual] * len(seconds)
    rest[which] = min(usual * times, 30.0) if usual * times > 2 * TIMES * usual else usual
    found = judged(rest, until=200.0)
    if rest[which] > 2 * TIMES * usual:
        assert found is not None
        assert found[1] == which
        assert PATIENCE <= found[0] <= PATIENCE + 2 * TIMES * rest[which] + 4


@given(st.floats(0.001, 20.0), st.lists(st.floats(1.0, TIMES - 0.5), min_size=2, max_size=8))
def test_work_that_differs_by_less_is_not(usual: float, times: list[float]) -> None:
    times[0] = 1.0
    assert judged([usual * each for each in times]) is None


def test_one_that_hangs_in_a_program_that_others_know_is_found_after_the_patience() -> None:
    watch = Watch(3, PATIENCE)
    for now in range(0, 20, 2):
        for rank in (0, 2):
            watch.take(rank, now, Sign(("waits", 1, ()), float(now), {"map": (10, 1.0)}, 0, float(now)))
        watch.take(1, now, Sign(("computes", "map", (7,)), float(now), {}, 0, float(now)))
        if (found := watch.slow()) is not None:
            assert found[0] == 1
            assert now == PATIENCE
            assert found[1] == "it takes 8 s for what takes 0.1 s as a rule"
            return
    raise AssertionError("nobody was found")


def test_a_worker_that_several_jobs_share_is_judged_by_the_time_it_gives_to_this_one() -> None:
    """A quarter of it, in which it takes 1 s for what takes the other 0.1 s."""
    watch, found = Watch(2, PATIENCE), None
    for now in range(0, 60, 2):
        given = now / 4
        watch.take(0, now, Sign(("waits", 1, ()), 0.5, {"map": (now, 0.1 * given)}, now, given))
        watch.take(1, now, Sign(("computes", "map", (7,)), 0.5, {"map": (int(given), float(int(given)))}, now, given))
        found = found or watch.slow()
    assert found is not None
    assert found[0] == 1


def test_what_nobody_has_done_before_is_doubtful_until_it_is_known() -> None:
    """A single step takes the only rank that performs it 30 s, and the others wait."""
    for learnt, expected in ((None, None), (20.0, None), (1.0, 1)):
        watch, doubtful, overdue, slow = Watch(2, PATIENCE), [], [], None
        for now in range(0, 30, 2):
            watch.take(0, now, Sign(("waits", 1, ()), float(now), {"map": (9, 0.1)}, 0, float(now)))
            watch.take(1, now, Sign(("computes", "single", ()), float(now), {"map": (9, 0.1)}, 0, float(now)))
            doubtful.append(watch.doubtful(lambda rank, program: 10.0))
            assert watch.at(1, "single")
            assert not watch.at(0, "single")
            if now == 14 and learnt is not None:
                watch.learn("single", learnt)
            slow = slow or watch.slow()
            overdue.append(watch.overdue(1))
        assert doubtful[:8] == [None] * 6 + [(1, "single")] * 2
        assert doubtful[8:] == [(1, "single") if learnt is None else None] * 7
        assert (slow and slow[0]) == expected
        assert [bool(reason) for reason in overdue] == [False] * 7 + [expected == 1] * 8


def test_what_all_others_wait_for_is_doubtful_even_if_they_were_busy_before() -> None:
    watch = Watch(2, PATIENCE)
    for now in (0, 30):
        watch.take(0, now, Sign(("computes", "map", (0,)), float(now), {}, 0, float(now)))
        watch.take(1, now, Sign(("computes", "map", (1,)), float(now), {}, 0, float(now)))
    assert watch.doubtful(lambda rank, program: 10.0) is None
    assert watch.doubtful(lambda rank, program: 10.0, [1]) == (1, "map")
    assert watch.doubtful(lambda rank, program: 40.0, [1]) is None


def test_reading_is_judged_like_computing_but_not_done_elsewhere() -> None:
    watch, found = Watch(2, PATIENCE), None
    for now in range(0, 20, 2):
        watch.take(0, now, Sign(("waits", 1, ()), float(now), {"input x": (8, 0.4)}, 0, float(now)))
        watch.take(1, now, Sign(("reads", "input x", ()), float(now), {}, 0, float(now)))
        assert watch.doubtful(lambda rank, program: 1.0) is None
        found = found or watch.slow()
    assert found == (1, "it takes 8 s for what takes 0.05 s as a rule")


def test_a_long_program_that_nobody_else_performs_is_not_judged_at_its_first_time_but_later() -> None:
    for before, expected in (((0, 0.0), None), ((5, 1.0), 0)):
        watch = Watch(2, PATIENCE)
        found = None
        for now in range(0, 60, 2):
            watch.take(0, now, Sign(("computes", "single", ()), float(now), {"single": before}, 0, float(now)))
            watch.take(1, now, Sign(("waits", 0, ()), float(now), {"map": (9, 0.1)}, 0, float(now)))
            found = found or watch.slow()
        assert (found and found[0]) == expected


@pytest.mark.parametrize(
    ("before", "known", "expected"),
    [
        ({}, {}, None),  # it may just be long
        ({"map": (5, 1.0)}, {}, 0),
        ({}, {"map": 0.2}, 0),
        ({}, {"map": 10.0}, None),
    ],
)
def test_one_that_is_alone_is_judged_by_what_was_before(
    before: dict[str, tuple[int, float]], known: dict[str, float], expected: int | None
) -> None:
    watch, found = Watch(1, PATIENCE, known), None
    for now in range(0, 40, 2):
        watch.take(0, now, Sign(("computes", "map", (3,)), float(now), before, 0, float(now)))
        found = found or watch.slow()
    assert (found and found[0]) == expected
    watch.forget(0)
    assert watch.paces() == known | {program: seconds / runs for program, (runs, seconds) in before.items()}


def test_the_same_rank_is_watched_twice_as_long_the_next_time() -> None:
    watch, times = Watch(2, PATIENCE), []
    begun = 0
    for now in range(0, 100, 2):
        watch.take(0, now, Sign(("waits", 1, ()), float(now - begun), {"map": (10, 1.0)}, 0, float(now)))
        watch.take(1, now, Sign(("computes", "map", (7,)), float(now - begun), {}, 0, float(now)))
        if watch.slow() is not None:
            times.append(now - begun)
            watch.forget(1)
            begun = now + 2
    assert times[:3] == [8, 16, 32]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda now: Sign(("waits", 0, ()), 0.0, {"map": (1, 1.0)}, 5, now), True),
        (lambda now: Sign(("waits", 0, ()), 0.0, {"map": (1, 1.0)}, int(now), now), False),  # bytes come
        (lambda now: Sign(("computes", "map", (0,)), now, {"map": (1, 1.0)}, 5, now), False),
        (lambda now: Sign(BETWEEN, 0.0, {"map": (1, 1.0)}, 5, now), False),  # it reads, or copies
    ],
)
def test_all_stuck(change: Callable[[float], Sign], expected: bool) -> None:
    watch = Watch(2, PATIENCE)
    for now in range(0, 20, 2):
        watch.take(0, now, Sign(("waits", 1, ()), float(now), {}, 3, float(now)))
        watch.take(1, now, change(float(now)))
    assert watch.stuck([0, 1], PATIENCE) == expected
