"""What the tests of keys share: the engines that look keys up."""

from __future__ import annotations

import os

import pytest
from every_engine import native

from qstore.engine import kernels


@pytest.fixture(params=["NumPy", "C"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "NumPy":
        monkeypatch.setattr(kernels, "_native", None)
    elif native is None:
        if os.environ.get("QSTORE_REQUIRE_EXTENSION") == "1":
            pytest.fail("QSTORE_REQUIRE_EXTENSION=1, but the extension is missing")
        pytest.skip("no extension")
    return str(request.param)
