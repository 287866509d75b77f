"""Docstrings of public functions and methods name every parameter, and what is returned."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import qstore


def public_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in [*qstore.__all__, "open"]:
        found = getattr(qstore, name)
        if inspect.isfunction(found):
            yield name, found
        elif inspect.isclass(found) and found.__module__.startswith("qstore"):
            for inner, method in vars(found).items():
                if inspect.isfunction(method) and not inner.startswith("_"):
                    yield f"{name}.{inner}", method


FUNCTIONS = dict(public_functions())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_and_result_is_described(name: str) -> None:
    text = inspect.getdoc(FUNCTIONS[name]) or ""
    signature = inspect.signature(FUNCTIONS[name])
    described = {
        word
        for line in re.findall(r"^[\w*][\w*, ]*(?= :|$)", text.partition("Parameters\n---")[2], flags=re.M)
        for word in line.split(", ")
    }
    assert [word for word in signature.parameters if word != "self" and word not in described] == []
    given = str(signature.return_annotation)
    assert given == "None" or "Yields\n------" in text or "Returns\n-------" in text, given


@pytest.mark.parametrize(
    "function",
    [
        qstore.plan,
        qstore.plan_all,
        qstore.build,
        qstore.compare,
        qstore.verify_against,
        qstore.append_shards,
        qstore.Store.__getitem__,
        qstore.Store.astype,
        qstore.Writer.append_rows,
        qstore.Writer.append_coded_rows,
        qstore.Writer.check_rows,
        qstore.Writer.check_keys,
        qstore.Writer.expect_keys,
    ],
    ids=lambda function: str(function.__qualname__),
)
def test_errors_are_described(function: Callable[..., Any]) -> None:
    assert re.search(r"^Raises\n------\n\w", inspect.getdoc(function) or "", flags=re.M)
