"""Optimisers as graphs: from a loss and its parameters to the next parameters and states, which a job carries.

    step = gi.optim.adam(loss, [w, b], rate=1e-3)
    graph = gi.Graph({"loss": loss, **step.outputs})
    client.submit(graph, {**feeds, **step.start}, carry=step.carry, steps=100)

A parameter `w` goes on as the output `w_next`, a state of it as `w_mean` and `w_mean_next`. `prefix` goes in front
of the names of states. A rate is a number or a schedule: a function of the step (0, 1, ...).
"""

from graphir.optim.descent import adagrad, adam, adamw, rmsprop, sgd
from graphir.optim.quasi_newton import lbfgs
from graphir.optim.schedules import constant, cosine, exponential, one_cycle, piecewise, polynomial, warmup
from graphir.optim.updates import Updates, clip_by_global_norm, global_norm

__all__ = [
    "Updates",
    "adagrad",
    "adam",
    "adamw",
    "clip_by_global_norm",
    "constant",
    "cosine",
    "exponential",
    "global_norm",
    "lbfgs",
    "one_cycle",
    "piecewise",
    "polynomial",
    "rmsprop",
    "sgd",
    "warmup",
]
