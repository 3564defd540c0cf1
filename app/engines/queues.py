"""The queue of each backend's jobs, and its name in keys: TensorRT's depend on its version and the GPU."""

from collections.abc import Mapping
from typing import Any

#: Backends whose jobs any machine with them can do.
FIXED_QUEUES = {"onnxruntime": "cpu", "tensorrt-rtx": "rtx"}
#: Of a TensorRT job that waits for its first worker.
ANY_TENSORRT_QUEUE = "trt"


def queue_from_facts(backend: str, facts: Mapping[str, Any]) -> str:
    """Return the queue of a backend as a worker's probe described it: `cpu`, `rtx`, or such as `trt10.6-sm90`."""
    if backend in FIXED_QUEUES:
        return FIXED_QUEUES[backend]
    version = ".".join(facts["version"].split(".")[:2])
    return f"{ANY_TENSORRT_QUEUE}{version}-sm{facts['compute_capabilities'][0].replace('.', '')}"


def tool_from_facts(backend: str, facts: Mapping[str, Any]) -> str:
    """Return what stands in keys for a backend: `onnxruntime 1.32.0`; plans of TensorRT are for one kind of GPU as well."""
    if backend in FIXED_QUEUES:
        return f"{backend} {facts['version']}"
    return f"{backend} {facts['version']} sm{facts['compute_capabilities'][0].replace('.', '')}"
