"""Models that are wrong, hostile or damaged: each is refused with one typed error that says where and why."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphir as gi
from graphir.onnx import exporter, importer
from graphir.onnx.model_file import Limits
from tests.test_onnx import F32, model, softmax_regression, value


def relu(**more: Any) -> onnx.ModelProto:
    return model([helper.make_node("Relu", ["x"], ["y"], name="r")], [value("x", [2])], [value("y", [2])], **more)


def changed(change: Any) -> onnx.ModelProto:
    built = relu()
    change(built)
    return built


def _external(location: str, **more: str) -> onnx.ModelProto:
    tensor = TensorProto(name="w", data_type=F32, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, text in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=text)
    node = helper.make_node("Add", ["x", "w"], ["y"])
    return model([node], [value("x", [2])], [value("y", [2])], [tensor])


def _tensor(**fields: Any) -> onnx.ModelProto:
    tensor = TensorProto(name="w", **{"data_type": F32, "dims": [2], **fields})
    return model([helper.make_node("Add", ["x", "w"], ["y"])], [value("x", [2])], [value("y", [2])], [tensor])


def _recursive() -> onnx.ModelProto:
    body = [helper.make_node("F", ["a"], ["b"], domain="own")]
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "F", ["a"], ["b"], body, imports)
    nodes = [helper.make_node("F", ["x"], ["y"], domain="own")]
    built = model(nodes, [value("x", [2])], [value("y", [2])], functions=[function])
    built.opset_import.append(imports[1])
    return built


def _bomb() -> onnx.ModelProto:
    """Twenty functions, each of which calls the one before ten times."""
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    functions = [helper.make_function("own", "F0", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], imports)]
    for k in range(1, 20):
        names = ["a", *[f"t{i}" for i in range(9)], "b"]
        body = [helper.make_node(f"F{k - 1}", [names[i]], [names[i + 1]], domain="own") for i in range(10)]
        functions.append(helper.make_function("own", f"F{k}", ["a"], ["b"], body, imports))
    nodes = [helper.make_node("F19", ["x"], ["y"], domain="own")]
    built = model(nodes, [value("x", [2])], [value("y", [2])], functions=functions)
    built.opset_import.append(imports[1])
    return built


def _two(a: str, b: str) -> onnx.ModelProto:
    nodes = [helper.make_node("Neg", [a], ["p"], name="first"), helper.make_node("Neg", [b], ["y"], name="second")]
    return model(nodes, [value("x", [2])], [value("y", [2])])


BAD: dict[str, tuple[onnx.ModelProto, type[gi.GraphError], str]] = {
    "unknown operator": (changed(lambda m: setattr(m.graph.node[0], "op_type", "Rellu")), gi.UnknownOpError, "'Rellu'"),
    "other domain": (changed(lambda m: setattr(m.graph.node[0], "domain", "com.x")), gi.FormatError, "'com.x'"),
    "newer operator set": (changed(lambda m: setattr(m.opset_import[0], "version", 99)), gi.FormatError, "operator set 99"),
    "cycle": (_two("y", "p"), gi.FormatError, "cycle"),
    "own output": (_two("p", "p"), gi.FormatError, "cycle"),
    "dangling input": (_two("x", "q"), gi.FormatError, "made by no operator"),
    "no graph": (changed(lambda m: m.ClearField("graph")), gi.FormatError, "whole ONNX model"),
    "no outputs": (changed(lambda m: m.graph.ClearField("output")), gi.FormatError, "whole ONNX model"),
    "unmade output": (changed(lambda m: setattr(m.graph.output[0], "name", "z")), gi.FormatError, "'z'"),
    "output twice": (changed(lambda m: m.graph.output.append(m.graph.output[0])), gi.FormatError, "same name"),
    "value twice": (changed(lambda m: m.graph.node.append(m.graph.node[0])), gi.FormatError, "made twice"),
    "missing input": (changed(lambda m: m.graph.node[0].ClearField("input")), gi.FormatError, "input 0 is missing"),
    "negative size": (changed(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", -3)),
                      gi.FormatError, "negative"),
    "no shape": (changed(lambda m: m.graph.input[0].type.tensor_type.ClearField("shape")), gi.FormatError, "no shape"),
    "no type": (changed(lambda m: m.graph.input[0].ClearField("type")), gi.FormatError, "no type"),
    "text": (changed(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 8)), gi.DTypeError, "string"),
    "unknown element type": (changed(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 77)),
                             gi.DTypeError, "77"),
    "many axes": (changed(lambda m: [m.graph.input[0].type.tensor_type.shape.dim.add(dim_value=1) for _ in range(40)]),
                  gi.FormatError, "41 axes"),
    "path traversal": (_external("../secret.bin"), gi.FormatError, "outside the model's folder"),
    "absolute path": (_external("/etc/passwd"), gi.FormatError, "outside the model's folder"),
    "link": (_external("link.bin"), gi.FormatError, "outside the model's folder"),
    "missing data": (_external("absent.bin"), gi.FormatError, "cannot read 'absent.bin'"),
    "short data": (_external("short.bin"), gi.FormatError, "ends after 3 of 8"),
    "bad offset": (_external("short.bin", offset="-1"), gi.FormatError, "'-1'"),
    "far offset": (_external("short.bin", offset="9" * 18), gi.FormatError, "ends after 0|cannot read"),
    "bad length": (_external("short.bin", length="4"), gi.FormatError, "said to have 4"),
    "null in path": (_external("a\0b"), gi.FormatError, "a"),
    "absurd tensor": (_tensor(dims=[1 << 40, 1 << 40]), gi.LimitError, "over the limit"),
    "negative tensor": (_tensor(dims=[-2]), gi.FormatError, "impossible shape"),
    "short tensor": (_tensor(raw_data=b"\0" * 5), gi.FormatError, "needs 8 bytes and has 5"),
    "empty tensor": (_tensor(), gi.FormatError, "needs 2 elements and has 0"),
    "recursive function": (_recursive(), gi.LimitError, "deep"),
    "exponential functions": (_bomb(), gi.LimitError, "over 1000 operators"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_models(case: str, tmp_path: Path) -> None:
    built, error, said = BAD[case]
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\0" * 8)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "short.bin").write_bytes(b"\0" * 3)
    path = folder / "bad.onnx"
    path.write_bytes(built.SerializeToString())
    with pytest.raises(error, match=said) as caught:
        importer.read(path, {}, Limits(operators=1000))
    assert "bad.onnx" in str(caught.value)


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    built = _external("part.bin", offset="4", length="8")
    (tmp_path / "part.bin").write_bytes(np.array([9, 1, 2], "<f4").tobytes())
    (tmp_path / "m.onnx").write_bytes(built.SerializeToString())
    out = gi.evaluate(gi.from_onnx(tmp_path / "m.onnx"), {"x": np.zeros(2, "float32")})["y"]
    np.testing.assert_array_equal(out, [1.0, 2.0])
    with pytest.raises(gi.FormatError, match="came as bytes"):
        gi.from_onnx(built.SerializeToString())


def test_every_truncation_is_found_or_typed() -> None:
    data = exporter.to_bytes(softmax_regression())
    for end in range(0, len(data), 37):
        with pytest.raises(gi.GraphError):
            gi.from_onnx(data[:end])


def test_any_changed_byte_gives_a_graph_or_a_typed_error() -> None:
    data = exporter.to_bytes(softmax_regression())
    rng = np.random.default_rng(3)
    for at in rng.integers(0, len(data), 400):
        damaged = bytearray(data)
        damaged[at] ^= int(rng.integers(1, 256))
        try:
            assert isinstance(gi.from_onnx(bytes(damaged)), gi.Graph)
        except gi.GraphError as error:
            assert str(error)


def test_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(gi.FormatError, match="cannot read"):
        gi.from_onnx(tmp_path / "absent.onnx")
    with pytest.raises(gi.FormatError, match="not an ONNX model"):
        gi.from_onnx(b"not a model at all")
