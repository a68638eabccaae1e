"""Options and arguments that several commands have: graph files, feeds, NAME=VALUE pairs."""

import re
from pathlib import Path
from typing import Any

import click
import numpy as np

import graphir as gi
from workers.data import open_source

Pairs = tuple[tuple[str, str], ...]
_FILE_AND_COLUMN = re.compile(r"(.+?\.(?:npy|npz|safetensors|parquet)/?):(.+)", re.DOTALL)
_ANY_AND_COLUMN = re.compile(r"(.+):([^/:]+)", re.DOTALL)


class Pair(click.ParamType[tuple[str, str]]):
    """NAME=VALUE"""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        name, equals, rest = str(value).partition("=")
        if not equals or not name or not rest:
            self.fail(f"{value!r} is not of the form NAME=VALUE", param, ctx)
        return name, rest


graph_argument = click.argument("graph", type=click.Path(exists=True, dir_okay=False, path_type=Path))
feed_option = click.option(
    "--feed",
    "feeds",
    type=Pair(),
    multiple=True,
    help="NAME=FILE or NAME=FILE:COLUMN (.npy, .npz, .safetensors, .parquet); FILE may be a URL or a pattern such as "
    "'part-*.npy', and of parquet COLUMN may be several: a,b,c",
)
chunk_option = click.option("--chunk", type=Pair(), multiple=True, help="SIZE=ROWS, such as n=65536")
batch_option = click.option(
    "--batch", type=Pair(), multiple=True, help="SIZE=ROWS that an iteration takes, such as n=256"
)
shuffle_option = click.option(
    "--shuffle", default=0, show_default=True, type=click.IntRange(0), help="the seed of the order of rows in batches"
)
in_order_option = click.option("--in-order", is_flag=True, help="take the rows of batches in order, not shuffled")
json_option = click.option("--json", "as_json", is_flag=True, help="print JSON for machines")


def load_graph(path: Path) -> gi.Graph:
    """A graph file: ONNX by its suffix, otherwise .gir."""
    return gi.from_onnx(path) if path.suffix == ".onnx" else gi.load(path)


def feeds_of(graph: gi.Graph, pairs: Pairs, *, sent: bool = False) -> dict[str, Any]:
    """Datasets for inputs with a named leading size, so that workers read them; arrays for the others.

    sent: the service is elsewhere, so files that are here are sent to it as arrays.
    """
    found: dict[str, Any] = {}
    for name, place in pairs:
        source = dataset_of(place)
        node = graph.inputs.get(name)
        here = sent and "://" not in source.url
        if not here and node is not None and node.type.shape and isinstance(node.type.shape[0], str):
            found[name] = source
        else:
            found[name] = np.asarray(open_source(source).whole())
    return found


def dataset_of(place: str) -> gi.Dataset:
    """FILE or FILE:COLUMN. A colon belongs to FILE if such a file exists, or if a slash follows it, as in URLs."""
    match = None if Path(place).exists() else _FILE_AND_COLUMN.fullmatch(place) or _ANY_AND_COLUMN.fullmatch(place)
    if match is None:
        return gi.dataset(place)
    path, column = match.groups()
    several = "," in column and not path.endswith((".npz", ".safetensors"))
    return gi.dataset(path, column=column.split(",") if several else column)


def rows_of(pairs: Pairs) -> dict[str, int] | None:
    """Rows by size, or None if there are none."""
    try:
        return {name: int(rows) for name, rows in pairs} or None
    except ValueError:
        raise click.BadParameter("a chunk and a batch are SIZE=ROWS with a whole number of rows") from None
