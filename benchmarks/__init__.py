"""Measurements; `python -m benchmarks` runs them all and prints tables. Peers are measured in the same run."""
