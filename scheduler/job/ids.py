"""Ids of jobs: letters and digits that sort by time of submission."""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def job_id(now: float, entropy: bytes) -> str:
    """A ULID in lower case: 48 bits of milliseconds and 80 random bits; sorts by time."""
    number = (int(now * 1000) & (2**48 - 1)) << 80 | int.from_bytes(entropy[:10], "big")
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
