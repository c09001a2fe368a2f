"""An artifact behind HTTP with Ray Serve: replicas, and requests that come together in one batch.

    pip install "deb-export[cpu]" "ray[serve]"
    python examples/serve/ray_serve.py artifacts/demo --replicas 2
    curl localhost:8000 --data '{"text": "A joy from start to end."}'

A request is an object with `text`, and `text_pair` or `choices` where the task takes them; the
answer is the prediction, as `deb-export run --format jsonl` writes it. What is no such object, or
does not suit the task, is answered with 400 and the reason, and the rest of its batch with 200.
On a cluster: `serve.run(application(ARTIFACT, replicas))` with a path that all machines see.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

import exporter
from calibration.calibration_error import CalibrationError
from calibration.text_columns import row_texts
from calibration.texts import TextItem
from exporter.errors import InputError
from exporter.predictions.predicted import Prediction
from exporter.predictions.written import json_line

# One request at a time enters the model as part of a batch; up to 256 wait, others get 503.
LIMITS = {"max_ongoing_requests": 64, "max_queued_requests": 256}


@serve.deployment(ray_actor_options={"num_cpus": 1}, **LIMITS)
class Model:
    """A replica: a session with as many threads as it has CPUs, which Ray tells it."""

    def __init__(self, artifact: str) -> None:
        self._session = exporter.load(artifact)

    async def __call__(self, request: Request) -> JSONResponse:
        try:
            values = json.loads(await request.body())
            if not isinstance(values, dict):
                raise ValueError('expected an object with "text"')
            item = TextItem(*row_texts(values))
        except (ValueError, RecursionError, CalibrationError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        answer = await self._answers(item)
        if isinstance(answer, InputError):
            return JSONResponse({"error": str(answer)}, status_code=400)
        return JSONResponse(json.loads(json_line(answer)))

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.005)
    async def _answers(self, items: list[TextItem]) -> list[Prediction | InputError]:
        """The texts of requests that have come within 5 ms; they are batched by length again."""
        return await asyncio.to_thread(lambda: list(self._session.attempts(items)))


def application(artifact: Path, replicas: int = 1) -> serve.Application:
    """What `serve.run` takes."""
    return Model.options(num_replicas=replicas).bind(str(artifact.absolute()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    serve.start(http_options={"host": "127.0.0.1", "port": given.port})
    serve.run(application(given.artifact, given.replicas), blocking=True)


if __name__ == "__main__":
    main()
