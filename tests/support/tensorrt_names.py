"""What the project uses of TensorRT: names by class, and the parameters of what it calls."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import ModuleType

RUNTIME: Mapping[str, tuple[str, ...]] = {
    "ICudaEngine": (
        "num_io_tensors",
        "num_optimization_profiles",
        "device_memory_size_v2",
        "get_tensor_name",
        "get_tensor_mode",
        "get_tensor_dtype",
        "get_tensor_profile_shape",
        "create_execution_context",
        "create_engine_inspector",
    ),
    "IExecutionContext": (
        "set_device_memory",
        "set_optimization_profile_async",
        "set_input_shape",
        "set_tensor_address",
        "execute_async_v3",
    ),
    "Runtime": ("deserialize_cuda_engine", "engine_host_code_allowed"),
    "TensorIOMode": ("INPUT", "OUTPUT"),
    "DataType": ("FLOAT", "HALF", "BF16"),
    "ExecutionContextAllocationStrategy": ("USER_MANAGED",),
    "ILogger": ("ERROR", "INTERNAL_ERROR", "log"),
    "EngineInspector": ("get_engine_information",),
    "LayerInformationFormat": ("JSON",),
}
"""Used by the session over an engine."""

BUILDER: Mapping[str, tuple[str, ...]] = {
    "IProgressMonitor": ("phase_start", "step_complete", "phase_finish"),
    "ProfilingVerbosity": ("DETAILED",),
    "MemoryPoolType": ("WORKSPACE",),
    "HardwareCompatibilityLevel": ("AMPERE_PLUS",),
    "BuilderFlag": ("TF32", "REFIT", "STRIP_PLAN", "VERSION_COMPATIBLE"),
    "IBuilderConfig": ("clear_flag", "progress_monitor"),
    "INetworkDefinition": ("get_input", "num_inputs", "get_layer", "num_layers"),
    "LayerType": ("PLUGIN_V3",),
    "ILayer": ("type",),
}
"""Used by the process that builds an engine; the rest of a build is Polygraphy's."""

PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "ICudaEngine.get_tensor_name": ("index",),
    "ICudaEngine.get_tensor_mode": ("name",),
    "ICudaEngine.get_tensor_dtype": ("name",),
    "ICudaEngine.get_tensor_profile_shape": ("name", "profile_index"),
    "ICudaEngine.create_execution_context": ("strategy",),
    "ICudaEngine.create_engine_inspector": (),
    "IExecutionContext.set_device_memory": ("memory", "size"),
    "IExecutionContext.set_optimization_profile_async": ("profile_index", "stream_handle"),
    "IExecutionContext.set_input_shape": ("name", "shape"),
    "IExecutionContext.set_tensor_address": ("name", "memory"),
    "IExecutionContext.execute_async_v3": ("stream_handle",),
    "Runtime.deserialize_cuda_engine": ("serialized_engine",),
    "EngineInspector.get_engine_information": ("format",),
    "IBuilderConfig.clear_flag": ("flag",),
    "INetworkDefinition.get_input": ("index",),
    "INetworkDefinition.get_layer": ("index",),
}
"""Parameters of the methods that are called, in order; `self` is left out."""

_PARAMETER = re.compile(r"(?:^|, )(\w+):")


def missing_names(trt: ModuleType, used: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The names of `used` that `trt` does not have."""
    return [
        f"{kind}.{name}"
        for kind, names in used.items()
        for name in names
        if not hasattr(getattr(trt, kind, None), name)
    ]


def parameters(trt: ModuleType, method: str) -> list[tuple[str, ...]]:
    """The parameters of each overload of a method, as its documentation gives them."""
    kind, name = method.split(".")
    text = getattr(getattr(trt, kind), name).__doc__ or ""
    found = []
    for line in text.splitlines():
        match = re.search(rf"\b{name}\((?P<list>self: .*)\) -> ", line)
        if match is not None:
            # Types may hold commas and colons of their own, always within brackets.
            plain = re.sub(r"\[[^\[\]]*\]", "", re.sub(r"\[[^\[\]]*\]", "", match["list"]))
            found.append(tuple(_PARAMETER.findall(plain)[1:]))
    return found
