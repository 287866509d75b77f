"""From the name of a tensor to its matrix: by the one convention that knows it, as it is, or refused."""

from __future__ import annotations

from collections.abc import Collection

from ...errors import SourceError
from ..base import RowSource, TensorInfo
from ..checks import check_matrix, shortened
from ..containers.tensor_file import TensorFile
from ..quantized import QUANTIZED
from ..tensor_choice import is_matrix, only_matrix, unknown_tensor
from .choice import Choice
from .conventions import CONVENTIONS, Found, refusal, scaled_by_hand
from .described import DescribedTensors
from .family import Family, Neighbours
from .grids import Misfit
from .numbers import CODE_TYPES
from .recipe import Recipe, Vocabulary
from .rows import ScaledCodes, ScaledRows, VocabularyRows, is_lossless, value_type

__all__ = ["listed", "open_tensor"]

_PACKED_TYPES = ("int32", "uint32", "float4_e2m1fn", "float4_e2m1fn_x2")
# Names that are given to codes alone.
_OF_CODES = ("weight_packed", "_weight_qdata", "_data")
_SHOWN = 6


def open_tensor(file: TensorFile, tensor: str | None, choice: Choice) -> RowSource:
    """Source of one matrix of a file of tensors.

    Parameters
    ----------
    file : TensorFile
    tensor : str or None
        Its name, in the file or in the model ("X.weight" for "X.weight_packed"); None: the only matrix.
    choice : Choice

    Raises
    ------
    SourceError
        It looks quantized, and is of no convention, of several, or lacks something; or it cannot be read.
    TensorError
        Several matrices and no name, or a name that is not there.
    """
    neighbours = Neighbours(file)
    if tensor is None:
        if choice.scale is not None:
            raise SourceError(
                f"{file.path}: scale={choice.scale!r} (--scale) needs the name of a tensor that it scales"
            )
        file.check_complete()
        there = listed(file, file.names, choice)
        tensor = only_matrix(file.path, there).name
        if not choice.as_stored:
            _check_others(neighbours, there)
    name = _stored_name(neighbours, tensor)
    if choice.as_stored:
        return file.open(name)
    family = neighbours.family(name)
    found = _by_hand(family, choice.scale) if choice.scale is not None else _recipe(family)
    return _opened(family, found)


def _check_others(neighbours: Neighbours, found: list[TensorInfo]) -> None:
    """Refuse to take one matrix for the only one where another is packed, and it is not clear how."""
    for info in found:
        if len(info.shape) == 2 and not is_matrix(info):
            _recipe(neighbours.family(info.name))


def listed(file: TensorFile, names: Collection[str], choice: Choice) -> list[TensorInfo]:
    """What can be built from those tensors, in the order of their names: families as the one matrix they are.

    Tensors of a convention that does not fit, or of which `names` lacks a part, are listed as they are.
    """
    if choice.as_stored:
        return [file.info(name) for name in sorted(names)]
    neighbours, there = Neighbours(file), set(names)
    found: dict[str, TensorInfo] = {}
    hidden: set[str] = set()
    for name in names:
        family = neighbours.family(name)
        try:
            recipe = _recipe(family)
            recipe = recipe if recipe is not None and there.issuperset(recipe.beside) else None
            info = family.info if recipe is None else _info(file, recipe)
        except SourceError:
            recipe, info = None, family.info
        if recipe is None:
            found.setdefault(name, info)
        else:
            found[recipe.name] = info
            hidden.update(one for one in recipe.beside if one != recipe.name)
    return [found[name] for name in sorted(found) if name not in hidden]


def _info(file: TensorFile, recipe: Recipe | Vocabulary) -> TensorInfo:
    return TensorInfo(
        recipe.name,
        recipe.shape,
        QUANTIZED if isinstance(recipe, Recipe) and is_lossless(file, recipe) else value_type(recipe),
        convention=recipe.how,
        parts=tuple(recipe.beside.values()),
    )


def _rows(file: TensorFile, recipe: Recipe | Vocabulary) -> RowSource:
    return VocabularyRows(file, recipe) if isinstance(recipe, Vocabulary) else ScaledRows(file, recipe)


def _stored_name(neighbours: Neighbours, tensor: str) -> str:
    """Name in the file of a tensor that is asked for by that of the model."""
    names = neighbours.file.names
    if tensor in names:
        return tensor
    parent, dot, leaf = tensor.rpartition(".")
    others = [
        f"{tensor}_packed",
        f"{parent}{dot}_{leaf}_qdata",
        f"{tensor}._data",
        f"{tensor}_blocks",
        f"{tensor}.blocks",
        *(
            [f"{parent}{dot}{one}" for one in ("qweight", "q_weight", "trellis", "W_q")]
            if leaf == "weight"
            else []
        ),
    ]
    found = [name for name in others if name in names]
    if len(found) == 1:
        return found[0]
    raise unknown_tensor(neighbours.file.path, tensor, names)


def _opened(family: Family, found: Found) -> RowSource:
    if found is None:
        source = family.file.open(family.name)
        source.notes = tuple(_note(family))
        return source
    where = f"{family.file.path}: tensor {shortened(repr(found.name))}"
    check_matrix(where, found.shape, "float32")
    if isinstance(found, Recipe) and is_lossless(family.file, found):
        return ScaledCodes(family.file, found)
    return _rows(family.file, found)


def _by_hand(family: Family, scale: str) -> Recipe:
    if not family.has(scale):
        raise unknown_tensor(family.file.path, scale, family.file.names)
    try:
        return scaled_by_hand(family, scale)
    except Misfit as error:
        raise SourceError(
            f"{_where(family)} cannot be scaled by {shortened(repr(scale))}: {error}; name another tensor "
            f"with scale= (--scale), or take the numbers as they are (as_stored=True, --as-stored)"
        ) from None


def _recipe(family: Family) -> Found:
    """That of the one convention which knows the tensor; None where the numbers are what they are."""
    if isinstance(family.file, DescribedTensors):
        try:
            return family.file.recipe(family.name)
        except Misfit as error:
            raise _refused(family, [str(error)]) from None
    known = refusal(family)
    if known is not None:
        raise SourceError(
            f"{_where(family)} is of {known}, which is not read; load it with the library that made it, and "
            f"save its dequantized values (in transformers model.dequantize() and model.save_pretrained(…)), "
            f"or take the numbers as they are (as_stored=True, --as-stored)"
        )
    found: list[Recipe | Vocabulary] = []
    reasons: list[str] = []
    for convention in CONVENTIONS:
        try:
            recipe = convention(family)
        except Misfit as error:
            reasons.append(str(error))
            continue
        if recipe is not None:
            found.append(recipe)
    if len(found) > 1:
        reasons.append(f"it could be {' or '.join(one.how for one in found)}")
    elif found and not reasons:
        unused = [name for name in family.companions() if name not in found[0].beside]
        if not unused:
            return found[0]
        reasons.append(f"nothing is known of {', '.join(map(_quoted, unused[:_SHOWN]))} beside it")
    elif not reasons:
        reasons += _doubts(family)
    if reasons:
        raise _refused(family, reasons)
    return None


def _doubts(family: Family) -> list[str]:
    """Why numbers without a convention may not be what they seem."""
    info = family.info
    looks_quantized = info.dtype in (*CODE_TYPES, *_PACKED_TYPES) and len(info.shape) == 2
    if not looks_quantized or family.is_companion:
        return []
    beside = family.companions()
    if not beside and family.leaf in _OF_CODES:
        return ["its name says that it holds codes, and there are no scales"]
    if beside:
        return ["no convention that is known"]
    if info.dtype in ("int32", "uint32") and family.leaf != "weight":
        return []
    if family.config.found:
        return ["config.json says that the checkpoint is quantized, and no scale is there"]
    if family.neighbours.holds_scales:
        return ["other weights of the checkpoint have scales, and it has none"]
    return []


def _refused(family: Family, reasons: list[str]) -> SourceError:
    beside = list(family.companions().values())
    seen = ", ".join(f"{_quoted(one.name)} {one.dtype} {one.shape}" for one in beside[:_SHOWN])
    more = f" and {len(beside) - _SHOWN} more" if len(beside) > _SHOWN else ""
    return SourceError(
        f"{_where(family)} looks quantized ({family.info.dtype}), and it is not clear how: "
        f"{'; '.join(reasons)}; found beside it: {seen or 'nothing'}{more}; name the tensor that scales it "
        f"(scale=, --scale TENSOR), or take the numbers as they are (as_stored=True, --as-stored)"
    )


def _note(family: Family) -> list[str]:
    info = family.info
    if not info.dtype.startswith(("int", "uint", "float8")) or family.is_companion:
        return []
    if family.name == "embeddings" and family.config.says("embedding_dtype") == "int8":
        return [
            "the scale of Model2Vec's int8 embeddings (the largest value / 127) was never saved: what is "
            "stored are the bare codes, right but for this factor"
        ]
    return [
        f"the source holds {info.dtype} and no scales beside it: its numbers are taken for what they are; if "
        f"they are codes, name the tensor that scales them (scale=, --scale TENSOR)"
    ]


def _where(family: Family) -> str:
    return f"{family.file.path}: tensor {_quoted(family.name)}"


def _quoted(name: str) -> str:
    return shortened(repr(name))
