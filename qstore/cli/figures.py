"""How figures about a matrix are printed, by the commands that have some."""

from __future__ import annotations

from collections.abc import Iterator

from ..distribution import Distribution
from ..fidelity import Fidelity
from .printing import number

__all__ = ["distribution_table", "fidelity_facts"]

_PERCENTILES = ("1", "50", "99")


def distribution_table(measured: dict[str, Distribution]) -> Iterator[tuple[str, ...]]:
    """Rows of a table: a line each."""
    yield "", "least", *(f"{p} %" for p in _PERCENTILES), "largest", "mean"
    for name, found in measured.items():
        percentiles = (found.percentiles[p] for p in _PERCENTILES)
        yield name, *map(number, (found.minimum, *percentiles, found.maximum, found.mean))


def fidelity_facts(found: Fidelity) -> list[tuple[str, object]]:
    """Errors in a few lines."""
    return [
        (
            "error",
            f"root mean square {number(found.rms_error)}, "
            f"{number(found.expected_rms_error)} expected (scale / √12), largest {number(found.max_error)}",
        ),
        (
            "error of a row",
            f"mean {found.relative_error_mean:.3%} of its norm, "
            f"99 % of the rows below {found.relative_error_percentiles['99']:.3%}, "
            f"largest {found.relative_error_max:.3%}",
        ),
        ("cosine", f"mean {found.cosine_mean:.7f}, least {found.cosine_min:.7f}"),
        ("signal to noise", f"{found.snr_db:.1f} dB"),
        ("worst rows", ", ".join(f"{row} ({error:.3%})" for row, error in found.worst_rows[:5]) or "none"),
    ]
