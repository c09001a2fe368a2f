"""Options of a session, shared by the commands that run models."""

from __future__ import annotations

from exporter.commands.options.shared import config_options
from exporter.runtime.runtime_options import ATTENTION_KERNELS, HINTS, PRECISIONS, RuntimeOptions

runtime_options = config_options(
    RuntimeOptions,
    {
        "--threads": "Threads that compute a batch, on a CPU.  [default: $DEB_EXPORT_THREADS, "
        "$OMP_NUM_THREADS, or the physical cores within the container's limit]",
        "--tokens": "Tokens of a batch of texts, padding counted.  [default: $DEB_EXPORT_TOKENS, "
        "or 512 a thread]",
        "--batch-texts batch": "Texts of a batch.  [default: as many as the tokens allow; 32 on a "
        "GPU]",
        "--window": "Texts sorted by length together, the most that are held in memory.",
        "--spinning/--no-spinning": "Whether idle threads of ONNX Runtime wait busily.  "
        "[default: unless the container has a limit]",
        f"--openvino-precision precision {'|'.join(PRECISIONS)}": "Arithmetic of OpenVINO.  "
        "[default: the artifact's]",
        f"--openvino-hint hint {'|'.join(HINTS)}": "OpenVINO's aim: a batch with all threads, or "
        "several batches of texts at a time.  [default: latency]",
        "--openvino-cache cache": "Folder where OpenVINO keeps compiled models.  [default: none]",
        f"--attention-kernel {'|'.join(ATTENTION_KERNELS)}": "The attention on ONNX Runtime's CPU "
        "provider: as the file says, or by our own operator.  [default: "
        "$DEB_EXPORT_ATTENTION_KERNEL, or native where it was built]",
    },
)
