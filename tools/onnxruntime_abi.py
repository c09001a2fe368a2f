"""Compares `plugins/onnxruntime_cpu/ort_abi.h` with a real `onnxruntime_c_api.h`.

    python -m tools.onnxruntime_abi PATH/TO/onnxruntime_c_api.h

Every entry's place and type, every field of an operator's description, every number: a compiler
checks them. The header, with those that it includes beside it, is in the npm package
`com.github.asus4.onnxruntime` (150 MB), in Debian 13's `libonnxruntime-dev`, and in ONNX Runtime's
own archives.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from plugins.onnxruntime_cpu.compile_library import FOLDER, CompilerError, compile_sources

_TYPES = {
    "Status": "OrtStatus",
    "Value": "OrtValue",
    "KernelInfo": "OrtKernelInfo",
    "KernelContext": "OrtKernelContext",
    "SessionOptions": "OrtSessionOptions",
    "CustomOpDomain": "OrtCustomOpDomain",
    "CustomOp": "OrtCustomOp",
    "ShapeInferContext": "OrtShapeInferContext",
    "TypeAndShape": "OrtTensorTypeAndShapeInfo",
    "Api": "OrtApi",
    "ErrorCode": "OrtErrorCode",
    "ElementType": "ONNXTensorElementDataType",
    "Characteristic": "OrtCustomOpInputOutputCharacteristic",
    "MemoryType": "OrtMemType",
}
"""Our names of types and ONNX Runtime's."""

_NUMBERS = {
    "kFail": "ORT_FAIL",
    "kInvalidArgument": "ORT_INVALID_ARGUMENT",
    "kUndefined": "ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED",
    "kFloat": "ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT",
    "kInt32": "ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32",
    "kBool": "ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL",
    "kFloat16": "ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16",
    "kBfloat16": "ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16",
    "kRequired": "INPUT_OUTPUT_REQUIRED",
    "kDefaultMemory": "OrtMemTypeDefault",
}


def comparison(declared: str) -> str:
    """A C++ file that compiles where `declared`, the text of our header, is true."""
    entries = re.findall(r"ORT_ENTRY\(\d+, (\w+),", declared)
    body = re.search(r"struct CustomOp \{(.*?)\n\};", declared, re.DOTALL)
    assert body is not None and len(entries) > 10
    fields = re.findall(r"\(ORT_CALL\* ?(\w+)\)", body[1])
    unknown = set(re.findall(r"^struct (\w+);", declared, re.MULTILINE)) - set(_TYPES)
    numbers = set(re.findall(r"\b(k\w+) = -?\d", declared)) - {"kApiVersion"}
    assert not unknown and numbers == set(_NUMBERS), (unknown, numbers ^ set(_NUMBERS))
    lines = ['#include "real.h"', '#include "ort_abi.h"', "#include <type_traits>", _TRANSLATION]
    lines += [f"SAME_TYPE({ours}, {theirs});" for ours, theirs in _TYPES.items()]
    lines += [f"static_assert(ort::{ours} == int({real}));" for ours, real in _NUMBERS.items()]
    for name in entries:
        lines.append(
            f"static_assert(ort::{name}::kPlace * sizeof(void*) == offsetof(OrtApi, {name}));"
        )
        lines.append(f"SAME_CALL(ort::{name}::Type, decltype(OrtApi::{name}), {name});")
    for name in ("version", *fields):
        lines.append(
            f"static_assert(offsetof(ort::CustomOp, {name}) == offsetof(OrtCustomOp, {name}));"
        )
    for name in fields:
        lines.append(
            f"SAME_CALL(decltype(ort::CustomOp::{name}), decltype(OrtCustomOp::{name}), {name});"
        )
    for name in ("GetApi", "GetVersionString"):
        lines.append(
            f"static_assert(offsetof(ort::ApiBase, {name}) == offsetof(OrtApiBase, {name}));"
        )
    lines += [
        "static_assert(sizeof(ort::CustomOp) <= sizeof(OrtCustomOp));",
        "static_assert(ort::kApiVersion <= ORT_API_VERSION);",
        "int main() {}",
    ]
    return "\n".join(lines) + "\n"


_TRANSLATION = """
// Our types as ONNX Runtime's; everything else is itself.
template <class T> struct Real { using Type = T; };
template <class T> struct Real<T*> { using Type = typename Real<T>::Type*; };
template <class T> struct Real<const T> { using Type = const typename Real<T>::Type; };
template <class R, class... A> struct Real<R(A...)> {
  using Type = typename Real<R>::Type(typename Real<A>::Type...);
};
// What the real header adds to a type of a function.
template <class T> struct Plain { using Type = T; };
template <class R, class... A> struct Plain<R (*)(A...) noexcept> { using Type = R (*)(A...); };
#define SAME_TYPE(ours, theirs) \\
  template <> struct Real<ort::ours> { using Type = theirs; }
#define SAME_CALL(ours, theirs, name) \\
  static_assert(std::is_same_v<Real<ours>::Type, Plain<theirs>::Type>, #name)
"""


def main() -> int:
    """0 where all of it is the same; 1 with what the compiler says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("header", type=Path)
    header: Path = parser.parse_args().header
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "real.h").write_text(f'#include "{header.resolve()}"\n')
        source = folder / "comparison.cpp"
        source.write_text(comparison((FOLDER / "ort_abi.h").read_text(encoding="utf-8")))
        try:
            compile_sources(folder / "made", {source: ("-I", temporary)}, ())
        except CompilerError as error:
            print(error, file=sys.stderr)
            return 1
    print("the same")
    return 0


if __name__ == "__main__":
    sys.exit(main())
