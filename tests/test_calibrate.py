"""Speeds of workers: measured for every kind of work, kept, and used for forecasts alone."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphir as gi
from graphir.interpret import bound_attributes
from graphir.node import REGISTRY, Node
from graphir.ops.rules import elementwise_axes
from scheduler.driver import calibration
from scheduler.measured import copies, program_seconds, runs
from scheduler.pipeline import compile
from scheduler.simulate import UNEVEN, Cluster, simulate
from workers.calibrate import calibrate
from workers.fingerprint import fingerprint
from workers.rehearse import rehearse
from workers.speeds import Measured, Speeds, Table, at, mean, program_key


def ticking() -> Iterator[float]:
    """A clock on which a moment passes whenever somebody looks."""
    return (k * 1e-3 for k in itertools.count())


@pytest.fixture(scope="module")
def speeds() -> Speeds:
    clock = ticking()
    return calibrate(lambda: next(clock))


def made_up(**changes: object) -> Speeds:
    """A machine with round numbers: 1 ns an operation, 1 GB/s from far and 100 GB/s from near, 1 ns a multiply-add."""
    profile = dict.fromkeys(("float32", "float64"), ((1.0, 1e-09), (1024.0, 1e-09)))
    memory = ((1e6, 1e-11), (1e8, 1e-9))
    plain = Speeds(1e-6, 1e-6, 1e-5, profile, profile, {}, 1e-9, ((4.0, 1e-9), (8.0, 1e-9)), memory, memory, memory)
    return replace(plain, **changes)  # type: ignore[arg-type]


def machine(alone: Speeds, together: Speeds | None = None, cores: int = 2) -> Measured:
    return Measured("kernels", "today", cores, cores, alone, together or alone, 1e-4, 1e9)


def test_every_elementwise_op_and_each_kind_of_memory_is_measured(speeds: Speeds) -> None:
    for op in REGISTRY.values():
        shaped = any(all(sample.shape for sample in example.inputs) for example in op.examples)
        if op.axes is elementwise_axes and op.joint is None and shaped and "shape" not in op.attrs and not op.cheap:
            assert any(name.startswith(f"{op.name}/") for name in speeds.operation), op.name
    for kind in ("sum/float32", "sum/float64/last", "take/float64", "sort/float32/last", "cumulative_sum/float64"):
        assert kind in speeds.operation
    tables = [*speeds.outer.values(), *speeds.inner.values(), *speeds.operation.values(), speeds.read, speeds.written]
    for table in tables:
        assert [x for x, _ in table] == sorted({x for x, _ in table})
        assert all(y > 0 for _, y in table)


def test_they_come_back_from_json_as_they_were(speeds: Speeds) -> None:
    measured = machine(speeds)
    assert Measured.from_json(json.loads(json.dumps(measured.to_json()))) == measured
    np.testing.assert_allclose(mean([speeds, speeds]).read, speeds.read, rtol=1e-12)


@given(st.lists(st.floats(1, 1e9), min_size=2, max_size=6, unique=True), st.floats(0.5, 2e9))
def test_between_entries_of_a_table_nothing_jumps(sizes: list[float], x: float) -> None:
    table = tuple((size, float(k + 1)) for k, size in enumerate(sorted(sizes)))
    assert all(at(table, size) == pytest.approx(value) for size, value in table)
    below = max((v for s, v in table if s <= x), default=1.0)
    above = min((v for s, v in table if s >= x), default=float(len(table)))
    assert below * 0.999 <= at(table, x) <= above * 1.001


def test_what_comes_from_far_takes_longer() -> None:
    x = gi.input("x", ("n.local", 1000))
    program = gi.Graph({"out": gi.sum(x, axis=1)})
    size = {"n.local": 100}  # 0.8 MB a task
    fast = made_up(other=1e-13)
    near = program_seconds(program, size, machine(fast), busy=1, tasks=1)
    far = program_seconds(program, size, machine(fast), busy=1, tasks=1000)
    assert far > 20 * near


def test_products_cost_what_their_shape_says() -> None:
    x, w = gi.input("x", (2000, 300)), gi.input("w", (300, 7))
    thin = made_up(outer={"float32": ((1.0, 1e-9),), "float64": ((1.0, 4e-9), (7.0, 3e-9), (512.0, 1e-9))})
    found = program_seconds(gi.Graph({"out": x @ w}), {}, machine(thin), busy=1)
    assert found == pytest.approx(2000 * 300 * 7 * 3e-9, rel=0.1)


def test_fused_nodes_do_not_go_through_memory() -> None:
    x = gi.input("x", (1_000_000,))
    one, chain = gi.sin(x), x
    for _ in range(10):
        chain = gi.sin(chain)
    quick = made_up(other=1e-13, node=1e-12)
    times = [program_seconds(gi.Graph({"out": value}), {}, machine(quick), busy=1) for value in (one, chain)]
    assert times[1] < 1.5 * times[0]


def test_workers_share_cores_and_memory() -> None:
    x = gi.input("x", ("n", 50))
    plan = compile(gi.Graph({"out": gi.sum(gi.sin(x))}), {"n": 160_000})
    near = ((1e6, 1e-13), (1e8, 1e-13))
    quick, slower = (made_up(other=seconds, read=near, written=near) for seconds in (1e-9, 2e-9))
    measured = machine(quick, slower)
    seconds = {ranks: simulate(plan, Cluster(ranks, measured, hosts=1, cores=2), {}).seconds for ranks in (1, 2, 4)}
    apart = simulate(plan, Cluster(4, measured, hosts=4, cores=2), {}).seconds
    assert seconds[2] == pytest.approx(seconds[1], rel=0.05)  # half of the work, at half of the speed
    assert seconds[4] == pytest.approx(UNEVEN * seconds[2], rel=0.05)  # no more cores
    assert apart == pytest.approx(seconds[1] / 4, rel=0.1)


def test_a_file_that_cannot_be_read_counts_as_nothing(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured = machine(made_up())
    assert calibration.kept("kernels") is None
    target = calibration.keep(measured)
    assert calibration.kept("kernels") == measured
    for broken in ("", "[]", "{}", '{"alone": 3}', target.read_text().replace("1e-09", "-1")):
        target.write_text(broken)
        assert calibration.kept("kernels") is None


def test_workers_are_measured_and_no_plan_depends_on_it(
    local_ray: None, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    x, w = gi.input("x", ("n", 5)), gi.input("w", (5,))
    graph, feeds = gi.Graph({"out": gi.sum(gi.tanh(x @ w))}), {"x": np.ones((64, 5)), "w": np.ones(5)}
    with gi.connect(workers=2) as client:
        before = client.plan(graph, feeds)
        measured = client.calibrate()
        after = client.plan(graph, feeds)
        rehearsed = client.calibrate(after)
        assert client.submit(graph, feeds).result()["out"] == pytest.approx(64 * np.tanh(5.0))
        again = client.calibrate(client.plan(*descent(), chunk={"n": 20}))
    assert calibration.kept(fingerprint().digest) == again
    assert {program_key(program, sizes) for program, sizes, _ in runs(after)} == set(rehearsed.alone.programs)
    assert set(rehearsed.together.programs) < set(again.together.programs)
    assert replace(again.alone, programs={}) == measured.alone
    assert measured.message > 0
    assert measured.network > 0
    assert "by assumed rates" in before.to_text()
    assert f"by speeds measured on {measured.when}" in after.to_text()
    assert measured.fingerprint in after.to_text()
    assert [step.program.digest for step in before.steps] == [step.program.digest for step in after.steps]
    assert (before.borders, before.values) == (after.borders, after.values)
    assert any("GB/s" in line for line in calibration.summary(measured))


def descent() -> tuple[gi.Graph, dict[str, np.ndarray]]:
    """A step of gradient descent whose rows are cut into seven chunks and a shorter one."""
    x, t, w = gi.input("x", ("n", 5)), gi.input("t", ("n",), "int64"), gi.input("w", (5, 3))
    logits = x @ w
    loss = gi.sum(gi.logsumexp(logits, axis=1) - gi.take_along_axis(logits, t[:, None], axis=1)[:, 0])
    graph = gi.Graph({"loss": loss, "next": w - 0.1 * gi.grad(loss, [w])[0]})
    return graph, {"x": np.ones((150, 5)), "t": np.ones(150, np.int64), "w": np.ones((5, 3))}


def test_a_rehearsal_times_each_program_at_each_size_and_forecasts_are_by_it() -> None:
    graph, _ = descent()
    plan = compile(graph, {"n": 150}, cut=["n"], chunk={"n": 20})
    found: dict[str, Table] = {}
    clock = ticking()
    for program, sizes, times in runs(plan):
        table = rehearse(lambda: next(clock), program, sizes, times)
        assert table is not None
        assert table[-1][0] == times
        found[program_key(program, sizes)] = table
    assert sorted(times for _, _, times in runs(plan)) == [1, 1, 1, 1, 7]
    plain = machine(made_up())
    halved = {name: tuple((n, seconds / 2) for n, seconds in table) for name, table in found.items()}
    measured = plain.rehearsed(alone=halved, together=found)
    one, two = (simulate(plan, Cluster(ranks, measured, hosts=1, cores=2), {"w": "next"}) for ranks in (1, 2))
    mapped, single = (step for step in plan.steps if step.kind != "combine")
    sizes = {"n": 150, "n.local": 20}
    many = dict(halved[program_key(mapped.program, sizes)])
    last = dict(halved[program_key(mapped.program, sizes | {"n.local": 10})])
    once = dict(halved[program_key(single.program, {"n": 150})])
    joins = [dict(halved[program_key(step.program, {"n": 150})])[1.0] for step in plan.steps if step.kind == "combine"]
    assert one.seconds == pytest.approx(7 * many[7.0] + last[1.0] + once[1.0] + 7 * sum(joins), rel=0.1)
    assert two.seconds > 0.9 * one.seconds  # each is half as fast beside another one
    assert set(plain.rehearsed(halved, {}).alone.programs) == set()
    assert Measured.from_json(json.loads(json.dumps(measured.to_json()))) == measured


def test_a_program_that_fails_on_made_up_values_has_no_rehearsal() -> None:
    a = gi.input("a", (3, 3))
    clock = ticking()
    assert rehearse(lambda: next(clock), gi.Graph({"out": gi.linalg.cholesky(a - 2.0)}), {}, 1) is None


def layouts() -> Iterator[gi.Graph]:
    """Graphs in which reshapes follow what moves axes about."""
    x = gi.input("x", (4, 1, 5, 6))
    moved = gi.permute_dims(x, (2, 0, 1, 3))
    yield gi.Graph(
        {
            "a": gi.reshape(moved, (20, 6)),
            "b": gi.reshape(moved, (5, 4, 6)),
            "c": gi.reshape(gi.sin(moved), (5, 4, 6, 1)),
        }
    )
    back = gi.permute_dims(gi.exp(moved) * 2.0, (1, 2, 0, 3))
    yield gi.Graph({"a": gi.reshape(back, (4, 30)), "b": gi.reshape(gi.broadcast_to(x, (3, 4, 1, 5, 6)), (12, 30))})
    yield gi.Graph(
        {"a": gi.reshape(x[1:], (15, 6)), "b": gi.reshape(x[:, :, ::2], (4, 18)), "c": gi.reshape(x + 1, (120,))}
    )
    image, kernel = gi.input("image", (2, 3, 8, 8)), gi.input("kernel", (4, 3, 3, 3))
    loss = gi.sum(gi.square(gi.conv(image, kernel)))
    yield gi.append_gradients(gi.Graph({"loss": loss}), "loss", ["kernel", "image"])


@pytest.mark.parametrize("graph", list(layouts()))
def test_reshapes_that_copy_are_those_that_numpy_copies(graph: gi.Graph) -> None:
    graph = gi.simplify(graph)
    values: dict[Node, np.ndarray] = {}
    copied = set()
    for node in graph.nodes:
        if node.op.name == "input":
            values[node] = np.ones(node.type.bind({}))
            continue
        operands = [values[source] for source in node.inputs]
        values[node] = np.asarray(node.op.kernel(*operands, **bound_attributes(node, {})))
        if node.op.name == "reshape" and not np.shares_memory(values[node], operands[0]):
            copied.add(node)
    assert copies(graph.nodes, {}) == copied
