"""optimum and sentence-transformers on hub folders: jobs as JSON on stdin, answers on stdout.

Run by the Python of an environment of its own, which has one of them, or both; it imports nothing
of this repository.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def main() -> None:
    """Answer every job."""
    names = ("optimum-onnx", "sentence-transformers", "transformers", "onnxruntime")
    known = ", ".join(f"{name} {number}" for name in names if (number := installed(name)))
    found = [
        scores(job) if job["reranker"] and installed("sentence-transformers") else outputs(job)
        for job in json.load(sys.stdin)
    ]
    # Pipelines give numbers of numpy.
    print(json.dumps({"client": known, "found": found}, default=float))


def installed(name: str) -> str | None:
    """Version of a package, None where it is missing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def outputs(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Token ids and outputs of each text, and the pipeline's answer, by optimum."""
    import optimum.onnxruntime
    from transformers import AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    model = getattr(optimum.onnxruntime, job["optimum"]).from_pretrained(
        job["folder"], subfolder="onnx", file_name=Path(job["file"]).name
    )
    run: Any = None
    if job["task"] != "multiple-choice":
        run = pipeline(job["pipeline"], model=model, tokenizer=tokenizer)
    found = []
    for text, pair in job["texts"]:
        inputs = tokenizer(text, pair, truncation=True, return_tensors="pt")
        ids = inputs["input_ids"][0].tolist()
        if run is None:
            inputs = {name: value[:, None] for name, value in inputs.items()}
        given = model(**inputs)
        values = {name: value.float().tolist() for name, value in given.items()}
        answer = None
        if job["pipeline"] == "question-answering":
            answer = run(question=text, context=pair)
        elif run is not None and not job["labels"]:
            options = (
                {"top_k": 3} if "mask" in job["pipeline"] or "text-" in job["pipeline"] else {}
            )
            answer = run(text, **options)
        found.append({"ids": ids, "outputs": values, "pipeline": answer})
    return found


def scores(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Scores of pairs by sentence-transformers, before the sigmoid."""
    import torch
    from sentence_transformers import CrossEncoder

    file = {"file_name": job["file"]}
    model = CrossEncoder(job["folder"], backend="onnx", model_kwargs=file)
    pairs = [(text, pair) for text, pair in job["texts"]]
    logits = model.predict(pairs, activation_fn=torch.nn.Identity())
    return [{"outputs": {"logits": [[float(value)]]}} for value in logits]


if __name__ == "__main__":
    main()
