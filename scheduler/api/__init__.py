"""The HTTP service: what `gradfleet serve` runs."""
