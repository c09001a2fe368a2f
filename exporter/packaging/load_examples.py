"""How a hub folder is loaded in Python, JavaScript and C++, as its model card says.

`tools/hub_clients` runs the same calls against every head.
"""

from __future__ import annotations

from string import Template

from exporter.artifact.manifest import Manifest
from exporter.model.task import Task

PIPELINES = {
    Task.BASE: "feature-extraction",
    Task.MASKED_LM: "fill-mask",
    Task.SEQUENCE_CLASSIFICATION: "text-classification",
    Task.TOKEN_CLASSIFICATION: "token-classification",
    Task.QUESTION_ANSWERING: "question-answering",
    Task.MULTIPLE_CHOICE: "multiple-choice",
}
"""Names of the tasks on the hub."""

OPTIMUM = {
    Task.BASE: "ORTModelForFeatureExtraction",
    Task.MASKED_LM: "ORTModelForMaskedLM",
    Task.SEQUENCE_CLASSIFICATION: "ORTModelForSequenceClassification",
    Task.TOKEN_CLASSIFICATION: "ORTModelForTokenClassification",
    Task.QUESTION_ANSWERING: "ORTModelForQuestionAnswering",
    Task.MULTIPLE_CHOICE: "ORTModelForMultipleChoice",
}
"""Classes of optimum.onnxruntime."""

_CALLS = {
    Task.BASE: ('"A text."', '"A text.", {pooling: "mean"}'),
    Task.MASKED_LM: ('"A [MASK]."',) * 2,
    Task.SEQUENCE_CLASSIFICATION: ('"A text."',) * 2,
    Task.TOKEN_CLASSIFICATION: ('"Ada Lovelace wrote it."',) * 2,
    Task.QUESTION_ANSWERING: (
        'question="Who wrote it?", context="Ada Lovelace wrote it."',
        '"Who wrote it?", "Ada Lovelace wrote it."',
    ),
}
"""What a pipeline is given, in Python and in JavaScript."""

_PYTHON = Template(
    """\
Python, with `pip install optimum-onnx onnxruntime`; `name` is the folder, or its name on the hub,
and `file_name` may be any of the files above:

```python
from optimum.onnxruntime import $cls
from transformers import AutoTokenizer, pipeline

name = "$name"
model = $cls.from_pretrained(name, subfolder="onnx", file_name="$file")
tokenizer = AutoTokenizer.from_pretrained(name)
$use
```"""
)
_PIPELINE = Template('print(pipeline("$task", model=model, tokenizer=tokenizer)($call))')
_CHOICES = """\
pairs = tokenizer(["A question."] * 2, ["One.", "Another."], padding=True, return_tensors="pt")
print(model(**{name: values[None] for name, values in pairs.items()}).logits)"""
_RERANKER = Template(
    """
A reranker in sentence-transformers:

```python
from sentence_transformers import CrossEncoder

model = CrossEncoder("$name", backend="onnx", model_kwargs={"file_name": "onnx/$file"})
print(model.predict([("a query", "a passage")]))
```
"""
)
_JAVASCRIPT = Template(
    """
JavaScript, with `npm install @huggingface/transformers` (in node, for a folder on the disk, set
`env.localModelPath` to the folder that it is in); `dtype` is `fp32`, `fp16` or `q8` (int8):

```js
import { pipeline } from "@huggingface/transformers";

const run = await pipeline("$task", "$name", { dtype: "$dtype" });
console.log(await run($call));
```
"""
)
_NO_JAVASCRIPT = """
JavaScript: transformers.js 4 has no class for this head; give token ids to onnxruntime-web or
onnxruntime-node.
"""
_CPP = Template(
    """
C++, with ONNX Runtime (token ids are made by a tokenizer that reads `tokenizer.json`):

```cpp
#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <iostream>
#include <vector>

int main() {
  Ort::Env env;
  Ort::Session session(env, ORT_TSTR("$folder/$path"), Ort::SessionOptions{});
  std::vector<int64_t> ids{1, 5, 6, 2}, ones(ids.size(), 1)$zeros;
  std::array<int64_t, $rank> shape{$ones, static_cast<int64_t>(ids.size())};
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto tensor = [&](std::vector<int64_t>& values) {
    return Ort::Value::CreateTensor(memory, values.data(), values.size(), shape.data(),
                                    shape.size());
  };
  std::array<const char*, $count> inputs{$inputs};
  std::array<Ort::Value, $count> given{$given};
  const char* output = "$output";
  auto found = session.Run({}, inputs.data(), given.data(), given.size(), &output, 1);
  std::cout << found[0].GetTensorTypeAndShapeInfo().GetElementCount() << " values, the first "
            << found[0].GetTensorData<float>()[0] << "\\n";
}
```"""
)
_VALUES = {
    "input_ids": "tensor(ids)",
    "attention_mask": "tensor(ones)",
    "token_type_ids": "tensor(zeros)",
}
_DTYPES = {"fp16": "fp16", "int8": "q8"}


def load_examples(name: str, manifest: Manifest, path: str) -> str:
    """How each language loads the graph at `path` in a folder `name`."""
    task = Task(manifest.task)
    file = path.rpartition("/")[2]
    names = {"name": name, "file": file, "task": PIPELINES[task]}
    dtype = _DTYPES.get(manifest.precision, "fp32")
    if task is Task.MULTIPLE_CHOICE:
        use, script = _CHOICES, _NO_JAVASCRIPT
    else:
        python, javascript = _CALLS[task]
        use = _PIPELINE.substitute(names, call=python)
        script = _JAVASCRIPT.substitute(names, call=javascript, dtype=dtype)
    one = task is Task.SEQUENCE_CLASSIFICATION and len(manifest.labels) == 1
    types = "token_type_ids" in manifest.inputs
    cpp = _CPP.substitute(
        folder=name,
        path=path,
        zeros=", zeros(ids.size(), 0)" if types else "",
        rank=3 if task is Task.MULTIPLE_CHOICE else 2,
        ones="1, 1" if task is Task.MULTIPLE_CHOICE else "1",
        count=len(manifest.inputs),
        inputs=", ".join(f'"{item}"' for item in manifest.inputs),
        given=", ".join(_VALUES[item] for item in manifest.inputs),
        output=manifest.outputs[0],
    )
    parts = [_PYTHON.substitute(names, cls=OPTIMUM[task], use=use)]
    parts += [_RERANKER.substitute(names)] if one else []
    return "\n".join([*parts, script, cpp.strip()])
