"""Whose turn it is: the line of jobs, and the calls of those that run, without workers and without a clock."""

import heapq
import itertools
import threading
from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.driver import turns
from scheduler.driver.turns import DEPTH, PRIORITY, Share, Turn, Turns
from scheduler.job.line import AGE_SECONDS, LONGER, SLICE_SECONDS, Line, Place

# ---- the line ----


def drained(line: Line, now: float) -> list[str]:
    found = []
    while (id := line.next(now)) is not None:
        found.append(id)
        line.ended(id)
    return found


def test_the_highest_priority_goes_first_then_who_came_first() -> None:
    line = Line(2)
    for id, priority in (("a", 0), ("b", 2), ("c", -1), ("d", 2), ("e", 0)):
        line.add(Place(id, priority, 0.0))
    assert drained(line, 1.0) == ["b", "d", "a", "e", "c"]


@given(st.lists(st.tuples(st.integers(-10, 10), st.floats(0, 5000)), min_size=1, max_size=12))
def test_nobody_waits_for_ever(jobs: list[tuple[int, float]]) -> None:
    """A stream of new jobs of the highest priority does not keep the others out."""
    line, left = Line(1), set()
    for number, (priority, since) in enumerate(jobs):
        line.add(Place(f"old{number:02}", priority, since))
        left.add(f"old{number:02}")
    now, limit = 5000.0, 5000.0 + 21 * AGE_SECONDS
    while left:
        line.add(Place(f"new{now}", 10, now))
        id = line.next(now)
        assert id is not None
        line.ended(id)
        left.discard(id)
        now += 10.0
        assert now < limit + 10.0 * (len(jobs) + 1)


def test_the_next_of_many_is_soon_found() -> None:
    """Looking at a few of each row, not at all that wait."""
    looked = 0

    class Counted(Place):
        def rank(self, now: float) -> tuple[int, int, str]:
            nonlocal looked
            looked += 1
            return super().rank(now)

    line = Line(1)
    for number in range(5000):
        line.add(Counted(f"{number:05}", number % 3, number / 100))
    first = [line.next(50.0) for _ in range(100)]
    assert looked <= 100 * 3
    assert first == [f"{number:05}" for number in range(2, 5000, 3)][:100]  # nobody has aged by a step


def test_a_job_gives_its_place_up_after_its_slice_if_somebody_waits() -> None:
    line = Line(1)
    line.add(Place("huge", 0, 0.0))
    assert line.next(0.0) == "huge"
    assert not line.gives_way("huge", 1e6)  # nobody waits
    line.add(Place("small", 0, 1.0))
    assert not line.gives_way("huge", SLICE_SECONDS - 0.1)
    assert line.gives_way("huge", SLICE_SECONDS)
    line.begins("huge", 2.0)  # its workers were not there before
    assert not line.gives_way("huge", SLICE_SECONDS)
    assert line.gives_way("huge", SLICE_SECONDS + 2.0)
    line.set_aside("huge", SLICE_SECONDS, got_on=True)
    assert line.next(SLICE_SECONDS) == "small"
    assert not line.gives_way("small", 2 * SLICE_SECONDS - 0.1)


def test_a_job_of_lower_priority_does_not_take_the_place_of_a_higher_one_until_it_has_aged() -> None:
    line = Line(1)
    line.add(Place("high", 1, 0.0))
    assert line.next(0.0) == "high"
    line.add(Place("low", 0, 0.0))
    assert not line.gives_way("high", AGE_SECONDS - 1)
    assert line.gives_way("high", AGE_SECONDS)


def test_as_many_give_way_as_wait_and_those_that_had_most_first() -> None:
    line = Line(3)
    for id, slices in (("b", 2), ("c", 1), ("a", 0)):
        line.add(Place(id, 0, 0.0))
        for _ in range(slices):
            assert line.next(0.0) == id
            line.set_aside(id, 0.0, got_on=True)
        assert line.next(0.0) == id
    line.add(Place("new", 0, 0.0))
    late = SLICE_SECONDS * 2**LONGER
    assert [id for id in "abc" if line.gives_way(id, late)] == ["b"]
    line.add(Place("newer", 0, 0.0))
    assert [id for id in "abc" if line.gives_way(id, late)] == ["b", "c"]


def test_slices_grow_to_a_bound_but_without_one_while_no_step_ends() -> None:
    def slice_after(times: int, got_on: bool) -> float:
        line, now = Line(1), 0.0
        line.add(Place("huge", 0, now))
        line.add(Place("other", 0, now))
        for _ in range(times):
            while line.next(now) != "huge":
                line.set_aside("other", now, got_on=True)
            now += 1e6  # much older, and so longer waited
            line.set_aside("huge", now, got_on=got_on)
        while line.next(now) != "huge":
            line.set_aside("other", now, got_on=True)
        seconds = 1.0
        while not line.gives_way("huge", now + seconds) and seconds < 1e6:
            seconds += 1.0
        return seconds

    assert slice_after(1, True) == 2 * SLICE_SECONDS
    assert slice_after(LONGER + 4, True) == SLICE_SECONDS * 2**LONGER
    assert slice_after(LONGER + 4, False) == SLICE_SECONDS * 2 ** (2 * LONGER + 4)


def test_equal_long_jobs_take_turns() -> None:
    line, now, ran = Line(2), 0.0, Counter[str]()
    for id in "abcde":
        line.add(Place(id, 0, now))
    running = [line.next(now), line.next(now)]
    for _ in range(400):
        now += 1.0
        for id in list(running):
            assert id is not None
            ran[id] += 1
            if line.gives_way(id, now):
                line.set_aside(id, now, got_on=True)
                running.remove(id)
                running.append(line.next(now))
    assert sum(ran.values()) == 800
    assert min(ran.values()) > 0.6 * 800 / 5


def test_a_cancelled_job_does_not_come_up() -> None:
    line = Line(1)
    line.add(Place("a", 0, 0.0))
    line.add(Place("b", 0, 0.0))
    line.cancelled("a")
    assert len(line) == 1
    assert drained(line, 0.0) == ["b"]


def test_jobs_that_wait_past_their_deadlines_are_told_once() -> None:
    line = Line(1)
    for id, deadline in (("a", 5.0), ("b", None), ("c", 9.0), ("d", 2.0)):
        line.add(Place(id, 0, 0.0, arrays={id: 8, "all": 100}, deadline=deadline))
    assert line.bytes == 132
    assert line.next(1.0) == "a"  # who runs sees to it himself
    assert line.late(6.0) == ["d"]
    assert line.late(8.0) == []
    assert line.late(10.0) == ["c"]
    assert (len(line), line.bytes) == (1, 108)
    line.set_aside("a", 10.0, got_on=True)
    assert line.late(10.0) == ["a"]


# ---- calls of jobs that run ----


class Workers:
    """Workers that serve calls in their order, with a clock that moves only when they do."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns = Turns(lambda: self.now)
        self.queue: list[tuple[float, int, Turn, float]] = []
        self.sent = itertools.count()
        self.free = dict.fromkeys("ab", 0.0)
        self.served: dict[Share, float] = defaultdict(float)

    def ask(self, share: Share, seconds: float, workers: str = "ab") -> bool:
        turn = self.turns.take(share, workers, seconds, 0.0)
        if turn is not None:
            end = max(self.now, *(self.free[worker] for worker in workers)) + seconds
            self.free |= dict.fromkeys(workers, end)
            heapq.heappush(self.queue, (end, next(self.sent), turn, seconds))
        return turn is not None

    def serve(self) -> Share:
        self.now, _, turn, seconds = heapq.heappop(self.queue)
        assert self.turns.done(turn) == pytest.approx(seconds)
        self.served[turn.share] += seconds
        return turn.share


@pytest.mark.parametrize("difference", [0, 1, 2])
def test_a_step_of_priority_is_a_factor_in_what_a_job_gets(difference: int) -> None:
    workers = Workers()
    low, high = workers.turns.join(-1), workers.turns.join(difference - 1)
    for _ in range(3000):
        for share in (low, high):
            while workers.ask(share, 0.25):
                pass
        workers.serve()
    assert workers.served[high] / workers.served[low] == pytest.approx(PRIORITY**difference, rel=0.05)


def test_the_lowest_priority_has_a_call_a_minute_beside_the_highest() -> None:
    workers = Workers()
    low, high = workers.turns.join(-10), workers.turns.join(10)
    served: list[float] = []
    while workers.now < 1000.0:
        for share in (low, high):
            while workers.ask(share, 0.25):
                pass
        if workers.serve() is low:
            served.append(workers.now)
    gaps = [after - before for before, after in pairwise(served)]
    assert len(served) > 10
    assert max(gaps) <= turns.AGE_SECONDS + 1.0
    assert workers.served[low] < 0.02 * workers.served[high]


def test_long_and_short_calls_get_the_same_time() -> None:
    workers = Workers()
    shares = {workers.turns.join(0): 0.5, workers.turns.join(0): 0.05}
    for _ in range(4000):
        for share, seconds in shares.items():
            while workers.ask(share, seconds):
                pass
        workers.serve()
    long, short = (workers.served[share] for share in shares)
    assert long == pytest.approx(short, rel=0.05)


def test_a_job_that_is_alone_has_calls_ahead_and_never_more_than_fit() -> None:
    workers = Workers()
    share = workers.turns.join(0)
    for _ in range(10):
        while workers.ask(share, 0.25):
            pass
        assert len(workers.queue) == DEPTH
        workers.serve()


jobs = st.tuples(st.integers(-10, 10), st.sampled_from(["a", "b", "ab"]), st.floats(0.01, 20.0))


@given(st.lists(jobs, min_size=1, max_size=6), st.integers(1, 5))
def test_workers_are_never_idle_while_somebody_waits_and_all_are_served(
    given_jobs: list[tuple[int, str, float]], calls: int
) -> None:
    workers = Workers()
    left = {workers.turns.join(priority): [calls, on, seconds] for priority, on, seconds in given_jobs}

    def ask() -> None:
        for share, (more, on, seconds) in left.items():
            if more and workers.ask(share, seconds, on):
                left[share][0] -= 1

    while left:
        ask()
        if not workers.queue:  # at most for the moment in which a job that has had less may send another call
            workers.now += 2 * turns.GRACE_SECONDS
            ask()
        assert workers.queue
        share = workers.serve()
        if not left[share][0] and not share.calls:
            workers.turns.leave(share)
            del left[share]
    assert workers.now <= sum(calls * seconds for _, _, seconds in given_jobs) + 1000 * turns.GRACE_SECONDS


def test_a_job_with_pauses_between_calls_does_not_keep_the_workers_idle() -> None:
    """It stores a checkpoint after each of its short calls; meanwhile another one computes."""
    workers = Workers()
    pausing, steady = workers.turns.join(0), workers.turns.join(0)
    ready = 0.0
    while workers.now < 100.0:
        if workers.now >= ready and not pausing.calls:
            workers.ask(pausing, 0.005)
        while workers.ask(steady, 0.25):
            pass
        if not workers.queue:
            workers.now += 0.001
        elif workers.serve() is pausing:
            ready = workers.now + 0.02
    assert sum(workers.served.values()) > 0.9 * workers.now
    assert workers.served[pausing] > 0.5


def test_a_new_job_is_served_after_the_calls_that_are_queued_and_does_not_catch_up() -> None:
    workers = Workers()
    old = workers.turns.join(0)
    for _ in range(100):
        while workers.ask(old, 0.25):
            pass
        workers.serve()
    new = workers.turns.join(0)
    order = []
    for _ in range(40):
        for share in (new, old):
            while workers.ask(share, 0.25):
                pass
        order.append(workers.serve())
    assert new in order[:DEPTH]
    assert abs(order.count(new) - order.count(old)) <= 2


def test_jobs_on_different_workers_do_not_wait_for_each_other() -> None:
    workers = Workers()
    left, right = workers.turns.join(-5), workers.turns.join(5)
    assert workers.ask(right, 0.25, "b")
    assert workers.ask(right, 0.25, "b")
    assert not workers.ask(right, 0.25, "b")
    assert workers.ask(left, 100.0, "a")
    assert not workers.ask(left, 100.0, "ab")


def test_a_job_on_all_workers_is_not_kept_out_by_small_ones() -> None:
    workers = Workers()
    wide, left, right = (workers.turns.join(0) for _ in range(3))
    for _ in range(600):
        for share, on in ((left, "a"), (right, "b"), (wide, "ab")):
            workers.ask(share, 0.25, on)
        workers.serve()
    assert workers.served[left] == pytest.approx(workers.served[right], rel=0.05)
    assert 2 * workers.served[wide] == pytest.approx(workers.served[left], rel=0.05)  # it has both workers


def test_a_long_call_is_pressed_once_somebody_waits_who_had_less() -> None:
    workers = Workers()
    huge = workers.turns.join(0)
    turn = workers.turns.take(huge, "ab", 0.25, 0.0)
    assert turn is not None
    workers.now = 60.0
    assert not workers.turns.pressed(turn, 2.0)  # nobody is there
    small = workers.turns.join(0)
    behind = workers.turns.take(small, "ab", 0.25, 0.0)
    assert behind is not None  # queued behind the long one
    assert workers.turns.pressed(turn, 2.0)
    assert not workers.turns.pressed(turn, 61.0)
    assert not workers.turns.pressed(behind, 0.0)  # it is not under way
    workers.turns.done(turn)
    workers.turns.done(behind)
    assert workers.turns.take(huge, "ab", 0.25, 0.0) is None  # the small one had less, and may soon send another
    workers.now += 2 * turns.GRACE_SECONDS
    again = workers.turns.take(huge, "ab", 0.25, 0.0)
    assert again is not None
    workers.now += 60.0
    assert not workers.turns.pressed(again, 2.0)


def test_who_waits_is_let_in_when_a_call_ends() -> None:
    turns = Turns()
    first, second = turns.join(0), turns.join(0)
    held = [turns.take(first, "a", 0.1, 0.0) for _ in range(DEPTH)]
    got: list[Turn | None] = []
    thread = threading.Thread(target=lambda: got.append(turns.take(second, "a", 0.1, 30.0)))
    thread.start()
    for turn in held:
        assert turn is not None
        turns.done(turn)
    thread.join(30.0)
    assert got[0] is not None
    assert got[0].share is second
