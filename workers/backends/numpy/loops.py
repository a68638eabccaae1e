"""scan with its body planned once: a Python loop made for it, which writes into arrays that are there before it begins.

What does not change from step to step is computed once. A NumPy ufunc writes its value where it is stacked, or into an array that
is used again at each step; a history of carried values is the same memory as their stack, one step on. Kernels, operands and
memory orders are those of the reference, and so are the bits.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from math import prod
from typing import Any

import numpy as np

from graphir.control.steps import Layout, in_order
from graphir.errors import GraphError
from graphir.interpret import BoundBody, joint_kernel, kernel_error
from graphir.node import Array, Node
from workers import blas, generated

BUFFER_BYTES, BUFFERS_BYTES = 1 << 18, 1 << 22
"""How much memory a value of a step, and all of them, may keep from step to step."""
SHORT = 4
"""Fewer steps are not worth planning."""
MOST_NODES = 400
"""Larger bodies are not made into a function."""
SMALL_PRODUCT = 1 << 22
"""Multiplications of a product of a step, below which two threads of BLAS wait for one another longer than they save."""


WHOLE, REPEATED, STRANGE = "whole", "repeated", "strange"


class Loop:
    """The kernel of the outputs of a scan that are wanted together."""

    def __init__(self, group: tuple[Node, ...]) -> None:
        self.nodes = group
        self._plain = joint_kernel(group)
        self._outputs = tuple(node.attr("output") for node in group)

    def __call__(self, *arrays: Array, output: int, body: BoundBody, **attrs: Any) -> tuple[Array, ...]:
        plan = Layout(body.body, **attrs)
        if int(plan.length) < SHORT or body.check_finite or len(body.body.nodes) > MOST_NODES:
            return self._plain(*arrays, output=output, body=body, **attrs)
        end = plan.carries + plan.scanned
        others = [in_order(array) for array in arrays[end:]]
        seen = [*arrays[: plan.carries], *(array[0] for array in arrays[plan.carries : end]), *others]
        forms = tuple(map(_form, seen))
        planned = body.kept.get((self, forms))
        if planned is None:
            planned = body.kept[self, forms] = _Planned(plan, body, self._outputs, forms)
        made: tuple[Array, ...] = planned.run([*arrays[:end], *others])
        return made


class _Planned:
    """A scan whose body's dimensions are numbers. forms: how the values of the body's inputs lie in memory."""

    def __init__(self, plan: Layout, body: BoundBody, outputs: tuple[int, ...], forms: tuple[str, ...]) -> None:
        self.plan, self.body, self.outputs = plan, body, outputs
        self.forms = dict(zip(plan.body.inputs, forms, strict=True))
        self.needed = plan.needed(outputs)
        inner = plan.body
        self.carried = {c: (inner.inputs[c], inner.outputs[c]) for c in self.needed}
        self.kept = [k for k in outputs if plan.kind(k) in ("stacked", "history")]
        self.summed = list(dict.fromkeys(k for k in outputs if plan.kind(k) == "summed"))
        lines = body.plan(plan.evaluated(outputs))
        self.names = {node: f"v{k}" for k, node in enumerate(_nodes(inner.inputs, lines))}
        end = plan.carries + plan.scanned
        varying = set(inner.inputs[:end])
        self.before: list[Any] = []
        self.steps: list[Any] = []
        for line in lines:
            changes = not varying.isdisjoint(line[1])
            varying.update(line[0] if changes else ())
            (self.steps if changes else self.before).append(line)
        self.varying = varying
        self._place()
        self._function, self._lines = self._made()
        self._alone = all(self._multiplications(group[0]) < SMALL_PRODUCT for group, *_ in self.steps)

    def _multiplications(self, node: Node) -> int:
        if node.op.name != "matmul":
            return 0
        return prod(self.body.shape(node.type)) * self.body.shape(node.inputs[0].type)[-1]

    # ---- where values are written ----

    def _place(self) -> None:
        """stacks: nodes whose values are stacked, and by how many steps more than there are; buffers: of steps."""
        wanted = {self.plan.of(k) for k in self.kept}
        after = dict(self.carried.values())
        direct = self._direct()
        self.stacks: dict[Node, int] = {}
        self.shared: dict[Node, Node] = {}
        for node in wanted:
            value = after.get(node)
            if value is not None and value in direct and node not in self.shared:
                self.shared[node] = value  # the carried value before a step is the one after the step before
        # two carried values that become one begin with two first values, of which a stack has room for one
        sharing = list(self.shared.values())
        self.shared = {node: value for node, value in self.shared.items() if sharing.count(value) == 1}
        for value in {*wanted, *self.shared.values()}:
            if value in direct:
                self.stacks[value] = int(value in self.shared.values())
        self.copied = [node for node in wanted if node not in self.stacks and node not in self.shared]
        held = self._held()
        self.buffers: dict[Node, str] = {}
        left = BUFFERS_BYTES
        for group, *_ in self.steps:
            size = prod(self.body.shape(group[0].type)) * group[0].type.dtype.itemsize
            if (
                group[0] in direct
                and group[0] not in self.stacks
                and group[0] not in held
                and size <= min(left, BUFFER_BYTES)
            ):
                self.buffers[group[0]] = f"b{len(self.buffers)}"
                left -= size

    def _direct(self) -> set[Node]:
        """Nodes of a step whose kernel can be given an array: the result would be one in C order anyway."""
        strange: set[Node] = set()
        while True:
            whole, found = self._in_order(strange)
            more = {before for before, after in self.carried.values() if after not in whole} - strange
            if not more:
                return found
            strange |= more

    def _in_order(self, strange: set[Node]) -> tuple[set[Node], set[Node]]:
        """Nodes whose arrays are in C order, unless these inputs are not, and those of them whose kernel can be given one."""
        found: set[Node] = set()
        whole, repeated = (
            {node for node, own in self.forms.items() if own == form and node not in strange}
            for form in (WHOLE, REPEATED)
        )
        for group, inputs, kernel, attributes, _ in (*self.before, *self.steps):
            node = group[0]
            if node.op.name == "constant":
                whole.add(node)
            elif node.op.name == "broadcast" and inputs[0] in whole:
                repeated.add(node)
            elif isinstance(kernel, np.ufunc) and not attributes:
                fitting = whole.issuperset(set(inputs) - repeated) and not whole.isdisjoint(inputs)
                if kernel is np.matmul or fitting:
                    whole.add(node)
                    if node in self.varying and node.type.rank:  # a row of numbers gives no arrays to write into
                        found.add(node)
        return whole, found

    def _held(self) -> set[Node]:
        """Nodes whose arrays the next step may still read: carried, or of which a carried value may be a view."""
        made_by_ufunc = {group[0] for group, _, kernel, *_ in self.steps if isinstance(kernel, np.ufunc)}
        held, stack = set(), [value for _, value in self.carried.values()]
        while stack:
            node = stack.pop()
            if node not in held:
                held.add(node)
                if node not in made_by_ufunc:
                    stack.extend(node.inputs)
        return held

    # ---- as a function ----

    def _made(self) -> tuple[Callable[..., Any], list[Node]]:
        """Its text, one line a call; for each line the node that it is about."""
        scope: dict[str, Any] = {}
        text, about = self._head()
        body_lines = [self._call(k, line, scope) for k, line in enumerate(self.steps)]
        for line, (group, *_) in zip(body_lines, self.steps, strict=True):
            text.append(f"  {line}")
            about.append(group[0])
        text.append(f"  {self._tail()}")
        about.append(self.plan.body.nodes[-1])
        text.append(f" return [{', '.join(self.names[value] for value, _ in self.carried.values())}]")
        return generated.function(text, scope), about

    def _head(self) -> tuple[list[str], list[Node]]:
        inner, plan = self.plan.body, self.plan
        fixed = [self.names[node] for node in self.names if node not in self.varying]
        carried = [self.names[before] for before, _ in self.carried.values()]
        own = set(carried)
        steady = [self.names[node] for node in inner.inputs[: plan.carries] if self.names[node] not in own]
        slices = [self.names[node] for node in inner.inputs[plan.carries : plan.carries + plan.scanned]]
        rows = [self._row(node) for node in (*self.stacks, *self.copied)]
        given = [*fixed, *carried, *steady, *self.buffers.values(), *(f"t{k}" for k in self.summed)]
        heads = ["at", *slices, *rows]
        text = [f"def run(steps, {', '.join(given)}):", f" for {', '.join(heads)}, in steps:"]
        return text, [inner.nodes[-1]] * 2

    def _row(self, node: Node) -> str:
        return f"o{self.names[node]}"

    def _call(self, number: int, line: Any, scope: dict[str, Any]) -> str:
        group, inputs, kernel, attributes, free = line
        scope[f"f{number}"] = _bound(group, kernel, attributes)
        operands = ", ".join(self.names[source] for source in inputs)
        node = group[0]
        if node in self.stacks:
            row = self._row(node)
            return f"f{number}({operands}, {row}); {self.names[node]} = {row}"
        if node in self.buffers:
            buffer = self.buffers[node]
            return f"f{number}({operands}, {buffer}); {self.names[node]} = {buffer}"
        targets = self.names[node] if node.op.joint is None else ", ".join(self.names[n] for n in group) + ","
        dead = [self.names[n] for n in free if n in self.varying and n not in self.plan.body.inputs]
        return f"{targets} = f{number}({operands})" + "".join(f"; {name} = None" for name in dead)

    def _tail(self) -> str:
        """What is kept of a step, and the carried values of the next."""
        parts = [f"{self._row(node)}[...] = {self.names[node]}" for node in self.copied]
        parts += [f"t{k} += {self.names[self.plan.of(k)]}" for k in self.summed]
        if self.carried:
            before = ", ".join(self.names[node] for node, _ in self.carried.values())
            after = ", ".join(self.names[node] for _, node in self.carried.values())
            parts.append(f"{before}, = {after},")
        return "; ".join(parts) or "pass"

    # ---- running ----

    def run(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        plan, inner = self.plan, self.plan.body
        length, end = int(plan.length), plan.carries + plan.scanned
        order = range(length - 1, -1, -1) if plan.reverse else range(length)
        fixed = self._fixed(dict(zip(inner.inputs, arrays, strict=True)), order[0])
        stacks = {node: self._empty(node, length + more) for node, more in self.stacks.items()}
        stacks |= {node: self._empty(node, length) for node in self.copied}
        seen = dict(stacks)
        for before, value in self.shared.items():
            seen[before], seen[value] = self._both(stacks[value], arrays[inner.inputs.index(before)])
        sums = {k: np.zeros(self.body.shape(plan.of(k).type), plan.of(k).type.dtype) for k in self.summed}
        rows = [array[::-1] if plan.reverse else array for array in arrays[plan.carries : end]]
        for node in (*self.stacks, *self.copied):
            array = seen[node] if node.type.rank else seen[node][:, None]
            rows.append(array[::-1] if plan.reverse else array)
        given = self._given(fixed, arrays, sums)
        last = self._run(zip(order, *rows, strict=True), given)
        final = dict(zip(self.needed, last, strict=True))
        return tuple(self._output(k, final, seen, sums) for k in self.outputs)

    def _fixed(self, values: dict[Node, Any], first: int) -> dict[Node, Any]:
        """What does not change from step to step."""
        for group, inputs, kernel, attributes, _ in self.before:
            try:
                found = _bound(group, kernel, attributes)(*[values[source] for source in inputs])
            except Exception as error:  # noqa: BLE001  # whatever a kernel raises, kernel_error types it or gives it back
                raise self._typed(group[0], error, first) from (None if isinstance(error, GraphError) else error)
            values.update([(group[0], found)] if group[0].op.joint is None else zip(group, found, strict=True))
        return values

    def _given(self, fixed: Mapping[Node, Any], arrays: Sequence[Array], sums: Mapping[int, Array]) -> list[Any]:
        """In the order of the function's parameters."""
        inner, plan = self.plan.body, self.plan
        own = [before for before, _ in self.carried.values()]
        given: list[Any] = [fixed[node] for node in self.names if node not in self.varying]
        given += [fixed[before] for before in own]
        given += [fixed[node] for node in inner.inputs[: plan.carries] if node not in own]
        given += [np.empty(self.body.shape(node.type), node.type.dtype) for node in self.buffers]
        return [*given, *(sums[k] for k in self.summed)]

    def _empty(self, node: Node, length: int) -> Array:
        return np.empty((length, *self.body.shape(node.type)), node.type.dtype)

    def _both(self, stack: Array, first: Array) -> tuple[Array, Array]:
        """The carried values before and after each step, out of one array."""
        if self.plan.reverse:
            stack[-1] = first
            return stack[1:], stack[:-1]
        stack[0] = first
        return stack[:-1], stack[1:]

    def _run(self, steps: Any, given: Sequence[Any]) -> list[Any]:
        try:
            with blas.threads(1) if self._alone else nullcontext():
                found: list[Any] = self._function(steps, *given)
        except Exception as error:  # noqa: BLE001
            line, variables = generated.failure(error, self._function)
            typed = self._typed(self._lines[line], error, variables.get("at", 0))
            raise typed from (None if typed is error else error)
        return found

    def _typed(self, node: Node, error: Exception, at: int) -> Exception:
        typed = kernel_error(node, error)
        return typed.within(f"step {at}") if isinstance(typed, GraphError) else typed

    def _output(self, k: int, final: Mapping[int, Any], seen: Mapping[Node, Array], sums: Mapping[int, Array]) -> Array:
        kind = self.plan.kind(k)
        if kind == "summed":
            return sums[k]
        if kind != "final":
            return seen[self.plan.of(k)]
        value = np.asarray(final[k])
        return value.copy() if self.plan.of(k) in self.stacks else value  # else it would be a part of another output


def _bound(group: tuple[Node, ...], kernel: Callable[..., Any], attributes: Mapping[str, Any]) -> Callable[..., Any]:
    """The kernel with its attributes; a scan inside is planned too."""
    if group[0].op.name == "scan":
        kernel = Loop(group)
    if not attributes:
        return kernel
    return lambda *arrays: kernel(*arrays, **attributes)


def _form(value: Any) -> str:
    """How an array lies in memory: whole, in C order but for axes along which it is repeated, or otherwise."""
    array = np.asarray(value)
    if array.flags.c_contiguous:
        return WHOLE
    steps = [stride for stride, size in zip(array.strides, array.shape, strict=True) if stride and size > 1]
    return REPEATED if steps == sorted(steps, reverse=True) and min(steps, default=0) >= 0 else STRANGE


def _nodes(inputs: Sequence[Node], lines: Sequence[Any]) -> list[Node]:
    return list(dict.fromkeys([*inputs, *(node for group, *_ in lines for node in group)]))
