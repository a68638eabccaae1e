"""What a rank of PyTorch DDP does: the jobs of `benchmarks.jobs` in torch's own modules."""

import time
from itertools import pairwise
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.jobs import CASES, WIDTHS, Arrays

Batch = tuple[torch.Tensor, torch.Tensor]


def tensors(shard: Arrays) -> Batch:
    """Features and targets."""
    x, target = shard.values()
    return torch.from_numpy(x), torch.from_numpy(target)


def model(case: str) -> tuple[nn.Module, Any]:
    """The module with the job's first parameters, and its loss summed over rows."""
    first = [torch.from_numpy(value) for value in CASES[case].start().values()]
    if len(first) == 1:
        linear = nn.Linear(50, 1, bias=False)
        layers: list[nn.Module] = [linear]
        loss: Any = lambda made, target: nn.functional.binary_cross_entropy_with_logits(  # noqa: E731
            made[:, 0], target, reduction="sum"
        )
    else:
        layers = [layer for a, b in pairwise(WIDTHS) for layer in (nn.Linear(a, b, bias=False), nn.ReLU())][:-1]
        loss = nn.CrossEntropyLoss(reduction="sum")
    net = nn.Sequential(*layers)
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), first, strict=True):
            parameter.copy_(value.T if value.ndim == 2 else value[None, :])
    return net, loss


def iteration(case: str, shards: list[Batch]) -> float:
    """Seconds an iteration."""
    net, loss = model(case)
    parallel = DistributedDataParallel(net)
    descent = torch.optim.SGD(parallel.parameters(), lr=2 * CASES[case].rate)  # DDP takes the mean over the ranks
    step(parallel, loss, descent, shards)
    dist.barrier()
    begun = time.perf_counter()
    for _ in range(CASES[case].steps):
        step(parallel, loss, descent, shards)
    return (time.perf_counter() - begun) / CASES[case].steps


def step(net: DistributedDataParallel, loss: Any, descent: torch.optim.Optimizer, shards: list[Batch]) -> None:
    """One iteration; the loss as a number, as the others have it."""
    descent.zero_grad(set_to_none=False)
    total = 0.0
    with net.no_sync():
        for x, target in shards[:-1]:
            value = loss(net(x), target)
            value.backward()
            total += float(value.detach())
    x, target = shards[-1]
    value = loss(net(x), target)
    value.backward()
    total += float(value.detach())
    descent.step()
