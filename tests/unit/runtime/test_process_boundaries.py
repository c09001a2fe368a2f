"""Sessions in another process: forked they never hang, pickled they are opened again."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import InputError
from exporter.runtime.load import artifact_shape, load, read_manifest
from exporter.runtime.providers.onnx_session import OnnxSession
from exporter.runtime.runtime_options import RuntimeOptions
from exporter.runtime.session import Session

pytestmark = pytest.mark.usefixtures("shared_traces")

MakeArtifact = Callable[[str], Path]
TEXTS = ["Good.", "A rather longer text, so that there is something to compute."]

if not hasattr(os, "fork"):
    pytest.skip("this system has no fork", allow_module_level=True)


def in_fork(work: Callable[[], Any]) -> Any:
    """What a forked child makes of `work`; a hang is a failure."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        try:
            sender.send(work())
        except InputError as error:
            sender.send(str(error))

    process = context.Process(target=child)
    process.start()
    try:
        assert receiver.poll(30), "the forked child hangs"
        found = receiver.recv()
        process.join(30)
        assert process.exitcode == 0
        return found
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_a_forked_child_opens_the_model_again(provider: str, make_artifact: MakeArtifact) -> None:
    if provider == "openvino":
        pytest.importorskip("openvino")
    folder = make_artifact("sequence-classification")
    with load(folder, provider, options=RuntimeOptions(threads=2)) as session:
        expected = session(TEXTS)

        def work() -> Any:
            with session as ours:  # closes what it has inherited as well
                return ours(TEXTS), ours.run(input_ids=[[1, 2]])["logits"].shape

        assert in_fork(work) == (expected, (1, 2))
        assert session(TEXTS) == expected


def test_what_a_child_never_uses_is_freed_without_a_wait(make_artifact: MakeArtifact) -> None:
    pytest.importorskip("openvino")
    sessions = [
        load(make_artifact("base"), "openvino"),
        load(make_artifact("base"), options=RuntimeOptions(threads=2)),
    ]
    for session in sessions:
        session.run(input_ids=[[1, 2]])

    def work() -> str:
        while sessions:
            sessions.pop()
        return "done"

    assert in_fork(work) == "done"
    while sessions:
        sessions.pop().close()


def test_a_fork_of_pytorch_says_what_to_do(make_artifact: MakeArtifact) -> None:
    with load(make_artifact("base"), "torch") as session:
        session(TEXTS)
        message = in_fork(lambda: session(TEXTS))
    assert f"opened by process {os.getpid()}, of which this is a fork; open it here" in message


@pytest.mark.parametrize("provider", ["cpu", "openvino", "torch"])
def test_a_pickled_session_is_opened_again(
    provider: str, make_artifact: MakeArtifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if provider == "openvino":
        pytest.importorskip("openvino")
    folder = make_artifact("sequence-classification")
    monkeypatch.chdir(folder.parent)
    options = RuntimeOptions(tokens=64)
    with load(folder.name, provider, options=options) as session:
        content, expected = pickle.dumps(session), session(TEXTS)
    assert len(content) < 2000
    monkeypatch.chdir(tmp_path)
    copy = pickle.loads(content)
    assert isinstance(copy, Session)
    with copy:
        assert copy(TEXTS) == expected
        assert copy.batching.tokens == 64


def test_a_session_of_unknown_origin_cannot_be_pickled(make_artifact: MakeArtifact) -> None:
    folder = make_artifact("base")
    with OnnxSession(folder / "model.onnx", artifact_shape(folder, read_manifest(folder))) as bare:
        with pytest.raises(pickle.PicklingError, match=r"only a session of exporter\.load"):
            pickle.dumps(bare)
        message = in_fork(lambda: bare.run(input_ids=[[1]]))
    assert "of which this is a fork" in message
