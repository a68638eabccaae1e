"""Tensors in .safetensors files: the header is read and checked, then only the rows that are asked for."""

from graphir import tensors
from graphir.errors import FormatError, LimitError
from workers.data.file import File, Table
from workers.data.npy import contiguous


def open_safetensors(file: File) -> Table:
    """A tensor of a .safetensors file."""
    try:
        found = tensors.read_header(file.bytes.view, file.size, source="safetensors")
        name = file.column(found.entries)
        dtype = found.dtype(name)
    except (FormatError, LimitError) as error:
        raise file.fault(str(error)) from error
    return contiguous(file, dtype, found.entries[name].shape, found.offset(name))
