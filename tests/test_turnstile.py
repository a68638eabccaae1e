"""Whose turn it is to write: one at a time, in order, promises first, and nobody for ever last."""

import threading
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from scheduler.job.turnstile import IN_A_ROW, Turnstile


def test_one_thread_at_a_time() -> None:
    turns, inside, most = Turnstile(), 0, 0

    def work(k: int) -> None:
        nonlocal inside, most
        for _ in range(200):
            with turns.turn(first=bool(k % 2)):
                inside += 1
                most = max(most, inside)
                inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert (most, inside) == (1, 0)


def order(kinds: list[bool]) -> list[int]:
    """In which order threads get in that asked in the order of their numbers, while another one was inside."""
    got: list[int] = []
    asked = threading.Semaphore(0)

    class Told(Turnstile):
        def _ask(self, first: bool) -> "threading.Lock | None":
            gate = super()._ask(first)
            asked.release()
            return gate

    turns = Told()

    def work(k: int) -> None:
        with turns.turn(first=kinds[k]):
            got.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(kinds))]
    with turns.turn(first=False):
        asked.acquire()
        for thread in threads:
            thread.start()
            asked.acquire()
    for thread in threads:
        thread.join()
    return got


@given(st.lists(st.booleans(), max_size=30))
def test_those_first_whom_somebody_waits_for_but_not_for_ever(kinds: list[bool]) -> None:
    got = order(kinds)
    assert sorted(got) == list(range(len(kinds)))
    for kind in (True, False):
        same = [k for k in got if kinds[k] is kind]
        assert same == sorted(same)
    waited = 0
    for place, k in enumerate(got):
        waited = waited + 1 if kinds[k] and any(not kinds[later] for later in got[place:]) else 0
        assert waited <= IN_A_ROW
        if not kinds[k] and any(kinds[later] for later in got[place:]):
            assert place >= IN_A_ROW  # never before a promise unless so many of them went first


def test_an_error_inside_passes_the_turn_on() -> None:
    turns = Turnstile()
    for _ in range(3):
        try:
            with turns.turn(first=True):
                raise ValueError
        except ValueError:
            pass
    assert not turns._taken
