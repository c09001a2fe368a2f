from __future__ import annotations

import json

import numpy as np
import pytest

from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.tasks import Task
from exporter.parity.comparison import ParityResult, Reference, compare
from exporter.parity.inputs import ParityCase
from exporter.parity.limits import limits_for
from exporter.parity.metrics import rows_of, scale_of
from exporter.parity.report import to_json, to_table
from exporter.runtime.feeds import ModelShape

LOGITS = np.array([[1.0, -2.0], [0.5, 0.25]], np.float32)


class Fixed:
    """A session that gives the same logits whatever it is asked."""

    name = "fixed"

    def __init__(self, logits: np.ndarray) -> None:
        self.logits = logits

    def run(self, **feeds: object) -> dict[str, np.ndarray]:
        return {"logits": self.logits}


def result_for(logits: np.ndarray) -> ParityResult:
    ones = np.ones((2, 3), np.int64)
    case = ParityCase("texts", {"input_ids": ones, "attention_mask": ones}, ("first", "second"))
    config = DebertaConfig(hidden_size=8, num_attention_heads=2)
    shape = ModelShape(config, Task.SEQUENCE_CLASSIFICATION)
    rows = rows_of(shape.task, LOGITS, ones == 1)
    scale = scale_of(iter([rows]))
    reference = Reference("torch fp32", shape, ({"logits": rows},), {"logits": scale}, 1.0)
    session = Fixed(logits)
    return compare(reference, session, [case], limits_for("fp32"), print)  # type: ignore[arg-type]


def test_json_is_strict_and_complete() -> None:
    broken = LOGITS.copy()
    broken[1, 0] = np.nan
    result = result_for(broken)
    text = json.dumps(to_json(result), allow_nan=False)
    data = json.loads(text)
    assert data["format"] == "deb-export-parity"
    assert data["schema"] == 1
    assert data["passed"] is False
    assert data["outputs"]["logits"]["non_finite"] == 1
    assert data["limits"]["precision"] == "fp32"
    failed = [check for check in data["checks"] if not check["passed"]]
    assert [check["metric"] for check in failed] == ["non_finite"]
    assert data["cases"][0]["shape"] == [2, 3]
    assert "non_finite 1" in data["failures"][0]


def test_json_of_a_pass() -> None:
    data = to_json(result_for(LOGITS.copy()))
    assert data["passed"] is True
    assert data["failures"] == []
    assert data["outputs"]["logits"]["max_abs"] == 0.0
    assert data["outputs"]["logits"]["agreement"] == 1.0


def test_table_names_what_fails_and_where() -> None:
    wrong = LOGITS.copy()
    wrong[1] = [0.2, 0.6]
    table = to_table(result_for(wrong))
    lines = table.splitlines()
    assert lines[-1] == "parity: FAIL"
    row = next(line for line in lines if line.startswith("logits  max_relative"))
    assert row.split() == ["logits", "max_relative", "0.175", "<=", "5e-05", "FAIL"]
    assert any("agreement 0.5" in line and "'second'" in line for line in lines)


def test_table_of_a_pass() -> None:
    lines = to_table(result_for(LOGITS.copy())).splitlines()
    assert lines[-1] == "parity: pass"
    assert not any("FAIL" in line for line in lines)


@pytest.mark.parametrize("cosine_error", [1e-3])
def test_a_cosine_below_one_is_not_shown_as_one(cosine_error: float) -> None:
    turned = LOGITS.copy()
    turned[1, 1] += cosine_error
    table = to_table(result_for(turned))
    row = next(line for line in table.splitlines() if "min_cosine" in line)
    assert row.split()[2].startswith("0.99999")
