"""Options of a session: argument, then environment, then machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporter.errors import InputError
from exporter.runtime import runtime_options as module
from exporter.runtime.batching import Batching
from exporter.runtime.load import PROVIDERS, check_options
from exporter.runtime.runtime_options import TOKENS_PER_THREAD, RuntimeOptions


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "default_threads", lambda: 6)
    monkeypatch.setattr(module, "cpu_quota", lambda: None)


def test_the_machine_decides_last() -> None:
    found = RuntimeOptions().resolved({})
    assert (found.threads, found.tokens, found.spinning) == (6, 6 * TOKENS_PER_THREAD, True)


def test_the_environment_before_the_machine() -> None:
    found = RuntimeOptions().resolved({"DEB_EXPORT_THREADS": "3"})
    assert (found.threads, found.tokens) == (3, 3 * TOKENS_PER_THREAD)
    found = RuntimeOptions().resolved({"DEB_EXPORT_TOKENS": " 77 "})
    assert (found.threads, found.tokens) == (6, 77)


@pytest.mark.parametrize(
    ("text", "threads"),
    [("1", 1), (" 5 ", 5), ("4,2", 4), ("", 6), ("0", 6), ("-2", 6), ("many", 6), ("²", 6)],
)
def test_openmp_counts_where_nothing_else_says(text: str, threads: int) -> None:
    found = RuntimeOptions().resolved({"OMP_NUM_THREADS": text})
    assert (found.threads, found.tokens) == (threads, threads * TOKENS_PER_THREAD)
    both = {"OMP_NUM_THREADS": text, "DEB_EXPORT_THREADS": "3"}
    assert RuntimeOptions().resolved(both).threads == 3
    assert RuntimeOptions(threads=2).resolved(both).threads == 2


def test_the_argument_before_the_environment() -> None:
    variables = {"DEB_EXPORT_THREADS": "3", "DEB_EXPORT_TOKENS": "77"}
    found = RuntimeOptions(threads=2, tokens=5).resolved(variables)
    assert (found.threads, found.tokens) == (2, 5)
    assert found.resolved(variables) == found


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "²"])
def test_a_variable_that_is_no_number_is_named(text: str) -> None:
    with pytest.raises(InputError, match="DEB_EXPORT_THREADS is"):
        RuntimeOptions().resolved({"DEB_EXPORT_THREADS": text})


def test_the_variable_reaches_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEB_EXPORT_THREADS", "4")
    assert RuntimeOptions().resolved().threads == 4


def test_several_batches_at_a_time_have_a_thread_each() -> None:
    assert RuntimeOptions(hint="throughput").resolved({}).tokens == TOKENS_PER_THREAD


def test_no_busy_waiting_under_a_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cpu_quota", lambda: 1.5)
    assert RuntimeOptions().resolved({}).spinning is False
    assert RuntimeOptions(spinning=True).resolved({}).spinning is True


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threads": 0}, "threads is 0"),
        ({"tokens": -3}, "tokens is -3"),
        ({"batch": 0}, "batch is 0"),
        ({"window": 0}, "window is 0"),
        ({"precision": "fp16"}, "precision 'fp16': unknown; choose from f32, bf16, f16"),
        ({"hint": "speed"}, "hint 'speed': unknown"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RuntimeOptions(**values)


@pytest.mark.parametrize(
    ("option", "value", "providers"),
    [
        ("threads", 1, {"cpu", "openvino"}),
        ("spinning", False, {"cpu"}),
        ("precision", "bf16", {"openvino"}),
        ("hint", "latency", {"openvino"}),
        ("cache", Path("x"), {"openvino"}),
        ("tokens", 5, set(PROVIDERS)),
    ],
)
def test_an_option_that_a_provider_lacks_is_refused(
    option: str, value: object, providers: set[str]
) -> None:
    options = RuntimeOptions(**{option: value})  # type: ignore[arg-type]
    for provider in PROVIDERS:
        if provider in providers:
            check_options(options, provider)
        else:
            with pytest.raises(InputError, match=f"{provider!r} has no option {option!r}"):
                check_options(options, provider)


def test_bounds_of_a_batch() -> None:
    assert Batching.of(RuntimeOptions()) == Batching()
    assert Batching.of(RuntimeOptions(tokens=9, batch=3, window=2)) == Batching(9, 3, 2)
    assert Batching.on_cpu(RuntimeOptions(tokens=900)) == Batching(900, 900, 1024)
