"""Sources behind URLs: the contract, the bytes that are asked for, faults of servers, changes, going on."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from gguf_files import info, layout, number, padded
from numpy.typing import NDArray
from quantized_files import matrix as held_matrix
from quantized_files import of_library, save
from source_contract import Maker, SourceContract, make_directory, matrix_of
from source_files import make_npy, make_safetensors, make_sharded, safetensors_bytes

import qstore
from qstore.cli import main
from qstore.errors import ChangedError, RemoteError, RemoteNotFoundError, ResumeError, SourceError
from qstore.sources import RowSource, open_source
from qstore.sources.addresses import Address, beside, inside
from qstore.system.remote_objects import session as session_module
from qstore.system.remote_objects.reader import Reader
from qstore.system.remote_objects.session import RemoteObject, Session
from qstore.writing.output_paths import journal_path, partial_path

sys.path.append(str(Path(__file__).parents[2] / "tools"))

from range_server import Fault, RangeServer, serving

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")

TABLE = np.random.default_rng(11).standard_normal((60_000, 64)).astype(np.float32)
OTHER = np.random.default_rng(12).standard_normal((20_000, 64)).astype(np.float32)
PIECE = session_module._PIECE


@pytest.fixture
def server(no_leaks: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    """A server of ranges; at the end no connection is open, and no thread reads ahead."""
    from qstore.system.remote_objects import http_reader

    monkeypatch.setattr(http_reader, "_PAUSES", (0.01, 0.02, 0.03))
    with serving() as running:
        yield running
    assert not [one.name for one in threading.enumerate() if one.name.startswith("qstore-read-ahead")]


@pytest.fixture(scope="module", autouse=True)
def quick_event_loop() -> None:
    """fsspec's thread and its event loop begin before descriptors are counted, and stay."""
    __import__("fsspec.asyn").asyn.get_loop()


def behind_url(make: Callable[[Path, NDArray[Any]], Path]) -> Callable[[Path, NDArray[Any]], str]:
    """What `make` leaves, by fsspec's own way to files of this machine."""
    return lambda directory, values: f"local://{make(directory, values)}"


def make_gguf(directory: Path, values: NDArray[Any]) -> Path:
    rows, dim = values.shape
    path = directory / "m.gguf"
    path.write_bytes(layout([info(b"w", (dim, rows), 0, 0)], values.astype("<f4").tobytes()))
    return path


class TestContract(SourceContract):
    makers: ClassVar[dict[str, Maker]] = {
        "npy": Maker(behind_url(make_npy((1, 0))), working_memory=4 * PIECE),
        "safetensors": Maker(behind_url(make_safetensors), working_memory=4 * PIECE),
        "directory": Maker(behind_url(make_directory(make_safetensors)), working_memory=4 * PIECE),
        "sharded": Maker(behind_url(make_sharded), "z.weight", working_memory=4 * PIECE),
        "gguf": Maker(behind_url(make_gguf), working_memory=4 * PIECE, holds_no_rows=False),
    }

    def test_file_cut_short_after_opening(self, maker: Maker, tmp_path: Path) -> None:
        """It is another one then, of which nothing is read."""
        with maker.open(tmp_path, matrix_of("float32", rows=20_000)) as source:
            for file in tmp_path.iterdir():
                os.truncate(file, min(3000, file.stat().st_size))
            assert isinstance(source, RowSource)
            with pytest.raises(ChangedError, match="has changed since it was opened"):
                source.read(source.rows - 100, source.rows)

    def test_fingerprint_tells_shapes_apart(self, maker: Maker, tmp_path: Path) -> None:
        """And versions: the time of change is one of the things that tell them."""
        prints = []
        for part in (matrix_of("float32"), matrix_of("float32"), matrix_of("float32")[1:]):
            with maker.open(tmp_path, part) as source:
                found = source.fingerprint()
            assert found is not None
            assert json.loads(json.dumps(found)) == found
            prints.append(found)
            version = found.pop("version")
            assert version not in [one.get("was") for one in prints[:-1]]
            found["was"] = version
        del prints[0]["was"], prints[1]["was"]
        assert prints[0] == prints[1] != prints[2]


# What is asked for ------------------------------------------------------------------------------------


def checkpoint() -> bytes:
    """A table in the middle of others."""
    return safetensors_bytes({"a": OTHER, "table": TABLE, "z": OTHER})


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The store of :data:`TABLE`, built of a file."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "m.safetensors").write_bytes(checkpoint())
    qstore.build(folder / "m.safetensors", folder / "out.h5", tensor="table")
    return (folder / "out.h5").read_bytes()


def asked(server: RangeServer) -> list[tuple[int, int]]:
    """First and last byte of each request, in order of place."""
    return sorted((int(a), int(b)) for a, b in (re.findall(r"\d+", one) for one in server.requests))


def test_only_the_tensor_is_read(server: RangeServer, local: bytes, tmp_path: Path) -> None:
    content = checkpoint()
    server.objects["m.safetensors"] = content
    report = qstore.build(server.url("m.safetensors"), tmp_path / "out.h5", tensor="table")
    assert (tmp_path / "out.h5").read_bytes() == local
    assert report.rows == 60_000
    assert server.body_bytes <= 1.02 * TABLE.nbytes + (1 << 20)
    begin = content.index(TABLE[0].tobytes())
    data = [one for one in asked(server) if one[0]]
    assert (data[0][0], data[-1][1]) == (begin, begin + TABLE.nbytes - 1)
    assert all(one[1] + 1 == other[0] for one, other in itertools.pairwise(data))  # each byte once
    assert len(data) == -(-TABLE.nbytes // PIECE)
    assert len(server.requests) == len(data) + 1  # the header


def test_a_plan_and_a_list_read_headers_alone(
    server: RangeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.objects["m.safetensors"] = checkpoint()
    url = server.url("m.safetensors")
    assert [one.name for one in qstore.list_tensors(url)] == ["a", "table", "z"]
    assert main(["ls", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[1]["shape"] == [60_000, 64]
    assert qstore.plan(url, tmp_path / "out.h5", tensor="table").rows == 60_000
    assert main(["build", url, "-o", str(tmp_path / "out.h5"), "--tensor", "table", "--dry-run"]) == 0
    assert server.body_bytes <= 4 * (64 << 10)
    assert not list(tmp_path.iterdir())


def test_some_rows(server: RangeServer, tmp_path: Path) -> None:
    server.objects["m.npy"] = b""
    np.save(tmp_path / "m.npy", np.concatenate([TABLE, TABLE]))
    server.objects["m.npy"] = (tmp_path / "m.npy").read_bytes()
    for where in (server.url("m.npy"), tmp_path / "m.npy"):
        qstore.build(where, tmp_path / f"{type(where).__name__}.h5", rows=(100, 300))
    assert (tmp_path / "str.h5").read_bytes() == (tmp_path / "PosixPath.h5").read_bytes()
    assert server.body_bytes <= PIECE + (64 << 10)  # no reading ahead of what is not wanted


def test_shards_joined_and_verified(server: RangeServer, local: bytes, tmp_path: Path) -> None:
    shards: dict[str, dict[str, NDArray[Any]]] = {}
    place = "models/big"
    for shard, rows in enumerate(np.split(TABLE, 6)):
        name = f"model-{shard % 2}.safetensors"
        shards.setdefault(name, {})[f"table.{shard}"] = rows
    for name, tensors in shards.items():
        server.objects[f"{place}/{name}"] = safetensors_bytes(tensors)
    index = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    index["elsewhere"] = "model-of-others.safetensors"
    server.objects[f"{place}/model.safetensors.index.json"] = json.dumps({"weight_map": index}).encode()
    url, out = server.url(f"{place}/model.safetensors.index.json"), str(tmp_path / "out.h5")
    assert main(["build", url, "-o", out, "--tensor", "table.*", "--join", "-q"]) == 0
    with qstore.open(out) as store:
        assert store.tensor == "table.*"
        assert np.array_equal(store[:], qstore.dequantize(*qstore.quantize(TABLE)))
    assert server.body_bytes <= 1.02 * TABLE.nbytes + (1 << 20)
    assert main(["verify", out, "--against", url, "--tensor", "table.*", "--join", "-q"]) == 0
    with pytest.raises(qstore.IncompleteError, match="1 of its files missing: model-of-others"):
        qstore.list_tensors(url)
    with pytest.raises(SourceError, match="1 of its files missing"):
        open_source(url, "elsewhere")


@pytest.mark.parametrize("query", ["", "?download=true&signature=a%2Fb"])
def test_quantized_weights_with_their_scales(server: RangeServer, query: str, tmp_path: Path) -> None:
    codes = np.random.default_rng(3).integers(-127, 128, (40_000, 64)).astype(np.int8)
    scales = np.random.default_rng(4).random((40_000, 1)).astype(np.float32)
    tensors = {"e.weight": held_matrix(codes), "e.weight_scale": held_matrix(scales)}
    path = save(tmp_path / "model.safetensors", tensors)
    server.objects["model.safetensors"] = path.read_bytes()
    qstore.build(path, tmp_path / "local.h5", tensor="e.weight")
    report = qstore.build(server.url(f"model.safetensors{query}"), tmp_path / "out.h5", tensor="e.weight")
    assert report.convention
    assert (tmp_path / "out.h5").read_bytes() == (tmp_path / "local.h5").read_bytes()
    assert server.body_bytes <= 1.02 * (codes.nbytes + scales.nbytes) + (1 << 20)


def test_a_checkpoint_of_a_library_with_its_config(server: RangeServer, tmp_path: Path) -> None:
    name = "transformers-fp8-block"
    for path in of_library(name).iterdir():
        server.objects[path.name] = path.read_bytes()
    weights = next(path for path in of_library(name).iterdir() if path.suffix == ".safetensors")
    assert qstore.list_tensors(server.url(weights.name)) == qstore.list_tensors(weights)


@pytest.mark.parametrize("kind", [0, 8])
def test_gguf(server: RangeServer, kind: int, tmp_path: Path) -> None:
    """A part of several, plain and in blocks of Q8_0."""
    item = TABLE[:6400].tobytes() if kind == 0 else np.random.default_rng(1).bytes(6400 * 64 // 32 * 34)
    if kind == 8:
        blocks = np.frombuffer(item, np.uint8).reshape(-1, 34).copy()
        blocks[:, :2] = np.frombuffer(np.float16(0.5).tobytes(), np.uint8)
        item = blocks.tobytes()
    split = [(number(b"split.no", part), number(b"split.count", 2)) for part in range(2)]
    names = [f"m-0000{part + 1}-of-00002.gguf" for part in range(2)]
    parts = [
        layout([info(b"w", (64, 6400), kind, 0)], padded(item), split[0]),
        layout([info(b"other", (4, 2), 0, 0)], padded(bytes(32)), split[1]),
    ]
    for name, part in zip(names, parts, strict=True):
        (tmp_path / name).write_bytes(part)
        server.objects[name] = part
    qstore.build(tmp_path / names[0], tmp_path / "local.h5", tensor="w")
    for name in names:
        qstore.build(server.url(name), tmp_path / "out.h5", tensor="w", overwrite=True)
        assert (tmp_path / "out.h5").read_bytes() == (tmp_path / "local.h5").read_bytes()


def test_a_folder_in_another_file_system(local: bytes, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/model/model.safetensors", checkpoint())
    memory.pipe("/bucket/model/README.md", b"words")
    memory.pipe("/bucket/.cache/x", b"")
    try:
        for url in ("memory://bucket", "memory://bucket/model", "memory://bucket/model/model.safetensors"):
            qstore.build(url, tmp_path / "out.h5", tensor="table", overwrite=True)
            assert (tmp_path / "out.h5").read_bytes() == local
        reports = qstore.build_all("memory://bucket/model", tmp_path / "all")
        assert [one.tensor for one in reports] == ["a", "table", "z"]
        memory.pipe("/bucket/model/pytorch_model.bin", b"PK\3\4")
        memory.mv("/bucket/model/model.safetensors", "/bucket/x.safetensors")
        with pytest.raises(SourceError, match=r"bucket/model/pytorch_model\.bin is .*download it first"):
            qstore.list_tensors("memory://bucket/model")
        with pytest.raises(SourceError, match="a directory without a checkpoint"):
            qstore.list_tensors("memory://bucket/.cache")
        with pytest.raises(RemoteNotFoundError):
            qstore.list_tensors("memory://bucket/nothing")
    finally:
        memory.store.clear()
        memory.pseudo_dirs.clear()


def test_what_is_not_read_behind_urls(server: RangeServer, tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", TABLE)
    np.save(tmp_path / "f.npy", np.asfortranarray(TABLE))
    qstore.build(TABLE, tmp_path / "store.h5")
    (tmp_path / "words.txt").write_text("a 1 2\nb 3 4\n")
    (tmp_path / "m.bin").write_bytes(bytes(range(200)) * 1000)
    (tmp_path / "empty.npy").write_bytes(b"")
    for path in tmp_path.iterdir():
        server.objects[path.name] = path.read_bytes()
    for name, words in {
        "m.npz": "expected one of npy .*safetensors.*GGUF.*behind URLs; download it first, and give its path",
        "store.h5": r"HDF5.*download it first.*qstore\.open and qstore info read it where it is",
        "words.txt": "download it first",
        "m.bin": "download it first",
        "f.npy": r"Fortran order.*download it first",
        "empty.npy": "is empty",
        "": "cannot be listed over HTTP: expected the URL of a file",
    }.items():
        server.reset()
        with pytest.raises(SourceError, match=words) as caught:
            open_source(server.url(name))
        assert str(caught.value).startswith(server.url(name))
        assert server.body_bytes <= 64 << 10


# What may go wrong ------------------------------------------------------------------------------------

WORDS: dict[Fault, str] = {
    "busy": "4 tries failed, the last one: .*503 Service Unavailable",
    "changed total": "has changed since it was opened",
    "close": "4 tries failed",
    "forbidden": "403 Forbidden",
    "ignore ranges": "the server ignores ranges and would send the whole file",
    "long": "more than the .* bytes came",
    "other range": "asked for bytes",
    "short": "asked for bytes",
    "truncate": "4 tries failed",
}


def after_some_rows(what: Callable[[], object]) -> Callable[[int, int | None], None]:
    """A progress that does something once the first rows are in."""

    def progress(done: int, total: int | None) -> None:
        if done:
            what()

    return progress


@pytest.fixture
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of the table is not on its way when the first rows are in."""
    monkeypatch.setattr(session_module, "_PIECE", 256 << 10)


@pytest.mark.parametrize("fault", sorted(WORDS))
def test_faults_are_errors_and_the_build_goes_on(
    fault: Fault, server: RangeServer, local: bytes, tmp_path: Path, short_pieces: None
) -> None:
    server.objects["m.safetensors"] = checkpoint()
    url, out = server.url("m.safetensors"), tmp_path / "out.h5"

    with pytest.raises(RemoteError, match=WORDS[fault]) as caught:
        qstore.build(
            url, out, tensor="table", progress=after_some_rows(lambda: server.misbehave(fault)), threads=1
        )
    assert str(caught.value).startswith(url)
    assert isinstance(caught.value, ChangedError) == (fault == "changed total")
    assert not out.exists()
    assert partial_path(out).exists()
    server.fault = None
    server.reset()
    report = qstore.build(url, out, tensor="table")
    assert report.rows_resumed > 0
    assert out.read_bytes() == local
    assert server.body_bytes < TABLE.nbytes - (report.rows_resumed * 256) + PIECE


@pytest.mark.parametrize("fault", ["busy", "close", "truncate"])
def test_three_failures_are_borne(fault: Fault, server: RangeServer, local: bytes, tmp_path: Path) -> None:
    server.objects["m.safetensors"] = checkpoint()
    server.misbehave(fault, 3)
    qstore.build(server.url("m.safetensors"), tmp_path / "out.h5", tensor="table")
    assert (tmp_path / "out.h5").read_bytes() == local


def test_ranges_ignored_are_not_downloaded(server: RangeServer) -> None:
    server.objects["big.safetensors"] = checkpoint()
    server.misbehave("ignore ranges")
    with pytest.raises(RemoteError, match="download it"):
        open_source(server.url("big.safetensors"), "table")
    assert server.body_bytes < len(server.objects["big.safetensors"])


def test_a_truncated_file(server: RangeServer) -> None:
    server.objects["m.safetensors"] = checkpoint()[:-100]
    with pytest.raises(SourceError, match="ends early"):
        open_source(server.url("m.safetensors"), "table")
    server.objects["m.safetensors"] = (1 << 40).to_bytes(8, "little") + b"{}" + bytes(2000)
    with pytest.raises(SourceError, match="expected"):
        open_source(server.url("m.safetensors"), "table")


@pytest.mark.parametrize("validators", [{"etag", "if-match"}, {"last-modified"}])
def test_another_object_meanwhile(
    validators: set[str], server: RangeServer, tmp_path: Path, short_pieces: None
) -> None:
    """What was done of one is never gone on with from another of the same size."""
    server.validators = validators
    server.objects["m.safetensors"] = checkpoint()
    url, out = server.url("m.safetensors"), tmp_path / "out.h5"
    changed = safetensors_bytes({"a": OTHER, "table": TABLE, "z": OTHER[::-1]})

    def change() -> None:
        server.objects["m.safetensors"] = changed

    with pytest.raises(ChangedError, match="has changed since it was opened"):
        qstore.build(url, out, tensor="table", progress=after_some_rows(change), threads=1)
    server.reset()
    with pytest.raises(ResumeError, match=r"the version \(ETag or time\) of the source was .*, is "):
        qstore.build(url, out, tensor="table")
    assert server.body_bytes <= 64 << 10
    assert qstore.build(url, out, tensor="table", resume=False).rows_resumed == 0


def test_an_object_without_a_version_is_compared(
    server: RangeServer, local: bytes, tmp_path: Path, short_pieces: None
) -> None:
    server.validators = set()
    server.objects["m.safetensors"] = checkpoint()
    url, out = server.url("m.safetensors"), tmp_path / "out.h5"

    with pytest.raises(RemoteError):
        qstore.build(
            url,
            out,
            tensor="table",
            progress=after_some_rows(lambda: server.misbehave("forbidden")),
            threads=1,
        )
    server.fault = None
    server.objects["m.safetensors"] = safetensors_bytes({"a": OTHER, "table": TABLE + 1, "z": OTHER})
    with pytest.raises(ResumeError, match="the source has changed"):
        qstore.build(url, out, tensor="table")
    server.objects["m.safetensors"] = checkpoint()
    assert qstore.build(url, out, tensor="table").rows_resumed > 0
    assert out.read_bytes() == local


def test_a_killed_build_goes_on(server: RangeServer, local: bytes, tmp_path: Path) -> None:
    server.objects["m.safetensors"] = checkpoint()
    url, out = server.url("m.safetensors"), tmp_path / "out.h5"
    script = f"""\
import qstore
from qstore.system.remote_objects import session
session._PIECE = {64 << 10}
qstore.build({url!r}, {str(out)!r}, tensor="table", threads=1)
"""
    server.latency = 0.15  # before each of 235 answers, four at a time
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        while not journal_path(out).exists() or qstore.plan(url, out, tensor="table").rows_resumed == 0:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    server.latency = 0
    assert not out.exists()
    assert qstore.build(url, out, tensor="table").rows_resumed > 0
    assert out.read_bytes() == local


def test_secrets_are_neither_said_nor_kept(
    server: RangeServer, tmp_path: Path, short_pieces: None, capsys: pytest.CaptureFixture[str]
) -> None:
    server.objects["m.safetensors"] = checkpoint()
    secret = server.url("m.safetensors").replace("//", "//me:password@") + "?signature=a1b2c3"
    out = tmp_path / "out.h5"

    progress = after_some_rows(lambda: server.misbehave("forbidden"))
    errors: list[Exception] = []
    for use in (
        lambda: qstore.build(secret, out, tensor="table", progress=progress, threads=1),
        lambda: qstore.list_tensors(secret),
        lambda: qstore.build_all(secret, tmp_path / "all"),
    ):
        with pytest.raises(RemoteError) as caught:
            use()
        errors.append(caught.value)
    kept = journal_path(out).read_bytes() + partial_path(out).read_bytes()
    server.fault = None
    for other in (
        lambda: qstore.build(secret, tmp_path / "x.h5", tensor="nothing"),
        lambda: qstore.build(secret, tmp_path / "x.h5"),
        lambda: qstore.build([secret, secret.replace("m.saf", "n.saf")], tmp_path / "x.h5", tensor="table"),
        lambda: qstore.build_all(secret, tmp_path / "all", "nothing"),
    ):
        with pytest.raises((SourceError, RemoteError)) as found:
            other()
        errors.append(found.value)
    assert main(["build", secret, "-o", str(out), "--tensor", "table"]) == 0
    assert main(["verify", str(out), "--against", secret]) == 0
    assert main(["ls", secret, secret, "--json"]) == 0
    said = "".join(map(str, errors)) + "".join(capsys.readouterr())
    assert not re.search("me:|password|signature|a1b2c3", said)
    assert not re.search(b"password|a1b2c3|127.0.0.1", kept + out.read_bytes())


@pytest.mark.parametrize("module", ["fsspec", "aiohttp"])
def test_a_missing_library_is_named(module: str) -> None:
    script = f"""\
import sys, qstore
sys.modules[{module!r}] = None
try:
    qstore.build("https://127.0.0.1/x.npy", "out.h5")
except qstore.MissingExtraError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 'pip install "qstore[remote]"' in run.stdout


def test_files_need_no_library(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", TABLE[:10])
    script = (
        "import sys, qstore; qstore.build(*sys.argv[1:]); "
        "print({'fsspec', 'aiohttp', 'asyncio'} & {*sys.modules})"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path / "m.npy"), str(tmp_path / "out.h5")]
    assert subprocess.run(arguments, capture_output=True, text=True, check=True).stdout == "set()\n"


# Parts ------------------------------------------------------------------------------------------------


class _Counting(Reader):
    """Stands for a reader, and notes what is fetched."""

    name, version, head = "memory", "", b""

    def __init__(self, content: bytes) -> None:
        self.size, self._content = len(content), content
        self.fetched: list[tuple[int, int]] = []
        self.lock = threading.Lock()

    def fetch(self, extents: Any) -> list[bytes]:
        with self.lock:
            self.fetched += [(one.offset, one.stop) for one in extents]
        return [self._content[one.offset : one.stop] for one in extents]

    def reopened(self) -> Reader:
        return self

    def close(self) -> None:
        pass


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "_PIECE", 1000)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("threads", [1, 4])
def test_each_byte_is_fetched_once(threads: int) -> None:
    content = np.random.default_rng(0).bytes(50_000)
    reader, session = _Counting(content), Session()
    whole = RemoteObject(session, reader)
    whole.use()
    window = whole.window(123, 45_678)
    found = bytearray(50_000)
    places = iter(range(123, 45_678, 300))
    taking = threading.Lock()

    def work() -> None:
        while True:
            with taking:
                at = next(places, None)
            if at is None:
                return
            window.read_into(memoryview(found)[at : min(at + 300, 45_678)], at)

    window.read_into(memoryview(bytearray(5)), 123)  # as the type of the first row is asked for
    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found[123:45_678] == content[123:45_678]
    expected = [(at, min(at + 1000, 45_678)) for at in range(123, 45_678, 1000)]
    assert sorted(reader.fetched) == expected
    assert not session._pieces
    window.close()
    whole.release()


@pytest.mark.usefixtures("small_pieces")
def test_pieces_that_are_held_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "_HELD", 10_000)
    monkeypatch.setattr(session_module, "_HELD_A_THREAD", 0)
    content = np.random.default_rng(0).bytes(200_000)
    session = Session()
    whole = RemoteObject(session, _Counting(content))
    whole.use()
    window = whole.window(0, 200_000)
    for at in np.random.default_rng(1).integers(0, 199_000, 300).tolist():
        found = bytearray(700)
        window.read_into(memoryview(found), at)
        assert found == content[at : at + 700]
        assert len(session._pieces) <= 10
    window.close()
    assert not session._pieces
    whole.release()
    with pytest.raises(qstore.ClosedError):
        whole.fetch(0, 10)


def test_names_beside_an_address() -> None:
    address = Address("https://me:pw@host/a/model.safetensors.index.json?token=1/2")
    assert (str(address), address.name) == (
        "https://host/a/model.safetensors.index.json?…",
        "model.safetensors.index.json",
    )
    other = beside(address, "x?y#z%2F&.safetensors")
    assert isinstance(other, Address)
    assert other.url == "https://me:pw@host/a/x%3Fy%23z%252F%26.safetensors?token=1/2"
    assert other.name == "x?y#z%2F&.safetensors"
    assert other.session is address.session
    folder = inside(Address("memory://bucket/a"), "b c?")
    assert isinstance(folder, Address)
    assert folder.url == "memory://bucket/a/b c?"
    chained = beside(Address("simplecache::https://host/a/b"), "c")
    assert isinstance(chained, Address)
    assert chained.url == "simplecache::https://host/a/c"
    assert beside("a/b", "c") == "a/c"
