"""What one run frees, the next one uses: the kernel is not asked for pages again."""

import subprocess
import sys

PROGRAM = """
import resource
import numpy as np
import graphir as gi
from workers.executor import Executor

w = gi.input("w", (600, 600))
y = w
for _ in range(8):  # all are there until the derivative is
    y = y @ w
run = Executor(gi.append_gradients(gi.Graph({"sum": gi.sum(y)}), "sum", ["w"]), threads=1)
feeds = {"w": np.eye(600)}
for _ in range(5):
    run(feeds)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    run(feeds)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_large_values_are_made_where_others_were_freed() -> None:
    out = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    pages_of_one_value = 600 * 600 * 8 // 4096
    assert int(out.stdout) < pages_of_one_value  # in 20 runs, each of which makes more than twenty such values
