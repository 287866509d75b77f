"""Word vectors in .gz, .xz, .bz2 and .zip, read as they are; other packed things named, with what to do."""

from __future__ import annotations

import gzip
import io
import lzma
import shutil
import subprocess
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from source_contract import Make, Maker, SourceContract, matrix_of, refused
from word_files import PACK, VALUES, WORDS, binary_words, text_words, zipped

import qstore
from qstore.errors import SourceError
from qstore.sources import TensorInfo, list_tensors, open_source
from qstore.sources.containers import byte_stream
from qstore.sources.files import RawFile

Pack = Callable[[bytes], bytes]


def as_binary(values: NDArray[Any]) -> bytes:
    rows = (b"w%d " % number + row.tobytes() for number, row in enumerate(np.asarray(values, "<f4")))
    return b"%d %d\n" % values.shape + b"".join(rows)


def into(name: str, layout: Callable[[NDArray[Any]], bytes], pack: Pack) -> Make:
    def make(directory: Path, values: NDArray[Any]) -> Path:
        (directory / name).write_bytes(pack(layout(values)))
        return directory / name

    return make


STREAM: dict[str, Any] = {"sliced": False, "tells_length": False, "working_memory": 24 << 20}


class TestContract(SourceContract):
    makers: ClassVar = {
        "binary-xz": Maker(into("m.bin.xz", as_binary, lambda data: lzma.compress(data, preset=0)), **STREAM),
        "binary-zip": Maker(into("m.zip", as_binary, zipped), **STREAM),
        "binary-zip-stored": Maker(
            into("m.zip", as_binary, lambda data: zipped(data, zipfile.ZIP_STORED)), **STREAM
        ),
    }


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("content", [binary_words(), text_words(), text_words(rows=-1)], ids=["b", "t", "n"])
def test_built_and_compared_like_the_plain_file(tmp_path: Path, suffix: str, content: bytes) -> None:
    plain, packed = tmp_path / "plain", tmp_path / f"vectors{suffix}"
    plain.write_bytes(content)
    packed.write_bytes(PACK[suffix](content))
    assert list_tensors(packed) == list_tensors(plain) == [TensorInfo("", (3, 3), "float32")]
    ids = []
    for source in (plain, packed):
        qstore.build(source, tmp_path / "store.h5", overwrite=True)
        with qstore.open(tmp_path / "store.h5") as store:
            assert qstore.verify_against(store, packed).ok
            assert list(store.key_of(slice(None))) == [word.decode() for word in WORDS]
            ids.append((store.content_id, store.codes.tobytes()))
    assert ids[0] == ids[1]


@pytest.mark.parametrize("name", ["other", "x.txt.bz2", "x.vec.xz", "x.bin.zip"])
def test_content_tells_more_than_names(tmp_path: Path, name: str) -> None:
    for number, pack in enumerate(PACK.values()):
        path = tmp_path / f"{number}-{name}"
        path.write_bytes(pack(binary_words()))
        with open_source(path) as source:
            assert (source.rows, source.dim) == (3, 3)


def test_zip_of_one_file_beside_what_systems_add(tmp_path: Path) -> None:
    path = tmp_path / "crawl.zip"
    members = {"crawl/": b"", "crawl/crawl.vec": text_words(), "__MACOSX/crawl/._crawl.vec": b"\0" * 99}
    path.write_bytes(zipped(members))
    assert list_tensors(path) == [TensorInfo("", (3, 3), "float32")]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2"])
def test_several_streams(tmp_path: Path, suffix: str) -> None:
    """As pigz, pxz and pbzip2 write them, or `cat` joins them."""
    content, path = binary_words(), tmp_path / f"x{suffix}"
    fill = b"" if suffix == ".bz2" else bytes(8)  # xz and gzip files may be filled up with zeros
    for cut in (0, 3, 20, len(content)):
        path.write_bytes(PACK[suffix](content[:cut]) + fill + PACK[suffix](content[cut:]) + fill)
        with open_source(path) as source:
            assert np.array_equal(np.concatenate(list(source.chunks())), VALUES)


def read_all(path: Path) -> None:
    with open_source(path) as source:
        for _ in source.keyed_chunks():
            pass


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2"])
@pytest.mark.parametrize("rest", [b"x", b"\x1f\x8b\x08", b"more that nobody asked for" * 9])
def test_what_stands_behind_is_no_secret(tmp_path: Path, suffix: str, rest: bytes) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(PACK[suffix](text_words()) + rest)
    with pytest.raises(SourceError, match=r"is damaged|ends early"):
        read_all(path)


@pytest.mark.parametrize("suffix", PACK)
def test_cut_at_every_length(tmp_path: Path, suffix: str) -> None:
    path, whole = tmp_path / f"x.txt{suffix}", PACK[suffix](text_words(rows=-1))
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(SourceError):
            read_all(path)


@pytest.mark.parametrize("suffix", PACK)
def test_damage_is_found(tmp_path: Path, suffix: str) -> None:
    """Every one of these formats has a checksum of the content."""
    whole, path = PACK[suffix](as_binary(matrix_of("float32", 500))), tmp_path / f"x.bin{suffix}"
    for place in range(len(whole) // 4, len(whole) * 3 // 4, 397):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(SourceError):
            read_all(path)


def test_stored_members_have_a_checksum_too(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(zipped(text_words(), zipfile.ZIP_STORED).replace(b"-2.5", b"-2.6"))
    with pytest.raises(SourceError, match=r"member 'vectors.txt' is damaged: its CRC-32 differs"):
        read_all(path)


def test_deflated_member_longer_than_told(tmp_path: Path) -> None:
    """A directory that tells the size and the CRC of the beginning only."""
    path, whole = tmp_path / "x.zip", text_words(rows=-1)
    first = whole[: whole.index(b"\n") + 1]
    content = bytearray(zipped(whole))
    place = content.rindex(b"PK\1\2")
    content[place + 16 : place + 20] = zlib.crc32(first).to_bytes(4, "little")
    content[place + 24 : place + 28] = len(first).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(SourceError, match=f"goes on after its {len(first)} bytes"):
        read_all(path)


# ------------------------------------------------------------------- flat memory


@pytest.mark.parametrize("suffix", [".xz", ".bz2", ".zip"])
@pytest.mark.parametrize(
    ("head", "unit", "words"),
    [
        (b"", b"a", "line 1 is longer than 16777216 bytes"),
        (b"a 1 2\n", b"\0", "line 2 holds a NUL byte"),
        (b"2 2\nabc", b"\0", "row 0 expected a word of at most"),
    ],
)
def test_bombs_stay_flat(tmp_path: Path, suffix: str, head: bytes, unit: bytes, words: str) -> None:
    path = tmp_path / f"x.txt{suffix}"
    path.write_bytes(PACK[suffix](head + unit * (40 << 20)))
    assert path.stat().st_size < 1 << 17
    tracemalloc.start()
    with pytest.raises(SourceError, match=words):
        read_all(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 96 << 20


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("header", [f"{10**15} 3", f"3 {10**15}", "1 20000000"])
def test_absurd_headers_take_no_memory(tmp_path: Path, suffix: str, header: str) -> None:
    path = tmp_path / f"x.txt{suffix}"
    path.write_bytes(PACK[suffix](f"{header}\nw 1 2 3\n".encode()))
    tracemalloc.start()
    with pytest.raises(SourceError, match=r"ends early: its header says|expected at most 16777216"):
        open_source(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 16 << 20  # xz takes 9 MiB for its window


def test_zip_claim_that_cannot_be(tmp_path: Path) -> None:
    content = bytearray(zipped(text_words()))
    place = content.rindex(b"PK\1\2")
    content[place + 24 : place + 28] = (1 << 31).to_bytes(4, "little")
    (tmp_path / "x.txt.zip").write_bytes(content)
    refused(tmp_path / "x.txt.zip", "found a claim of 2147483648")


def test_xz_that_needs_a_lot_of_memory(tmp_path: Path) -> None:
    """The size of its window stands in the file: 1.5 GiB at most, by a liar's hand in a file of 100 bytes."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 20}]
    content = bytearray(lzma.compress(text_words(), filters=filters))
    place = content.index(b"\x21\x01") + 2  # filter LZMA2, one byte of properties: the window
    content[place] = 37  # 2 GiB
    size = 4 * (content[12] + 1)
    content[12 + size - 4 : 12 + size] = zlib.crc32(content[12 : 12 + size - 4]).to_bytes(4, "little")
    (tmp_path / "x.txt.xz").write_bytes(content)
    refused(tmp_path / "x.txt.xz", "takes more memory to unpack", "xz -dc")


# ------------------------------------------------------- what is refused, and its remedy


def npy(values: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def follow(error: SourceError, folder: Path) -> None:
    """Run the command that the error names."""
    command = str(error).partition("unpack it first: ")[2].partition(", and give one of ")[0]
    program = command.partition(" ")[0]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    subprocess.run(command, shell=True, check=True, cwd=folder, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("suffix", PACK)
def test_other_formats_are_to_be_unpacked(tmp_path: Path, suffix: str) -> None:
    """Names need no care in a shell."""
    folder = tmp_path / "it's here"
    folder.mkdir()
    path = folder / f"my model.safetensors{suffix}"
    safetensors = pytest.importorskip("safetensors.numpy")
    content = safetensors.save({"w": VALUES})
    path.write_bytes(
        zipped(content, name="my model.safetensors") if suffix == ".zip" else PACK[suffix](content)
    )
    follow(refused(path, "holds no word vectors", "unpack it first: "), folder)
    with open_source(folder / "my model.safetensors") as source:
        assert source.rows == 3


@pytest.mark.parametrize(("suffix", "command"), [(".zst", "zstd"), (".lz4", "lz4")], ids=["zstd", "lz4"])
def test_kinds_that_are_not_read(tmp_path: Path, suffix: str, command: str) -> None:
    if shutil.which(command) is None:
        pytest.skip(f"{command} is not installed")
    (tmp_path / "x.txt").write_bytes(text_words())
    path = tmp_path / f"x.txt{suffix}"
    subprocess.run([command, "-q", tmp_path / "x.txt", path], check=True)
    (tmp_path / "x.txt").unlink()
    follow(refused(path, "Zstandard" if suffix == ".zst" else "LZ4", f"{command} -dc"), tmp_path)
    read_all(tmp_path / "x.txt")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar(tmp_path: Path, mode: Any, tar_format: int) -> None:
    (tmp_path / "x.txt").write_bytes(text_words())
    path = tmp_path / "x.tar"
    with tarfile.open(path, mode, format=tar_format) as archive:
        archive.add(tmp_path / "x.txt", "x.txt")
    (tmp_path / "x.txt").unlink()
    follow(refused(path, "is a tar archive", "tar -xf"), tmp_path)
    read_all(tmp_path / "x.txt")


def test_zip_of_several_files(tmp_path: Path) -> None:
    path = tmp_path / "glove.zip"
    path.write_bytes(zipped({"glove.50d.txt": text_words(), "glove.100d.txt": text_words()}))
    error = refused(path, "is a zip archive of 2 files: expected one", "'glove.50d.txt', 'glove.100d.txt'")
    follow(error, tmp_path)
    read_all(tmp_path / "glove.100d.txt")
    path.write_bytes(zipped({}))
    refused(path, "is a zip archive of 0 files")


@pytest.mark.parametrize("head", [b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07\x01\0"])
def test_kinds_without_a_usual_program(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "x.txt").write_bytes(head + bytes(99))
    refused(tmp_path / "x.txt", "7z archive" if head[:1] == b"7" else "RAR archive", "unpack it first")


def test_member_packed_in_another_way(tmp_path: Path) -> None:
    path = tmp_path / "x.txt.zip"
    path.write_bytes(zipped(text_words(), zipfile.ZIP_BZIP2))
    with pytest.raises(
        SourceError, match="compressed with method 12: expected deflate; unpack it first: unzip"
    ):
        read_all(path)


def test_archives_that_are_formats_stay_such(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", VALUES)
    with open_source(tmp_path / "x.npz") as source:
        assert source.name == "arr_0"
    (tmp_path / "x.zip").write_bytes((tmp_path / "x.npz").read_bytes())
    with open_source(tmp_path / "x.zip") as source:
        assert source.rows == 3
    # Another member first, so that the name alone tells.
    (tmp_path / "y.npz").write_bytes(zipped({"about": b"", "a.npy": npy(VALUES)}, zipfile.ZIP_STORED))
    with open_source(tmp_path / "y.npz") as source:
        assert source.name == "a"


@pytest.mark.parametrize("suffix", PACK)
def test_gzip_of_no_vectors_behind_a_known_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.txt{suffix}"
    path.write_bytes(PACK[suffix](b"no vectors at all\n"))
    refused(path, "line 1 expected a number, found 'vectors'")


def test_python_without_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name, suffix in (("lzma", ".xz"), ("bz2", ".bz2")):
        (tmp_path / f"x.txt{suffix}").write_bytes(PACK[suffix](text_words()))
        monkeypatch.setitem(sys.modules, name, None)
        refused(tmp_path / f"x.txt{suffix}", "which this Python cannot read", "unpack it first")


def test_most_content_is_a_bound(tmp_path: Path) -> None:
    """The best that each packing can do is below what is taken for possible."""
    content = bytes(9_000_000)
    for suffix, pack in PACK.items():
        path = tmp_path / f"x{suffix}"
        path.write_bytes(pack(content))
        with RawFile(str(path)) as file:
            assert byte_stream.most_content(file) >= len(content)


def test_key_files_and_stores_are_not_read_packed(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", VALUES)
    for suffix, pack in PACK.items():
        keys = tmp_path / f"keys.txt{suffix}"
        keys.write_bytes(pack(b"a\nb\nc\n"))
        with pytest.raises(SourceError, match=f"{keys} is an? .*unpack it first: "):
            qstore.build(tmp_path / "m.npy", tmp_path / "store.h5", keys=keys)
        with pytest.raises(qstore.FormatError, match=r"this is an? .*unpack it first: "):
            qstore.open(keys)
    assert gzip.decompress((tmp_path / "keys.txt.gz").read_bytes()) == b"a\nb\nc\n"
