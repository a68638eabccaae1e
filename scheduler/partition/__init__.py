"""Partition strategies: from a graph to the steps of a plan. One strategy a file."""
