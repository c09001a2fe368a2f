"""Which way of writing the attention body in ONNX runs fastest in ONNX Runtime on a CPU.

One layer of v3's attention, from the packed projection to the context, random numbers, two tokens
of padding. The forms give the same numbers, which is checked first:

- gather: both position terms for the live slots, each pair's read with `GatherElements`. Ours.
- skew: both for every distance in order, each row then shifted by slices of the flat product.
- flat gather: as gather, but `Gather` of single numbers from the flat product.
- Attention: as gather, the rest by the standard operator of opset 23.
- native: one node, by the native operator, with the instructions of $DEB_EXPORT_INSTRUCTIONS or the
  best of the processor. It is left out where its library is not built.

    python -m benchmarks.attention_forms

`--csv` adds rows, with hardware and versions, to `benchmarks/results/attention_forms.csv`.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import numpy_helper, parser

from exporter.environment import attention_kernel, processor_name
from plugins.disentangled_attention.slots import slot_table
from plugins.onnxruntime_cpu.native_library import NativeLibrary, native_library

RESULTS = Path(__file__).parent / "results" / "attention_forms.csv"
HEADS, SIZE, BUCKETS = 12, 64, 256
SCALE = (3 * SIZE) ** -0.5
SHAPES = ((1, 64), (1, 128), (1, 256), (1, 512), (8, 128), (4, 512), (1, 2048))
CLOCKS: dict[str, Callable[[], float]] = {
    "wall": time.perf_counter,
    "processor": time.process_time,
}

_MODEL = """
<ir_version: 10, opset_import: ["": {opset}]>
one (float[B, S, {packed}] qkv, int32[B, S] mask) => (float[B, S, {width}] context)
<int64[4] heads = {{0, 0, {heads}, {size}}}, int64[3] flat = {{0, 0, {width}}},
 int64[3] rows_flat = {{0, 0, -1}}, int64[1] H = {{{heads}}}, float scale = {{{scale}}},
 int64[1] a0 = {{0}}, int64[1] a1 = {{1}}, int64[1] a2 = {{2}}, int64[1] a3 = {{3}},
 int64[2] a12 = {{1, 2}}, int32 n0 = {{0}}, int32 n1 = {{1}}, int32 reach = {{{reach}}},
 int32 unreach = {{-{reach}}}, int64[1] middle = {{{reach}}}, float zero = {{0}},
 float low = {{-1.7e38}}>
{{
 q, k, v = Split<axis = -1, num_outputs = 3>(qkv)
 qs = Mul(q, scale)
 qr = Reshape(qs, heads)
 qh = Transpose<perm = [0, 2, 1, 3]>(qr)
 kr = Reshape(k, heads)
 kt = Transpose<perm = [0, 2, 3, 1]>(kr)
 vr = Reshape(v, heads)
 vh = Transpose<perm = [0, 2, 1, 3]>(vr)
 sizes = Shape(mask)
 batch = Slice(sizes, a0, a1)
 S = Slice(sizes, a1, a2)
 S0 = Squeeze(S)
 S32 = Cast<to = 6>(S0)
 far = Sub(S, a1)
 allowed = Cast<to = 9>(mask)
 allowed4 = Unsqueeze(allowed, a12)
 bias = Where(allowed4, zero, low)
 pqs = Mul(pos_query, scale)
{terms}
{end}
}}
"""
_LIVE = """
 within = Min(far, middle)
 left = Sub(middle, within)
 right = Add(middle, within)
 first = Gather<axis = 0>(slots, left)
 last = Gather<axis = 0>(slots, right)
 start = Cast<to = 7>(first)
 last64 = Cast<to = 7>(last)
 stop = Add(last64, a1)
 position = Range(n0, S32, n1)
 rows = Unsqueeze(position, a1)
 columns = Unsqueeze(position, a0)
 distance = Sub(rows, columns)
 clipped = Clip(distance, unreach, reach)
 entry = Add(clipped, reach)
 slot = Gather<axis = 0>(slots, entry)
 index = Sub(slot, first)
 pk = Slice(pos_key, start, stop, a1)
 pkt = Transpose<perm = [0, 2, 1]>(pk)
 pq = Slice(pqs, start, stop, a1)
 table1 = MatMul(qh, pkt)
 table2 = MatMul(pq, kt)
"""
_GATHER = (
    _LIVE
    + """
 full = Concat<axis = 0>(batch, H, S, S)
 index4 = Expand(index, full)
 c2p = GatherElements<axis = -1>(table1, index4)
 p2c = GatherElements<axis = -2>(table2, index4)
"""
)
_FLAT = (
    _LIVE
    + """
 L = Sub(stop, start)
 index64 = Cast<to = 7>(index)
 rows64 = Cast<to = 7>(rows)
 columns64 = Cast<to = 7>(columns)
 begin1 = Mul(rows64, L)
 place1 = Add(begin1, index64)
 begin2 = Mul(index64, S)
 place2 = Add(begin2, columns64)
 flat1 = Reshape(table1, rows_flat)
 flat2 = Reshape(table2, rows_flat)
 c2p = Gather<axis = 2>(flat1, place1)
 p2c = Gather<axis = 2>(flat2, place2)
"""
)
# Row i of the flat product holds the distance S - 1 - c in column c of 2 S. From S - 1 on, rows of
# 2 S - 1 begin one column further to the left each: row i then begins with the distance i.
_SKEW = """
 two_S = Add(S, S)
 two_S0 = Squeeze(two_S)
 two_S32 = Cast<to = 6>(two_S0)
 column = Range(n0, two_S32, n1)
 far32 = Cast<to = 6>(far)
 falling = Sub(far32, column)
 rising = Neg(falling)
 falling_in = Clip(falling, unreach, reach)
 rising_in = Clip(rising, unreach, reach)
 falling_at = Add(falling_in, reach)
 rising_at = Add(rising_in, reach)
 slots1 = Gather<axis = 0>(slots, falling_at)
 slots2 = Gather<axis = 0>(slots, rising_at)
 less = Sub(two_S, a1)
 kept = Mul(S, less)
 stop = Add(kept, far)
 skewed = Concat<axis = 0>(batch, H, S, less)
 pk = Gather<axis = 1>(pos_key, slots1)
 pkt = Transpose<perm = [0, 2, 1]>(pk)
 pq = Gather<axis = 1>(pqs, slots2)
 pqt = Transpose<perm = [0, 2, 1]>(pq)
 kh = Transpose<perm = [0, 2, 1, 3]>(kr)
 table1 = MatMul(qh, pkt)
 flat1 = Reshape(table1, rows_flat)
 cut1 = Slice(flat1, far, stop, a2)
 rows1 = Reshape(cut1, skewed)
 c2p = Slice(rows1, a0, S, a3)
 table2 = MatMul(kh, pqt)
 flat2 = Reshape(table2, rows_flat)
 cut2 = Slice(flat2, far, stop, a2)
 rows2 = Reshape(cut2, skewed)
 p2c_t = Slice(rows2, a0, S, a3)
 p2c = Transpose<perm = [0, 1, 3, 2]>(p2c_t)
"""
_END = """
 c2c = MatMul(qh, kt)
 two = Add(c2c, c2p)
 three = Add(two, p2c)
 scores = Add(three, bias)
 probabilities = Softmax<axis = -1>(scores)
 mixed = MatMul(probabilities, vh)
 mixed_t = Transpose<perm = [0, 2, 1, 3]>(mixed)
 context = Reshape(mixed_t, flat)
"""
_STANDARD = """
 both = Add(c2p, p2c)
 added = Add(both, bias)
 context = Attention<q_num_heads = {heads}, kv_num_heads = {heads}, scale = {scale}>(q, k, v, added)
"""
_NATIVE = """
<ir_version: 10, opset_import: ["": {opset}, "deb_export": 1]>
one (float[B, S, {packed}] qkv, int32[B, S] mask) => (float[B, S, {width}] context) {{
 context = deb_export.DisentangledAttention<num_heads = {heads}, scale = {scale}, c2p = 1, p2c = 1>
  (qkv, pos_key, pos_query, slots, mask)
}}
"""
NATIVE = "native"
FORMS = {
    "gather": (20, _GATHER, _END),
    "skew": (20, _SKEW, _END),
    "flat gather": (20, _FLAT, _END),
    "Attention": (23, _GATHER, _STANDARD),
}


def session(form: str, threads: int) -> onnxruntime.InferenceSession:
    """A session over one form."""
    slots = slot_table(BUCKETS, BUCKETS, 2 * BUCKETS).numpy()
    fields: dict[str, Any] = {"heads": HEADS, "size": SIZE, "scale": f"{SCALE:.9f}"}
    fields |= {"width": HEADS * SIZE, "packed": 3 * HEADS * SIZE, "reach": len(slots) // 2}
    options = onnxruntime.SessionOptions()
    if form == NATIVE:
        library = native_library()
        assert isinstance(library, NativeLibrary), library
        options.register_custom_ops_library(str(library.path))
        text = _NATIVE.format(opset=20, **fields)
    else:
        opset, terms, end = FORMS[form]
        text = _MODEL.format(opset=opset, terms=terms, end=end.format(**fields), **fields)
    model = parser.parse_model(text)
    generator = np.random.default_rng(0)
    arrays = {
        name: generator.normal(0, 1, (HEADS, 2 * BUCKETS, SIZE)).astype(np.float32)
        for name in ("pos_key", "pos_query")
    }
    for name, array in (arrays | {"slots": slots}).items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--rounds", type=int, default=21)
    arguments.add_argument("--clock", choices=list(CLOCKS), default="wall")
    arguments.add_argument("--form", action="append", help="only these beside gather")
    arguments.add_argument("--csv", action="store_true", help="add rows to the results")
    given = arguments.parse_args()
    clock = CLOCKS[given.clock]
    forms = [*FORMS] + [NATIVE] * isinstance(native_library(), NativeLibrary)
    forms = [form for form in forms if form == "gather" or form in (given.form or forms)]
    sessions = {form: session(form, given.threads) for form in forms}
    print(f"onnxruntime {onnxruntime.__version__}, {given.threads} threads; median milliseconds")
    for batch, length in SHAPES:
        generator = np.random.default_rng(1)
        packed = generator.normal(0, 1, (batch, length, 3 * HEADS * SIZE)).astype(np.float32)
        feeds = {"qkv": packed, "mask": np.ones((batch, length), np.int32)}
        feeds["mask"][:, -2:] = 0
        found = {form: item.run(None, feeds)[0] for form, item in sessions.items()}
        for form, values in found.items():
            # Rows of the padding are unspecified.
            error = np.abs(values - found["gather"])[:, :-2].max() / np.abs(values).max()
            if error > 1e-5:
                raise SystemExit(f"{form} at {batch}x{length}: differs by {error:.1e}")
        times: dict[str, list[float]] = {form: [] for form in forms}
        for _ in range(given.rounds):
            for form, item in sessions.items():
                start = clock()
                item.run(None, feeds)
                times[form].append(1e3 * (clock() - start))
        ratios = {
            form: statistics.median(a / b for a, b in zip(spent, times["gather"], strict=True))
            for form, spent in times.items()
        }
        print(
            f"{batch}x{length:<4}",
            "  ".join(
                f"{form} {statistics.median(spent):.2f} ({ratios[form]:.2f})"
                for form, spent in times.items()
            ),
            flush=True,
        )
        if given.csv:
            write_rows(batch, length, given, times, ratios)


def write_rows(
    batch: int,
    length: int,
    given: argparse.Namespace,
    times: dict[str, list[float]],
    ratios: dict[str, float],
) -> None:
    """Add a row for each form to the results."""
    rows = [
        {
            "date": datetime.now(timezone.utc).date().isoformat(),
            "form": attention_kernel() if form == NATIVE else form,
            "batch": batch,
            "length": length,
            "threads": given.threads,
            "rounds": given.rounds,
            "clock": given.clock,
            "median_ms": round(statistics.median(spent), 2),
            "ratio": round(ratios[form], 3),
            "cpu": processor_name(),
            "versions": f"onnxruntime {onnxruntime.__version__}",
        }
        for form, spent in times.items()
    ]
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
