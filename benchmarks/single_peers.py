"""The peers of one machine: ours, JAX, PyTorch eager and compiled, TensorFlow with and without XLA, PyTensor, CasADi, NumPy by hand.

`prepare` gives a function that returns [value, *derivatives] as NumPy arrays, in the order of the workload's `wrt`. A library is
imported when it is prepared; `needs` names it, so that a missing one can be told. Each uses its best form of what models need.
"""

import os
from collections.abc import Callable
from typing import Any

from benchmarks.workloads import Arrays, Reference, Workload

Call = Callable[[], list[Any]]
LINES = 6
"""How much of a profile is told."""


class Unsupported(Exception):
    """The peer has no such thing; says why."""


class Peer:
    """needs: what must be importable; load: the import; prepare: all up to the first call."""

    needs: str = "numpy"

    def load(self) -> None:
        __import__(self.needs)

    def prepare(self, w: Workload, a: Arrays) -> Call:
        raise NotImplementedError

    def profile(self) -> str:
        """Where the time of what was prepared goes, for who can say it."""
        return ""


# ---- ours ----


def _our_loss(w: Workload, a: Arrays) -> tuple[Any, dict[str, Any]]:
    """The model's value, and its inputs by name."""
    import graphir as gi
    from benchmarks.single_forms import Gradfleet

    given = {name: gi.input(name, array.shape, array.dtype.name) for name, array in a.items()}
    return w.loss(Gradfleet(), given), given


def our_graph(w: Workload, a: Arrays) -> Any:
    """Value and derivatives, in the order of `wrt`."""
    import graphir as gi

    loss, given = _our_loss(w, a)
    wrt = [given[name] for name in w.wrt]
    vectors = [given[f"v{name}"] for name in w.wrt if w.kind == "hvp"]
    found = gi.hvp(loss, wrt, vectors) if w.kind == "hvp" else gi.grad(loss, wrt)
    return gi.Graph({str(k): node for k, node in enumerate([loss, *found])})


class Ours(Peer):
    needs = "workers.executor"
    backend = "numpy"
    _profile: Callable[[], str] = staticmethod(lambda: "")

    def load(self) -> None:
        """As of any library: what `prepare` imports is there before the first call is timed."""
        for name in (self.needs, "workers.executor", f"workers.backends.{self.backend}"):
            __import__(name)

    def prepare(self, w: Workload, a: Arrays) -> Call:
        from workers.executor import Executor

        if w.kind == "hessian":
            return self._hessian(w, a)
        graph = our_graph(w, a)
        executor, feeds = Executor(graph, self.backend), {name: a[name] for name in graph.inputs}
        self._profile = lambda: executor.profile(feeds).to_text(LINES)
        return lambda: list(executor({**feeds}).values())

    def profile(self) -> str:
        return self._profile()

    def _hessian(self, w: Workload, a: Arrays) -> Call:
        """Its elements by colouring, put into a dense matrix as the others give it."""
        import numpy as np

        import graphir as gi
        from workers.executor import Executor

        loss, given = _our_loss(w, a)
        (matrix,) = gi.hessian(loss, [given[w.wrt[0]]], sparsity="auto")
        rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        executor = Executor(gi.Graph({"loss": loss, "data": matrix.data}), self.backend)
        self._profile = lambda: executor.profile(a).to_text(LINES)

        def call() -> list[Any]:
            found, dense = executor(a), np.zeros(matrix.shape)
            dense[rows, matrix.indices] = found["data"]
            return [found["loss"], dense]

        return call


class OursByLlvm(Ours):
    """Fused groups and small graphs as machine code."""

    needs = "llvmlite"
    backend = "llvm"


class OursByJax(Ours):
    """The same graph as one XLA program."""

    needs = "jax"
    backend = "jax"


# ---- JAX ----


class Jax(Peer):
    needs = "jax"

    def prepare(self, w: Workload, a: Arrays) -> Call:
        import jax
        import numpy as np

        from benchmarks.single_forms import JaxForm

        if w.dtype == "float64":
            jax.config.update("jax_enable_x64", True)
        lib, own = JaxForm(), {name: jax.numpy.asarray(array) for name, array in a.items()}
        point = {name: own[name] for name in w.wrt}
        rest = {name: array for name, array in own.items() if name not in w.wrt}

        def loss(p: Any, c: Any) -> Any:
            return w.loss(lib, {**c, **p})

        def hvp(p: Any, c: Any) -> Any:
            (value, _), (_, product) = jax.jvp(
                lambda q: jax.value_and_grad(loss)(q, c), (p,), ({name: c[f"v{name}"] for name in w.wrt},)
            )
            return value, product

        def hessian(p: Any, c: Any) -> Any:
            return loss(p, c), {"x": jax.hessian(lambda x: loss({"x": x}, c))(p["x"])}

        run = jax.jit({"gradient": jax.value_and_grad(loss), "hvp": hvp, "hessian": hessian}[w.kind])

        def call() -> list[Any]:
            value, found = run({name: a[name] for name in w.wrt} if w.fresh else point, rest)
            return [np.asarray(value), *(np.asarray(found[name]) for name in w.wrt)]

        return call


# ---- PyTorch ----


class Torch(Peer):
    needs = "torch"
    compiled = False

    def prepare(self, w: Workload, a: Arrays) -> Call:
        import torch

        from benchmarks.single_forms import TorchForm

        lib, names = TorchForm(), w.wrt
        wrap = torch.compile if self.compiled else lambda function: function
        point = [torch.from_numpy(a[name]).requires_grad_() for name in names]
        rest = {name: torch.from_numpy(array) for name, array in a.items() if name not in names}

        def loss(p: Any) -> Any:
            return w.loss(lib, {**rest, **dict(zip(names, p, strict=True))})

        if w.kind == "hvp":
            return self._hvp(wrap, loss, point, [rest[f"v{name}"] for name in names])
        if w.kind == "hessian":
            second = wrap(lambda x: (loss([x]), torch.func.hessian(lambda y: loss([y]))(x)))
            return lambda: [found.numpy() for found in second(point[0].detach())]
        value_of = wrap(loss)

        def call() -> list[Any]:
            p = [torch.from_numpy(a[name]).requires_grad_() for name in names] if w.fresh else point
            value = value_of(p)
            return [value.detach().numpy(), *(g.numpy() for g in torch.autograd.grad(value, p))]

        return call

    def _hvp(self, wrap: Any, loss: Any, point: Any, vectors: Any) -> Call:
        import torch

        if self.compiled:  # it has no double backward: forward over reverse

            def both(p: Any, v: Any) -> Any:
                (_, value), (product, _) = torch.func.jvp(torch.func.grad_and_value(loss), (p,), (v,))
                return value, *product

            run = wrap(both)
            fixed = [p.detach() for p in point]
            return lambda: [found.numpy() for found in run(fixed, vectors)]

        def call() -> list[Any]:
            value = loss(point)
            first = torch.autograd.grad(value, point, create_graph=True)
            return [value.detach().numpy(), *(g.numpy() for g in torch.autograd.grad(first, point, vectors))]

        return call


class TorchCompiled(Torch):
    compiled = True


# ---- TensorFlow ----


class TensorFlow(Peer):
    needs = "tensorflow"
    xla = False

    def load(self) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        super().load()

    def prepare(self, w: Workload, a: Arrays) -> Call:
        import tensorflow as tf

        from benchmarks.single_forms import TensorFlowForm

        lib, names = TensorFlowForm(), w.wrt
        point = [tf.constant(a[name]) for name in names]
        rest = {name: tf.constant(array) for name, array in a.items() if name not in names}

        def gradient(p: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(p)
                value = w.loss(lib, {**rest, **dict(zip(names, p, strict=True))})
            return value, tape.gradient(value, p)

        def hvp(p: Any) -> Any:
            with tf.autodiff.ForwardAccumulator(p, [rest[f"v{name}"] for name in names]) as forward:
                value, first = gradient(p)
            return value, forward.jvp(first)

        def hessian(p: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(p)
                value, first = gradient(p)
            return value, [tape.jacobian(first[0], p[0])]

        step = {"gradient": gradient, "hvp": hvp, "hessian": hessian}[w.kind]
        run = tf.function(step, jit_compile=self.xla)

        def call() -> list[Any]:
            value, found = run([tf.constant(a[name]) for name in names] if w.fresh else point)
            return [value.numpy(), *(g.numpy() for g in found)]

        return call


class TensorFlowXla(TensorFlow):
    xla = True


# ---- PyTensor ----


class PyTensor(Peer):
    """In its default mode, which is Numba."""

    needs = "pytensor"

    def prepare(self, w: Workload, a: Arrays) -> Call:
        import pytensor
        import pytensor.tensor as pt

        from benchmarks.single_forms import PyTensorForm

        given = {name: pt.tensor(name, dtype=array.dtype.name, shape=array.shape) for name, array in a.items()}
        wrt = [given[name] for name in w.wrt]
        loss = w.loss(PyTensorForm(w.dtype), given)
        if w.kind == "hvp":
            found = pytensor.gradient.hessian_vector_product(loss, wrt, [given[f"v{name}"] for name in w.wrt])
        else:
            found = pytensor.grad(loss, wrt) if w.kind == "gradient" else [pytensor.gradient.hessian(loss, wrt[0])]
        run = pytensor.function(list(given.values()), [loss, *found])
        run.trust_input = True
        values = list(a.values())
        return lambda: run(*values)


# ---- CasADi ----


class CasADi(Peer):
    """Its own virtual machine, called without copies; made for scalars and small graphs."""

    needs = "casadi"

    def prepare(self, w: Workload, a: Arrays) -> Call:
        import casadi
        import numpy as np

        if w.family not in ("rosenbrock", "chain"):
            raise Unsupported("made for scalars and small graphs")
        given = a[w.wrt[0]]
        symbol = (casadi.SX if w.family == "rosenbrock" else casadi.MX).sym("x", len(given))
        loss = w.loss(_CasADiForm(casadi), {w.wrt[0]: symbol})
        second = w.kind == "hessian"
        found = casadi.densify(casadi.hessian(loss, symbol)[0]) if second else casadi.gradient(loss, symbol)
        buffer, run = casadi.Function("f", [symbol], [loss, found]).buffer()
        own, value, results = np.array(given), np.zeros(1), np.zeros((len(given),) * (2 if second else 1))
        buffer.set_arg(0, memoryview(own))
        buffer.set_res(0, memoryview(value))
        buffer.set_res(1, memoryview(results))

        def call() -> list[Any]:
            if w.fresh:
                own[:] = given
            run()
            return [value[0], results.copy()]

        call.buffer = buffer  # type: ignore[attr-defined]  # `run` does not keep it alive
        return call


class _CasADiForm:
    def __init__(self, library: Any) -> None:
        self.exp, self.tanh, self.sum = library.exp, library.tanh, library.sum1


# ---- NumPy, derivatives by hand ----


class NumPy(Peer):
    """What a patient person writes."""

    def prepare(self, w: Workload, a: Arrays) -> Call:
        from benchmarks import by_hand

        found = by_hand.FORMS.get((w.family, w.kind))
        if found is None:
            raise Unsupported("not written by hand")
        return found(a)


class Oracle(Torch):
    """Float64: derivatives by PyTorch, the value by the definition in NumPy."""

    def prepare(self, w: Workload, a: Arrays) -> Call:
        import numpy as np

        wide = {name: array.astype("float64") if array.dtype.kind == "f" else array for name, array in a.items()}
        derivatives = super().prepare(w, wide)
        return lambda: [np.asarray(w.loss(Reference(), wide)), *derivatives()[1:]]


PEERS: dict[str, Callable[[], Peer]] = {
    "gradfleet": Ours,
    "gradfleet by LLVM": OursByLlvm,
    "gradfleet by JAX": OursByJax,
    "NumPy by hand": NumPy,
    "JAX": Jax,
    "PyTorch": Torch,
    "PyTorch compiled": TorchCompiled,
    "TensorFlow": TensorFlow,
    "TensorFlow XLA": TensorFlowXla,
    "PyTensor": PyTensor,
    "CasADi": CasADi,
}
