"""How much a service keeps, waits for and looks at, at one time: no queue and no cache grows without bound.

Limits of one job's description are in `job.spec`, those of a graph file in `graphir.wire`.
"""

MAX_WAITING_JOBS = 10_000
"""Jobs that may wait in line; one more is refused with QueueFull."""
MAX_WAITING_BYTES = 1 << 36
"""Bytes of fed arrays, equal ones counted once, that jobs in line may have together; one job alone may have more."""
AT_ONCE = 4
"""Jobs that share the workers at one time; the others wait in line, and come in when one of these ends or has had its slice."""
MAX_PLANS, MAX_PLAN_NODES = 64, 4_000_000
"""Plans that are kept for jobs that come again, and the nodes of their programs together."""
MAX_GRAPHS, MAX_GRAPH_NODES = 64, 4_000_000
"""Graphs that are kept for jobs that come again, and their nodes together."""
MAX_EVENTS = 1_000
"""Events that are given at one time; those after them are asked for by the number of the last one."""
MAX_WATCHERS = 10_000
"""Streams of events, and requests that wait for events, at one time; one more is told to come again."""
