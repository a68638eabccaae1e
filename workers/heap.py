"""Freed memory stays with the process, so that arrays of the next run find pages that are there already.

By default glibc gives large arrays back to the kernel as soon as they are freed, and each run then pays for fresh pages: filling
them takes longer than most kernels take to compute what goes there (mallopt(3)). Other C libraries are left as they are.
"""

import ctypes
import functools

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt."""
KEPT_BYTES = 1 << 29
"""Freed memory beyond this is given back."""
LARGEST = 1 << 25
"""Larger arrays are mapped anew all the same: glibc allows no more."""


@functools.cache
def keep_freed() -> bool:
    """Let this process keep what it frees; whether the C library does so."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(TRIM_THRESHOLD, KEPT_BYTES)) and bool(mallopt(MMAP_THRESHOLD, LARGEST))
