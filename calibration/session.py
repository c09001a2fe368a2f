"""The ONNX Runtime session that calibration runs graphs in, fp32 and on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray

from calibration.errors import CalibrationError

Feeds: TypeAlias = Mapping[str, NDArray[Any]]


class CalibrationSession:
    """A graph in memory, whose weights may lie in a data file beside the model it was made from."""

    def __init__(self, model: Path, content: bytes, threads: int | None) -> None:
        """Load the graph.

        Args:
            model: the model's file, for messages and for its data file.
            content: the graph to run, serialized.
            threads: of a run; None leaves the choice to ONNX Runtime.

        Raises:
            CalibrationError: ONNX Runtime cannot load it.
        """
        import onnxruntime

        self._model = model
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; they are raised as well
        # Lengths vary: a plan per shape would be kept for each of them.
        options.enable_mem_pattern = False
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(model.resolve().parent)
        )
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            if not _from_runtime(error):
                raise
            raise CalibrationError(
                f"{model}: ONNX Runtime cannot load it: {_line(error)}"
            ) from error
        self.inputs: frozenset[str] = frozenset(item.name for item in self._session.get_inputs())

    def run(self, names: Sequence[str], feeds: Feeds) -> list[Any]:
        """The values of the outputs `names`, in their order.

        Raises:
            CalibrationError: ONNX Runtime fails on these inputs.
        """
        try:
            values: list[Any] = self._session.run(list(names), dict(feeds))
        except Exception as error:
            if not _from_runtime(error):
                raise
            shapes = {name: ids.shape for name, ids in feeds.items()}
            raise CalibrationError(
                f"{self._model}: ONNX Runtime fails on inputs of shape {shapes}: {_line(error)}"
            ) from error
        return values


def _from_runtime(error: Exception) -> bool:
    """Whether ONNX Runtime itself raised it: its exceptions have no common public base."""
    return isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
