"""The native attention for ONNX Runtime's CPU provider against the oracle, in every set of
instructions that this processor has."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.native_attention import (
    NodeCase,
    compiled,
    expected,
    node_model,
    open_node,
    run_node,
)

pytestmark = pytest.mark.skipif(
    all(shutil.which(name) is None for name in ("c++", "g++", "clang++")),
    reason="there is no C++ compiler",
)

INSTRUCTIONS_VARIABLE = "DEB_EXPORT_INSTRUCTIONS"
INSTRUCTIONS = ("portable", "avx2", "avx512")
MASKS = ("whole", "ragged", "holes", "tail", "empty", "wild")
CLOSE = {"float32": 1e-5, "float16": 2**-11, "bfloat16": 2**-8}
"""Permitted error relative to the largest value; of halves, the output's own rounding."""


@pytest.fixture(params=INSTRUCTIONS)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Sessions use these; the portable ones every processor has."""
    name: str = request.param
    monkeypatch.setenv(INSTRUCTIONS_VARIABLE, name)
    if compiled().instructions != name:
        assert name != "portable"
        pytest.skip(f"this processor has no {name}")
    return name


def random_case(seed: int) -> NodeCase:
    choose = random.Random(seed)
    span, buckets, furthest = choose.choice(
        ((256, 256, 512), (512, 0, 0), (8, 8, 16), (32, 64, 40), (50, 0, 0), (24, 5, 9))
    )
    return NodeCase(
        batch=choose.randint(1, 3),
        length=choose.choice((1, 2, 3, 15, 16, 17, 31, 63, 77, 95, 96, 97, 128, 129, 200, 257)),
        heads=choose.randint(1, 4),
        size=choose.choice((1, 3, 8, 16, 20, 32, 33, 64, 80)),
        c2p=choose.random() < 0.75,
        p2c=choose.random() < 0.75,
        span=span,
        buckets=buckets,
        max_position=furthest,
        mask=choose.choice(MASKS),
        mask_type=choose.choice(("int32", "bool")),
        queries=choose.choice((None, None, None, 1)),
        spread=choose.choice((0.3, 1.0, 4.0)),
        seed=seed,
    )


def check(case: NodeCase, threads: int = 1) -> np.ndarray:
    """The rows that are specified are the oracle's, and the others are finite."""
    tensors = case.tensors()
    right, found = expected(case, tensors), run_node(case, tensors, threads)
    assert found.shape == right.shape
    assert np.isfinite(found).all()
    permitted = CLOSE[case.dtype] * np.abs(right).max()
    if case.dtype == "float16":
        permitted = max(permitted, 2**-25 * 1.001)  # half a step of subnormal numbers
    for text, mask in enumerate(tensors["mask"].bool()):
        rows = int(mask.nonzero().max()) + 1 if mask.any() else 0
        error = np.abs(found[text, :rows] - right[text, :rows])
        assert not error.size or error.max() <= permitted, (case, text, error.max() / permitted)
    return found


@pytest.mark.parametrize("seed", range(40))
def test_random_configurations_are_the_oracles(seed: int, instructions: str) -> None:
    check(random_case(seed))


@pytest.mark.parametrize("length", [300, 511, 512, 513, 700])
def test_long_texts_are_the_oracles(length: int, instructions: str) -> None:
    check(NodeCase(batch=2, length=length, heads=1, size=64, mask="holes"))


@pytest.mark.parametrize("span", [256, 512])
def test_far_keys_are_the_oracles(span: int, instructions: str) -> None:
    """Of a text in which most keys share a slot, with v3's and v2's number of buckets."""
    check(NodeCase(batch=1, length=2048, heads=1, size=64, mask="holes", span=span, buckets=span))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_the_oracles_rounded_once(dtype: str, instructions: str) -> None:
    check(NodeCase(length=150, size=24, dtype=dtype, mask="holes"))
    check(NodeCase(length=40, size=5, dtype=dtype, spread=1e-4))  # subnormal numbers of fp16


def test_every_number_of_threads_gives_the_same_bits(instructions: str) -> None:
    case = NodeCase(batch=3, length=300, heads=3, size=32)
    one = check(case)
    for threads in range(2, 9):
        assert np.array_equal(run_node(case, case.tensors(), threads), one)


def test_rows_of_padding_do_not_depend_on_what_is_there(instructions: str) -> None:
    case = NodeCase(batch=2, length=50)
    tensors = case.tensors()
    changed = {name: tensor.clone() for name, tensor in tensors.items()}
    padding = tensors["mask"] == 0
    changed["qkv"][padding] = torch.nan
    assert np.array_equal(run_node(case, tensors), run_node(case, changed))


def test_nan_and_large_scores_stay_what_they_are(instructions: str) -> None:
    case = NodeCase(batch=1, length=40, heads=2, size=16, mask="whole")
    tensors = case.tensors()
    tensors["qkv"][0, 7, 0] = torch.nan
    found = run_node(case, tensors)
    nan = np.isnan(found)
    assert nan[0, 7, :16].all()
    assert not nan[0, :7].any() and not nan[0, 8:].any() and not nan[0, 7, 16:].any()
    check(replace(case, spread=100.0))  # one key has all the weight


def test_nothing_in_gives_nothing_out(instructions: str) -> None:
    for batch, length in ((0, 5), (2, 0)):
        case = NodeCase(batch=batch, length=length, mask="whole")
        assert run_node(case, case.tensors()).shape == (batch, length, 32)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("slots", lambda t: t + 512, "slots has a slot that pos_key or pos_query has not"),
        ("slots", lambda t: t - 1, "slots has a slot that pos_key or pos_query has not"),
        ("slots", lambda t: t[:-1], "slots has an even number of entries"),
        ("mask", lambda t: t[:, :-1], "mask and qkv differ in batch or length"),
        ("pos_key", lambda t: t[:1], "pos_key has other heads than qkv"),
        ("pos_query", lambda t: t[..., :3], "pos_query has other heads than qkv"),
        ("qkv", lambda t: t[..., :-1], "qkv has 95 columns for 2 heads"),
    ],
)
def test_what_breaks_the_contract_is_refused(name: str, change: object, message: str) -> None:
    case = NodeCase(length=600)
    tensors = case.tensors()
    tensors[name] = change(tensors[name]).contiguous()  # type: ignore[operator]
    with pytest.raises(Exception, match=message):
        run_node(case, tensors)


def test_what_no_session_can_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exception, match="num_heads is 0"):
        open_node(node_model(num_heads=0, scale=1.0, c2p=1, p2c=1))
    with pytest.raises(Exception, match="scale"):
        open_node(node_model(num_heads=2, c2p=1, p2c=1))
    case = NodeCase(mask_type="int64")
    tensors = case.tensors()
    tensors["mask"] = tensors["mask"].long()
    with pytest.raises(Exception, match="mask is neither int32 nor bool"):
        run_node(case, tensors)
    monkeypatch.setenv(INSTRUCTIONS_VARIABLE, "mmx")
    with pytest.raises(Exception, match="DEB_EXPORT_INSTRUCTIONS is mmx, which this processor"):
        open_node(node_model(num_heads=2, scale=1.0, c2p=1, p2c=1))
