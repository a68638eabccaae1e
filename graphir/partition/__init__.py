"""Partitioning: from a graph to a plan of steps over chunks. One strategy a file; a plan tells and draws itself.

Pure functions of graph and sizes: the same ones cut a job for many machines and a chunk for the cache of one.
"""
