"""Running a graph on one machine: executor, back-ends, dataset readers and the Ray actor."""
