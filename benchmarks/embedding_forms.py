"""How fast word embeddings are read in ONNX Runtime: in fp32, and in each form of int8.

One table of 128,100 x 768, one thread, calls in turn, by the processor's clock: on a busy machine a
call that is not done within a slice of time waits several times as long as it takes. Every form
has to give the same numbers.

    python -m benchmarks.embedding_forms
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnx_ir.tape import Tape

from calibration.table_forms import TableForm, store_tables
from calibration.tables import find_tables, quantized_rows, row_scale

ROWS, WIDTH = 128_100, 768
SHAPES = ((1, 128), (1, 512), (8, 128), (4, 512))
CALLS = 25
NAME = "embeddings.word_embeddings.weight"


def session(table: np.ndarray, form: TableForm | None) -> onnxruntime.InferenceSession:
    """A graph that reads rows of a table."""
    weight = ir.val(NAME, const_value=ir.Tensor(table, name=NAME))
    ids = ir.Value(
        name="ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["batch", "length"])
    )
    tape = Tape()
    rows = tape.op("Gather", [weight, ids], {"axis": 0})
    rows.name, rows.type = "rows", ir.TensorType(ir.DataType.FLOAT)
    rows.shape = ir.Shape(["batch", "length", WIDTH])
    out = tape.op("Identity", [rows])
    out.name, out.type, out.shape = "out", rows.type, rows.shape
    graph = ir.Graph(
        [ids], [out], nodes=tape.nodes, initializers=[weight], opset_imports={"": 20}, name="rows"
    )
    model = ir.Model(graph, ir_version=10)
    if form is not None:
        store_tables(model, find_tables(model), form)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    content = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Print milliseconds by shape and form."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    random = np.random.default_rng(0)
    table = random.normal(size=(ROWS, WIDTH)).astype(np.float32)
    table = quantized_rows(table) * row_scale(table)
    forms = {"fp32": None, **{form.value: form for form in TableForm}}
    sessions = {name: session(table, form) for name, form in forms.items()}
    for shape in SHAPES:
        feeds = {"ids": random.integers(0, ROWS, shape)}
        for name, opened in sessions.items():
            if not np.array_equal(opened.run(None, feeds)[0], table[feeds["ids"]]):
                raise SystemExit(f"{name} gives other numbers than the table has")
        seconds: dict[str, list[float]] = {name: [] for name in sessions}
        for _ in range(CALLS):
            for name, opened in sessions.items():
                start = time.process_time()
                opened.run(None, feeds)
                seconds[name].append(time.process_time() - start)
        text = ", ".join(f"{name} {1e3 * np.median(s):.3f} ms" for name, s in seconds.items())
        print(f"{shape}: {text}", flush=True)


if __name__ == "__main__":
    main()
