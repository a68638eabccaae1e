"""Datasets: rows of arrays in files, here or elsewhere."""

from workers.data.source import FORMATS, Source, open_source, take

__all__ = ["FORMATS", "Source", "open_source", "take"]
