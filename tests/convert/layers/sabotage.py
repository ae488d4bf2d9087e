"""Intentional damage to an artifact: edits of its graph or weights, and a matching manifest, so that it still loads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.writing import describe_files, write_manifest

__all__ = ["Patient", "node_of"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Patient:
    """`Patient`: a copy of an artifact that a test damages.

    Attributes:
        path: its folder.
        file: the graph that is edited.
    """

    path: Path
    file: str = "cpu-fp32.onnx"

    @classmethod
    def copy_of(cls, artifact: Path, path: Path) -> Patient:
        shutil.copytree(artifact, path)
        return cls(path)

    def edit(self, change: Callable[[onnx.ModelProto], None]) -> None:
        """Rewrite the graph."""
        file = self.path / self.file
        model = onnx.load(file, load_external_data=False)
        before = model.SerializeToString()
        change(model)
        assert model.SerializeToString() != before, "nothing was broken"
        file.write_bytes(model.SerializeToString())
        self.stamp()

    def stamp(self) -> None:
        """Write the current sizes and digests of the files into the manifest."""
        manifest = Artifact.open(self.path).manifest
        write_manifest(self.path, msgspec.structs.replace(manifest, files=describe_files(self.path)))

    # The graph --------------------------------------------------------------------------------------------------------

    def replace(self, name: str, operator: str, inputs: list[str], **attributes: Any) -> None:
        """Replace a node by another operator with the same output."""

        def change(model: onnx.ModelProto) -> None:
            node = node_of(model, name)
            node.op_type = operator
            del node.input[:]
            node.input.extend(inputs)
            del node.attribute[:]
            node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())

        self.edit(change)

    def set_attribute(self, operator: str, key: str, value: Any, within: str = "") -> None:
        """Set an attribute of every node of the operator whose name begins with `within`."""

        def change(model: onnx.ModelProto) -> None:
            for node in model.graph.node:
                if node.op_type == operator and node.name.startswith(within):
                    others = [attribute for attribute in node.attribute if attribute.name != key]
                    del node.attribute[:]
                    node.attribute.extend([*others, helper.make_attribute(key, value)])

        self.edit(change)

    def set_input(self, operator: str, place: int, value: str) -> None:
        """Change an input of every node of the operator; an empty name removes it."""

        def change(model: onnx.ModelProto) -> None:
            for node in model.graph.node:
                if node.op_type == operator:
                    node.input[place] = value

        self.edit(change)

    def set_constant(self, name: str, place: int, value: Array) -> None:
        """Replace an input of a node by a constant."""

        def change(model: onnx.ModelProto) -> None:
            model.graph.initializer.append(numpy_helper.from_array(value, "sabotage"))
            node_of(model, name).input[place] = "sabotage"

        self.edit(change)

    def constant(self, name: str, place: int) -> Array:
        """Return the constant that is an input of a node."""
        model = onnx.load(self.path / self.file, load_external_data=False)
        input_name = node_of(model, name).input[place]
        return numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == input_name))

    # The weights ------------------------------------------------------------------------------------------------------

    def edit_weight(self, name: str, change: Callable[[Array], Array]) -> None:
        """Overwrite a weight in the weights file, at the offset that the graph gives."""
        model = onnx.load(self.path / self.file, load_external_data=False)
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        places = {entry.key: entry.value for entry in tensor.external_data}
        array: Array = np.memmap(
            self.path / places["location"], np.float32, "r+", int(places["offset"]), tuple(tensor.dims)
        )
        changed = np.ascontiguousarray(change(np.array(array)), np.float32).reshape(array.shape)
        assert not np.array_equal(array, changed), "nothing was broken"
        array[...] = changed
        array.flush()  # type: ignore[attr-defined]
        self.stamp()

    def swap_weights(self, first: str, second: str) -> None:
        """Exchange two weights of equal shape."""

        def change(model: onnx.ModelProto) -> None:
            one, other = (next(t for t in model.graph.initializer if t.name == name) for name in (first, second))
            assert list(one.dims) == list(other.dims)
            one.name, other.name = other.name, one.name

        self.edit(change)


def node_of(model: onnx.ModelProto, name: str) -> Any:
    """Return the node with the name."""
    return next(node for node in model.graph.node if node.name == name)
