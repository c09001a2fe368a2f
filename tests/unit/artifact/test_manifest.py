"""The artifact folder: whole or not there, and never over something else."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.manifests import EMPTY

from exporter.artifact import files as files_module
from exporter.artifact.files import FileRecord, record, verify_files
from exporter.artifact.manifest import MANIFEST, Manifest, read_manifest
from exporter.artifact.writer import ArtifactWriter
from exporter.errors import InputError


def write(output: Path, content: str = "graph", *, force: bool = False) -> Manifest:
    with ArtifactWriter(output, force=force) as writer:
        (writer.folder / "model.onnx").write_text(content)
        manifest = replace(EMPTY, files=writer.records())
        writer.finish(manifest)
    return manifest


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    output = tmp_path / "new" / "deeper" / "artifact"
    manifest = write(output)
    assert names(output) == {"model.onnx", MANIFEST}
    assert names(output.parent) == {"artifact"}
    assert read_manifest(output) == manifest
    assert manifest.files == (FileRecord("model.onnx", 5, hashlib.sha256(b"graph").hexdigest()),)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(output.stat().st_mode) == 0o777 & ~umask


def test_manifest_survives_json() -> None:
    data = json.loads(json.dumps(EMPTY.to_dict()))
    assert Manifest.from_dict(data) == EMPTY
    assert Manifest.from_dict({**data, "added_later": 1}) == EMPTY


@pytest.mark.parametrize("name", [*EMPTY.to_dict()])
def test_a_missing_field_is_named(name: str) -> None:
    data = EMPTY.to_dict()
    del data[name]
    with pytest.raises(InputError) as caught:
        Manifest.from_dict(json.loads(json.dumps(data)), "here.json")
    message = str(caught.value)
    assert message.startswith("here.json: ")
    assert name in message or name == "format"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seq", {"min": 5, "opt": 1, "max": 2}),
        ("seq", "1,2,3"),
        ("files", [{"path": "../secret", "bytes": 1, "sha256": "00"}]),
        ("files", [{"path": "/etc/passwd", "bytes": 1, "sha256": "00"}]),
        ("files", [{"path": "x"}]),
        ("labels", ["a"]),
        ("labels", {"a": "b"}),
        ("task", 3),
        ("targets", "onnx"),
        ("source", None),
        ("limits", 4),
    ],
)
def test_a_malformed_field_is_named(name: str, value: Any) -> None:
    data = {**json.loads(json.dumps(EMPTY.to_dict())), name: value}
    with pytest.raises(InputError, match=f"field '{name}' is malformed"):
        Manifest.from_dict(data)


@pytest.mark.parametrize("data", [[], None, 3, {}, {"format": "other"}])
def test_other_json_is_no_manifest(data: Any) -> None:
    with pytest.raises(InputError, match="not a manifest of deb-export"):
        Manifest.from_dict(data)


def test_another_schema_is_refused() -> None:
    with pytest.raises(InputError, match="schema 99, this version reads 1"):
        Manifest.from_dict({**EMPTY.to_dict(), "schema": 99})


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_broken_manifest_is_one_message(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(InputError, match=r"manifest\.json: not readable as JSON"):
        read_manifest(tmp_path)


def test_an_existing_output_is_refused_before_any_work(tmp_path: Path) -> None:
    write(tmp_path / "a")
    before = (tmp_path / "a" / MANIFEST).read_bytes()
    with pytest.raises(InputError, match="exists; choose another --output, or add --force"):
        write(tmp_path / "a", "other")
    assert (tmp_path / "a" / MANIFEST).read_bytes() == before
    assert names(tmp_path) == {"a"}


def test_force_replaces_an_artifact_and_leaves_nothing_beside(tmp_path: Path) -> None:
    write(tmp_path / "a")
    (tmp_path / "a" / "left-over").write_text("x")
    write(tmp_path / "a", "other", force=True)
    assert (tmp_path / "a" / "model.onnx").read_text() == "other"
    assert names(tmp_path / "a") == {"model.onnx", MANIFEST}
    assert names(tmp_path) == {"a"}


def test_force_takes_an_empty_folder_but_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="exists"):
        write(tmp_path / "empty")
    write(tmp_path / "empty", force=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("cat")
    with pytest.raises(InputError, match="is not an artifact"):
        write(tmp_path / "photos", force=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        write(tmp_path / "file", force=True)
    assert names(tmp_path) == {"empty", "photos", "file"}
    assert (tmp_path / "photos" / "cat.jpg").read_text() == "cat"


@pytest.mark.parametrize("content", ['{"name": "App", "start_url": "/"}', "[]", '{"format": ', ""])
def test_force_replaces_no_folder_with_the_manifest_of_something_else(
    content: str, tmp_path: Path
) -> None:
    web = tmp_path / "web"
    web.mkdir()
    (web / MANIFEST).write_text(content)
    (web / "index.html").write_text("<p>")
    with pytest.raises(InputError, match=r"is not an artifact \(its manifest\.json is not ours"):
        write(web, force=True)
    assert names(web) == {MANIFEST, "index.html"}
    assert (web / MANIFEST).read_text() == content


def test_force_replaces_an_artifact_of_another_schema(tmp_path: Path) -> None:
    write(tmp_path / "a")
    manifest = tmp_path / "a" / MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema": 99}))
    write(tmp_path / "a", "other", force=True)
    assert (tmp_path / "a" / "model.onnx").read_text() == "other"


def test_a_link_keeps_pointing_to_the_replaced_folder(tmp_path: Path) -> None:
    write(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link", "other", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "model.onnx").read_text() == "other"


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is like a container's volume: it cannot be renamed, nor anything put beside."""
    folder = tmp_path / "volume"
    (folder / "lost+found").mkdir(parents=True)
    rename, mkdir, ismount = Path.rename, Path.mkdir, os.path.ismount

    def busy(self: Path, target: Path) -> Path:
        if folder in (self, Path(target)):
            raise OSError(errno.EBUSY, "device or resource busy", str(self))
        return rename(self, target)

    def inside(self: Path, *args: Any, **options: Any) -> None:
        if self.parent == tmp_path:
            raise OSError(errno.EROFS, "read-only file system", str(self))
        mkdir(self, *args, **options)

    monkeypatch.setattr(Path, "rename", busy)
    monkeypatch.setattr(Path, "mkdir", inside)
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == folder or ismount(path))
    return folder


def test_a_mount_point_is_filled_and_replaced(mount: Path) -> None:
    write(mount)
    assert names(mount) == {"model.onnx", MANIFEST, "lost+found"}
    with pytest.raises(InputError, match="exists; choose another"):
        write(mount, "other")
    (mount / "left-over").write_text("x")
    write(mount, "other", force=True)
    assert (mount / "model.onnx").read_text() == "other"
    assert names(mount) == {"model.onnx", MANIFEST, "lost+found"}
    (mount / MANIFEST).unlink()
    with pytest.raises(InputError, match="is not an artifact"):
        write(mount, "third", force=True)


@pytest.mark.parametrize("at", ["model.onnx", MANIFEST])
def test_what_was_in_a_mount_point_comes_back(
    at: str, mount: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(mount)
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name == at and ".partial-" in self.parent.name:
            raise OSError(errno.EIO, "input/output error", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="input/output"):
        write(mount, "other", force=True)
    assert names(mount) == {"model.onnx", MANIFEST, "lost+found"}
    assert (mount / "model.onnx").read_text() == "graph"
    assert read_manifest(mount).files[0].bytes == len("graph")


def test_what_a_killed_build_left_is_removed_and_said(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from exporter.artifact.writer import ArtifactWriter\n"
        "with ArtifactWriter(Path(sys.argv[1])):\n"
        "    print('in it', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", code, str(tmp_path / "a")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "in it\n"
    (running,) = names(tmp_path)
    write(tmp_path / "a")  # the other one is at work: it stays
    assert names(tmp_path) == {"a", running}
    process.kill()
    process.communicate(timeout=60)
    with pytest.warns(UserWarning, match=f"{running}: left by a build that was killed; removed"):
        write(tmp_path / "a", "other", force=True)
    assert names(tmp_path) == {"a"}


@pytest.mark.parametrize(
    ("name", "message"),
    [("x" * 300, "the name is too long"), ("/", "is not an artifact")],
)
def test_a_place_that_cannot_be_is_refused_before_any_work(
    name: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message), ArtifactWriter(tmp_path / name, force=True):
        raise AssertionError("work was begun")
    assert names(tmp_path) == set()


@pytest.mark.parametrize("name", ["ünï cödé 模型", "a b"])
def test_names_that_file_systems_have(name: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    assert names(tmp_path) == {name}


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(143)])
def test_whatever_ends_the_block_early_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with (
        pytest.raises(type(error)),
        ArtifactWriter(tmp_path / "new" / "a") as writer,
    ):
        (writer.folder / "model.onnx").write_text("half")
        raise error
    assert names(tmp_path) == set()


def test_the_old_artifact_comes_back_when_the_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a")
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if ".partial-" in self.name:
            raise OSError(errno.EIO, "input/output error", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="input/output"):
        write(tmp_path / "a", "other", force=True)
    assert names(tmp_path) == {"a"}
    assert (tmp_path / "a" / "model.onnx").read_text() == "graph"


def test_an_output_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    output = tmp_path / "a"
    with pytest.raises(InputError, match="exists"), ArtifactWriter(output) as writer:
        output.mkdir()
        (output / "mine").write_text("x")
        writer.finish(EMPTY)
    assert names(tmp_path) == {"a"}
    assert names(output) == {"mine"}


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "quota is used up"),
        (errno.EFBIG, "size limit"),
    ],
)
def test_a_full_disk_is_one_message(tmp_path: Path, number: int, message: str) -> None:
    output = tmp_path / "a"
    with pytest.raises(InputError, match=message) as caught, ArtifactWriter(output):
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            raise RuntimeError("an exporter wraps it") from error
    assert str(output) in str(caught.value)
    assert names(tmp_path) == set()


def test_a_really_full_device_is_one_message(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(InputError, match="the disk is full"), ArtifactWriter(tmp_path / "a"):
        Path("/dev/full").write_text("x")
    assert names(tmp_path) == set()


def test_a_file_size_limit_of_the_process_is_one_message(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from exporter.artifact.writer import ArtifactWriter\n"
        "with ArtifactWriter(Path(sys.argv[1])) as writer:\n"
        "    (writer.folder / 'model.onnx').write_bytes(bytes(100_000))\n"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    done = subprocess.run(
        [sys.executable, "-B", "-c", code, str(tmp_path / "a")],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "InputError" in done.stderr
    assert "size limit" in done.stderr
    assert names(tmp_path) == set()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_refused_permission_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(self: Path, *arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match=r"a: (no permission|the file system is read-only)"):
        write(tmp_path / "a")


def test_a_parent_that_is_a_file_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="a part of the path is a file"):
        write(tmp_path / "file" / "a")
    with pytest.raises(InputError, match="a part of the path is a file"):
        write(tmp_path / "file" / "b" / "a")


def test_a_name_that_is_too_long_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the name is too long"):
        write(tmp_path / ("a" * 256))


def test_a_refused_read_elsewhere_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), ArtifactWriter(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "denied", str(tmp_path / "weights"))


def test_changed_and_missing_files_are_named(tmp_path: Path) -> None:
    for name in ("same", "longer", "flipped", "gone", "folder"):
        (tmp_path / name).write_text("content")
    records = [record(tmp_path / name) for name in ("same", "longer", "flipped", "gone", "folder")]
    (tmp_path / "longer").write_text("content!")
    (tmp_path / "flipped").write_text("contenT")
    (tmp_path / "gone").unlink()
    problems = {p.path: p.problem for p in verify_files(tmp_path, records)}
    assert set(problems) == {"longer", "flipped", "gone"}
    assert problems["longer"] == "changed: 8 bytes instead of 7"
    assert problems["flipped"].startswith("changed: SHA-256 ")
    assert problems["gone"] == "missing"


def test_large_files_are_hashed_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "_CHUNK_BYTES", 10)
    content = os.urandom(1234)
    (tmp_path / "x").write_bytes(content)
    expected = FileRecord("y", 1234, hashlib.sha256(content).hexdigest())
    assert record(tmp_path / "x", "y") == expected
