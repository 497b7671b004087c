"""Small bundles for tests: valid ones, and forged ones with valid hashes."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from seer_runtime.durable import write_container
from seer_runtime.durable.container import CONTAINER_VERSION, MAGIC
from seer_runtime.onnx.check import OUTPUT, VALUES
from seer_runtime.policy.bundle import ENCODER, HEAD, PolicySpec
from tests.runtime.onnx_graphs import LATENT, small_model

ACTIONS, ATOMS = 3, 5
SPEC = PolicySpec("rainbow", (10, 12), stack=2, crop_shape=(8, 8), discrete=True, actions=ACTIONS)
CONTROLS = PolicySpec("sac", (10, 12), stack=2, crop_shape=(8, 8), discrete=False, actions=ACTIONS)


def head_of(nodes: Sequence[NodeProto], constants: dict[str, NDArray[np.generic]]) -> ModelProto:
    latents = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["B", *LATENT])
    values = helper.make_tensor_value_info(VALUES, TensorProto.FLOAT, ["B", ACTIONS])
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "head", [latents], [values], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def small_head() -> ModelProto:
    """Return a head like Rainbow's: Gather, Gemm, ReLU, Gemm, Softmax and expectation."""
    rng, node = np.random.default_rng(3), helper.make_node
    constants: dict[str, NDArray[np.generic]] = {
        "network": np.array(0, np.int64),
        "w0": rng.normal(size=(4, LATENT[1])).astype(np.float32),
        "b0": rng.normal(size=4).astype(np.float32),
        "w1": rng.normal(size=(ACTIONS * ATOMS, 4)).astype(np.float32),
        "b1": rng.normal(size=ACTIONS * ATOMS).astype(np.float32),
        "shape": np.array([0, ACTIONS, ATOMS], np.int64),
        "support": np.linspace(-10, 10, ATOMS, dtype=np.float32),
    }
    nodes = [
        node("Gather", [OUTPUT, "network"], ["latent"], axis=1),
        node("Gemm", ["latent", "w0", "b0"], ["hidden"], transB=1),
        node("Relu", ["hidden"], ["streams"]),
        node("Gemm", ["streams", "w1", "b1"], ["flat"], transB=1),
        node("Reshape", ["flat", "shape"], ["logits"]),
        node("Softmax", ["logits"], ["probabilities"], axis=2),
        node("MatMul", ["probabilities", "support"], [VALUES]),
    ]
    return head_of(nodes, constants)


def small_actor() -> ModelProto:
    """Return a head like SAC's: Gather, layer norm, Gemm and Tanh."""
    rng, node = np.random.default_rng(4), helper.make_node
    constants: dict[str, NDArray[np.generic]] = {
        "network": np.array(1, np.int64),
        "scale": rng.normal(size=LATENT[1]).astype(np.float32),
        "shift": rng.normal(size=LATENT[1]).astype(np.float32),
        "w": rng.normal(size=(ACTIONS, LATENT[1])).astype(np.float32),
        "b": rng.normal(size=ACTIONS).astype(np.float32),
    }
    nodes = [
        node("Gather", [OUTPUT, "network"], ["latent"], axis=1),
        node("LayerNormalization", ["latent", "scale", "shift"], ["normed"], axis=1),
        node("Gemm", ["normed", "w", "b"], ["mean"], transB=1),
        node("Tanh", ["mean"], [VALUES]),
    ]
    return head_of(nodes, constants)


def members(head: ModelProto | None = None) -> dict[str, list[bytes]]:
    encoder = small_model().SerializeToString(deterministic=True)
    return {ENCODER: [encoder], HEAD: [(head or small_head()).SerializeToString(deterministic=True)]}


def write(path: Path, spec: PolicySpec = SPEC, **changes: bytes) -> Path:
    """Write a bundle to `path`. `changes` replaces the bytes of the members `encoder` and `head`."""
    parts = members(None if spec.discrete else small_actor())
    parts |= {f"{name}.onnx": [graph] for name, graph in changes.items()}
    write_container(path, spec.to_json(), parts)
    return path


def forged(manifest: Any, body: bytes = b"", *, version: int = CONTAINER_VERSION, length: int | None = None) -> bytes:
    """Return the bytes of a container with valid hashes and any manifest."""
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    prefix = MAGIC + version.to_bytes(4, "little") + (len(text) if length is None else length).to_bytes(4, "little")
    return prefix + hashlib.sha256(prefix + text).digest() + text + body


def record(name: str, data: bytes, **changes: Any) -> dict[str, Any]:
    """Return the manifest entry of a member."""
    return {"name": name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), **changes}
