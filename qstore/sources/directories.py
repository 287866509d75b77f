"""Which file of a directory is meant: as libraries lay out their folders, and no guess where it could be two.

A folder of transformers, diffusers or PEFT holds weights under names that these libraries write, beside much
else; sentence-transformers, trainers and the cache of Hugging Face's hub have them in folders of that folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from ..errors import FormatError, SourceError
from ..format.inspection import inspect_file
from ..format.manifest import MANIFEST
from ..system.stand_ins import refused_format
from .addresses import Address, inside
from .checks import shortened
from .containers.checkpoint_index import files_of_index
from .remote_files import open_file
from .safetensors.shards import SHARD
from .torch.checkpoint_zip import TorchZipFormat
from .torch.distributed import DISTRIBUTED_METADATA, is_distributed, refuse_separate

__all__ = ["checkpoint_in"]

# Of files with one stem the first of these is taken: they are the same weights, as pytorch_model.bin beside
# model.safetensors.
_SAME = (
    re.compile(r"(?P<stem>.+?)\.safetensors\.index(?P<variant>\.\w+)?\.json", re.DOTALL),
    re.compile(r"(?P<stem>.+)\.safetensors", re.DOTALL),
    re.compile(r"(pytorch_)?(?P<stem>.+?)\.bin\.index(?P<variant>\.\w+)?\.json", re.DOTALL),
    re.compile(r"pytorch_(?P<stem>.+)\.bin", re.DOTALL),
    re.compile(r"(?P<stem>.+)\.bin", re.DOTALL),
)
# Files that are no others' weights in another format, whatever they are called; parts of one are one.
_ALONE = re.compile(
    r"(.+\.(pt|pth|ckpt))|((?P<gguf>.+?)(-[0-9]{5}(?P<count>-of-[0-9]{5}))?\.gguf)", re.DOTALL
)
# Names that libraries give to weights only; other files of these endings are what their first bytes say.
_WEIGHTS = re.compile(r".*(pytorch|adapter)_model.*", re.DOTALL)
_STATES = re.compile(r"(optimizer|scheduler|scaler|sampler|rng_state|training_args).*", re.DOTALL)
_PART = re.compile(r".*-[0-9]{5}-of-[0-9]{5}\.\w+", re.DOTALL)

# models--NAME/snapshots/COMMIT/0_Transformer
_DEEPEST = 3
_MOST_FILES = 20_000
_SHOWN = 12


def checkpoint_in(directory: str) -> str:
    """Path of the one file in a directory that its weights are in, or that says where they are.

    Or of a directory, where they are in shards without an index, all of which are needed.

    Files in the directory itself come before those in the folders in it. Weights that the name `model` stands
    for come before others, and safetensors before the same in torch's format.

    Raises
    ------
    SourceError
        There is none, there are several (they are named), it is a store already, or it cannot be read.
    """
    folders, names = [directory], []
    for _ in range(_DEEPEST + 1):
        found: list[str] = []
        below: list[str] = []
        for folder in folders:
            files, deeper = _listed(folder)
            weights = [] if folder != directory and _is_state(folder, files) else _weights_in(folder, files)
            found += weights
            names += [os.path.relpath(os.path.join(folder, name), directory) for name in files]
            below += deeper
            _check_few(directory, names)
        if found:
            return _only(directory, found)
        folders = below
    _refuse_parts(directory, names)
    _refuse_stores(directory, names)
    listing = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    raise SourceError(
        f"{directory} is a directory without a checkpoint: expected model.safetensors, pytorch_model.bin, "
        f"model.safetensors.index.json or another file of such a kind in it, found "
        f"{shortened(listing or 'nothing', 1000)}; give the path of a file"
    )


def _listed(folder: str) -> tuple[list[str], list[str]]:
    """Names of the files in a folder, and paths of the folders in it; sorted, without hidden ones."""
    files, folders = _behind_url(folder) if isinstance(folder, Address) else _on_disk(folder)
    files, folders = ([name for name in names if _is_shown(name)] for names in (files, folders))
    if MANIFEST in files:
        raise SourceError(
            f"{folder} is a qstore store of several files already: read it with qstore.open, or join its "
            f"files with qstore concat"
        )
    return sorted(files), [inside(folder, name) for name in sorted(folders)]


def _is_shown(name: str) -> bool:
    return not name.startswith(".") or name == DISTRIBUTED_METADATA


def _on_disk(folder: str) -> tuple[list[str], list[str]]:
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif os.path.isfile(entry.path):
                    files.append(entry.name)
    except OSError as error:
        raise SourceError(f"{folder} cannot be read: {error.strerror}") from error
    return files, folders


def _behind_url(folder: Address) -> tuple[list[str], list[str]]:
    from ..system.remote_objects.opening import list_folder

    return list_folder(folder.url) or ([], [])


def _check_few(directory: str, names: list[str]) -> None:
    if len(names) > _MOST_FILES:
        raise SourceError(
            f"{directory} holds more than {_MOST_FILES} files, too many to look for a checkpoint in: give "
            f"the path of a file"
        )


def _weights_in(folder: str, files: list[str]) -> list[str]:
    """Files that hold all weights of a model, one for each model."""
    by_stem: dict[str, tuple[int, str]] = {}
    for name in files:
        rank, stem = _rank(folder, name)
        if SHARD.fullmatch(name):
            name, stem = "", "shards"
        if stem and (stem not in by_stem or rank < by_stem[stem][0]):
            by_stem[stem] = rank, name
    if "model" in by_stem:
        return [inside(folder, by_stem["model"][1])]
    paths = [inside(folder, name) if name else folder for _, name in by_stem.values()]
    parts = {
        inside(folder, part) for path in paths if path.endswith(".json") for part in files_of_index(path)
    }
    return [path for path in paths if path not in parts]


def _rank(folder: str, name: str) -> tuple[int, str]:
    """Place of a file among those of one stem, and that stem; "" for files that are no weights."""
    if name == DISTRIBUTED_METADATA:
        return 0, name if _begins(folder, name, is_distributed) else ""
    for rank, pattern in enumerate(_SAME):
        found = pattern.fullmatch(name)
        if found and not (name.endswith(".bin") and not _is_torch(folder, name)):
            variant = found.groupdict().get("variant") or ""  # model.fp16.safetensors is the same in one file
            return rank, found["stem"] + variant
    alone = _ALONE.fullmatch(name)
    if alone is None or not (alone["gguf"] or _is_torch(folder, name)):
        return 0, ""
    return 0, f"{alone['gguf']}{alone['count'] or ''}.gguf" if alone["gguf"] else name


def _is_torch(folder: str, name: str) -> bool:
    if _STATES.fullmatch(name):
        return False
    if _WEIGHTS.fullmatch(name):
        return True
    return _begins(folder, name, lambda head: TorchZipFormat().matches(name, head))


def _begins(folder: str, name: str, like: Callable[[bytes], bool]) -> bool:
    """Whether the first bytes of a file are of some kind; not where it cannot be read."""
    try:
        with open_file(inside(folder, name)) as file:
            return like(file.read_bytes(0, min(file.size, 4096)))
    except SourceError:
        return False


def _is_state(folder: str, files: list[str]) -> bool:
    """Whether it is the distributed checkpoint of a trainer's state, as Accelerate's optimizer_0."""
    return DISTRIBUTED_METADATA in files and _STATES.fullmatch(os.path.basename(folder)) is not None


def _refuse_parts(directory: str, names: list[str]) -> None:
    """Refuse what is left of a distributed checkpoint without the file that says what lies where."""
    for name in names:
        if name.endswith(DISTRIBUTED_METADATA) and os.path.basename(name) != DISTRIBUTED_METADATA:
            refuse_separate(os.path.join(directory, name))
    for name in names:
        refused = refused_format(name, b"") if name.endswith(".index") else None
        if refused is not None:
            raise SourceError(f"{os.path.join(directory, name)} is {refused}")
    parts = [name for name in names if name.endswith(".distcp")]
    if parts:
        raise SourceError(
            f"{directory} holds pieces of a torch distributed checkpoint ({shortened(', '.join(parts))}), "
            f"but not {DISTRIBUTED_METADATA}, which says what lies where: get that too (some programs pass "
            f"over names that begin with a dot)"
        )


def _refuse_stores(directory: str, names: list[str]) -> None:
    """Refuse finished stores in the place of what they could be built of."""
    files = [name for name in names if name.endswith(".h5")][:_SHOWN]
    stores = [name for name in files if _is_store(os.path.join(directory, name))]
    if stores:
        raise SourceError(
            f"{directory} holds stores of qstore already ({shortened(', '.join(stores))}), and no "
            f"checkpoint: read one with qstore.open, put them together with qstore concat {directory}/*.h5, "
            f"or give the path of one"
        )


def _is_store(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            inspect_file(file.fileno(), path)
    except (FormatError, OSError):
        return False
    return True


def _only(directory: str, found: list[str]) -> str:
    if len(found) == 1:
        return found[0]
    whose = "files of weights: give the path of one"
    if all(map(_PART.fullmatch, found)):
        whose = (
            "parts of weights, but not the index that says what is in which (NAME.safetensors.index.json or "
            "NAME.bin.index.json): get that too, or give the path of one part"
        )
    names = "".join(f"\n  {path}" for path in found[:_SHOWN])
    more = f"\n  … and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise SourceError(f"{directory} holds {len(found)} {whose}:{names}{more}")
