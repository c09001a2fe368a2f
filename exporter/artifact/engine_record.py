"""An engine as the manifest of its artifact records it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from exporter.artifact.engine_options import EngineOptions
from exporter.model.profile import ShapeProfile


@dataclass(frozen=True)
class EngineRecord:
    """A built engine, as the manifest records it.

    Attributes:
        target: what built it, "tensorrt" or "tensorrt-rtx".
        file: name of the plan in the artifact.
        layers: name of the file that lists its kernels.
        version: the builder's version.
        profiles: shapes that it takes.
        options: options of the build.
        bytes: size of the plan.
        activation_bytes: device memory for a run at the largest shapes, None where unknown.
        weight_bytes: device memory for the weights, None where unknown.
        attention: how the attention is computed: "plugin", "fused", "expanded" or "unknown".
        kernels: kernels by kind.
        dtypes: kernels by the type they write.
        seconds: duration of the build.
        host_peak_bytes: memory that the build took at its peak.
        body: the form of the attention that was built: "plugin", "graph" or "standard".
    """

    target: str
    file: str
    layers: str
    version: str
    profiles: tuple[ShapeProfile, ...]
    options: EngineOptions
    bytes: int
    activation_bytes: int | None
    weight_bytes: int | None
    attention: str
    kernels: Mapping[str, int]
    dtypes: Mapping[str, int]
    seconds: float
    host_peak_bytes: int
    body: str = "graph"

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON takes it."""
        return {
            **asdict(self),
            "profiles": [profile.to_dict() for profile in self.profiles],
            "options": self.options.to_dict(),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> EngineRecord:
        """The record that `to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError, InputError: a field is missing or malformed.
        """
        values = dict(fields)
        values["profiles"] = tuple(ShapeProfile.from_dict(item) for item in values["profiles"])
        values["options"] = EngineOptions.from_dict(values["options"])
        return cls(**values)
