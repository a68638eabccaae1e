"""Scans with checkpoints: the schedule against its definition, the same bits as without, and less memory."""

import tracemalloc
from collections import Counter
from functools import cache

import numpy as np
import pytest

import graphir as gi
from graphir.control.schedule import forward_steps, reversal
from graphir.interpret import BoundBody
from graphir.partition.data import partition
from scheduler.driver.local import run_plan

T, N, H = 17, 6, 4
RNG = np.random.default_rng(5)
VALUES = {
    "ck_x": RNG.standard_normal((T, N, H)),
    "ck_h": RNG.standard_normal((N, H)),
    "ck_u": RNG.standard_normal((H, H)) / 2,
}
x = gi.input("ck_x", (T, "n", H))
h0 = gi.input("ck_h", ("n", H))
u = gi.input("ck_u", (H, H))


def gradients(checkpoints: int | None, **kwargs: bool) -> gi.Graph:
    def step(carry, row):
        h, total = carry
        h = gi.tanh(h @ u + row)
        return (h, gi.sin(total) + gi.sum(h)), gi.sum(h, axis=1)

    (h, _), ys = gi.scan(step, (h0, gi.constant(0.0)), x, checkpoints=checkpoints, **kwargs)
    loss = gi.sum(h**3) + gi.sum(ys * ys)
    dx, dh, du = gi.grad(loss, [x, h0, u])
    (second,) = gi.grad(gi.sum(du * du), [u])
    return gi.Graph({"loss": loss, "dx": dx, "dh": dh, "du": du, "second": second})


@cache
def fewest(length: int, states: int) -> int:
    """The fewest steps forward, by trying every place for the next kept state."""
    if length <= 1:
        return 0
    if states == 1:
        return length * (length - 1) // 2
    return min(k + fewest(length - k, states - 1) + fewest(k, states) for k in range(1, length))


@pytest.mark.parametrize("states", range(1, 8))
def test_the_schedule_takes_the_fewest_steps_and_these_are_the_closed_form(states: int) -> None:
    for length in range(70):
        current, kept, forward, back = 0, set(), 0, []
        for action, position in reversal(length, states):
            if action == "restore":
                assert position in kept
                current = position
                continue
            assert position == current  # only the state at hand is kept, taken forward or gone back from
            if action == "keep":
                kept.add(position)
                assert len(kept) <= states
            elif action == "forward":
                current, forward = current + 1, forward + 1
            else:
                back.append(position)
                kept.discard(position)
        assert back == list(range(length - 1, -1, -1))
        assert forward == fewest(length, states) == forward_steps(length, states)


def test_a_long_sequence_with_many_states_needs_no_deep_stack() -> None:
    assert sum(action == "forward" for action, _ in reversal(50_000, 50_000)) == 49_999


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("checkpoints", [1, 3, T, 10 * T])
def test_every_number_of_checkpoints_gives_the_same_bits(checkpoints: int, reverse: bool) -> None:
    expected = gi.evaluate(gradients(2, reverse=reverse), VALUES)
    found = gi.evaluate(gradients(checkpoints, reverse=reverse), VALUES)
    every_state = gi.evaluate(gradients(None, reverse=reverse), VALUES)
    for name, want in expected.items():
        np.testing.assert_allclose(every_state[name], want, rtol=1e-11, atol=1e-12)
        if name == "second":  # its sums are taken in another order
            np.testing.assert_allclose(found[name], want, rtol=1e-11, atol=1e-12)
        else:
            assert np.array_equal(found[name], want), name


@pytest.mark.parametrize("checkpoints", [1, 2, 4, 40])
def test_an_evaluation_takes_as_many_steps_as_the_schedule(checkpoints: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: Counter[bytes] = Counter()
    call = BoundBody.__call__

    def counting(self, arrays, outputs=None):
        counted[self.body.digest] += 1
        return call(self, arrays, outputs)

    monkeypatch.setattr(BoundBody, "__call__", counting)
    graph = gradients(checkpoints)
    gi.evaluate(gi.Graph({"du": graph.outputs["du"]}), VALUES)
    (node,) = {
        n.inputs: n for n in gi.Graph({"du": graph.outputs["du"]}).nodes if n.op.name == "retraced_scan"
    }.values()
    assert counted[node.attr("body").digest] == T
    assert counted[node.attr("forward").digest] == forward_steps(T, checkpoints)


def test_memory_is_that_of_the_states_kept() -> None:
    steps, width = 256, 4096
    w = gi.input("ck_w", (width,))

    def peak(checkpoints: int | None) -> int:
        last, _ = gi.scan(lambda c, _: (gi.sin(c * w), None), w, length=steps, checkpoints=checkpoints)
        graph = gi.Graph({"dw": gi.grad(gi.sum(last), [w])[0]})
        tracemalloc.start()
        gi.evaluate(graph, {"ck_w": np.linspace(0, 1, width)})
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    state = 8 * width
    assert peak(None) > steps * state
    assert peak(8) < (8 + 16) * state


def test_it_is_cut_along_n_without_a_note_and_saved() -> None:
    def step(h, row):
        return gi.tanh(h @ u + row), None

    h, _ = gi.scan(step, h0, x, checkpoints=4)
    loss = gi.sum(h**3)
    dx, du = gi.grad(loss, [x, u])
    graph = gi.load(gi.dump(gi.Graph({"loss": loss, "dx": dx, "du": du})))
    whole = gi.evaluate(graph, VALUES)
    for chunk in (1, 4):
        plan = partition(graph, {"n": N}, "n", chunk)
        assert plan.notes == ()
        assert sum(step.kind == "map" for step in plan.steps) == 1
        found = run_plan(plan, VALUES)
        for name, want in whole.items():
            np.testing.assert_allclose(found[name], want, rtol=1e-11, atol=1e-12)


def test_no_checkpoint_at_all_is_refused() -> None:
    with pytest.raises(gi.AttributeValueError, match="at least 1"):
        gi.scan(lambda c, _: (c, None), h0, length=3, checkpoints=0)
