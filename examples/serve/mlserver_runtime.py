"""An artifact behind the open inference protocol (V2) of MLServer and KServe, texts to answers.

    pip install "deb-export[cpu]" mlserver
    mlserver start FOLDER

where FOLDER has this file and a `model-settings.json`, in which MLServer's own batching puts
requests together that come at the same time:

    {"name": "classifier", "implementation": "mlserver_runtime.Artifact",
     "max_batch_size": 64, "max_batch_time": 0.005, "parameters": {"uri": "/models/artifact"}}

With uvloop 0.22 the worker processes of MLServer 1.7 do not start; `"parallel_workers": 0` in
`settings.json` does without them.

    curl localhost:8080/v2/models/classifier/infer --json '{"inputs": [{"name": "text",
        "shape": [2, 1], "datatype": "BYTES", "data": ["A joy.", "I want my money back."]}]}'

A second input, `text_pair`, has the other text of each pair. The output `prediction` is a JSON text
for each, as `deb-export run --format jsonl` writes it, or `{"error": ...}` where a text does not
suit the task.
"""

from __future__ import annotations

import asyncio
import json

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse

import exporter
from calibration.texts import TextItem
from exporter.errors import InputError
from exporter.predictions.predicted import Prediction
from exporter.predictions.written import json_line


class Artifact(MLModel):
    """A session over the artifact that `parameters.uri` names."""

    async def load(self) -> bool:
        self._session = exporter.load(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        given = {part.name: StringCodec.decode_input(part) for part in payload.inputs}
        if "text" not in given or given.keys() - {"text", "text_pair"}:
            raise InferenceError(f"inputs are {', '.join(given)}; give text, and text_pair or not")
        texts, pairs = given["text"], given.get("text_pair", [""] * len(given["text"]))
        if len(pairs) != len(texts):
            raise InferenceError(f"{len(texts)} of text and {len(pairs)} of text_pair")
        items = [TextItem(a, (b,) if b else ()) for a, b in zip(texts, pairs, strict=True)]
        found = await asyncio.to_thread(lambda: list(self._session.attempts(items)))
        output = StringCodec.encode_output("prediction", [_line(answer) for answer in found])
        return InferenceResponse(model_name=self.name, outputs=[output])


def _line(answer: Prediction | InputError) -> str:
    bad = isinstance(answer, InputError)
    return json.dumps({"error": str(answer)}) if bad else json_line(answer)
