"""One HTML page about a store: tables and pictures, nothing fetched from anywhere, light and dark."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..building.verify_against import AgainstReport, Noted, compared_with
from ..engine.coding import Coding
from ..errors import ExistsError
from ..format.fidelity import Fidelity
from ..keys.supply import MissingKeys, check_missing_keys
from ..sources import TextEncoding
from ..store import Store, StorePath, opened
from ..system.durable_files import atomic_output, output_errors
from ..system.options import check_path, flag
from ..system.progress import Progress
from ..system.reported import jsonable
from ..system.urls import is_url
from . import pictures
from .descriptions import caption, description
from .panels import Facts, Theme, share_of_rows
from .provenance import keys_words, made_by, source_words, store_name
from .row_sample import SampledErrors, errors_of, sample_rows
from .wording import (
    distribution_table,
    fidelity_facts,
    keys_of_rows,
    stats_distributions,
    stats_facts,
    taken_for_zero,
    what_agrees,
    worst_rows,
)

__all__ = ["report"]

# Colors that stand for the page's own, which follow the reader's choice of light or dark.
_SENTINELS = Theme(background="#010101", ink="#020202", faint="#030303", main="#040404", accent="#050505")
_VARIABLES = {
    "#010101": "ground",
    "#020202": "ink",
    "#030303": "faint",
    "#040404": "main",
    "#050505": "accent",
}


@dataclass(frozen=True, eq=False)
class _Page:
    """What the page says."""

    store: Store
    facts: Facts
    against: AgainstReport | None
    made: list[tuple[str, object]]


def report(
    store: Store | StorePath,
    path: str | os.PathLike[str],
    *,
    source: Any = None,
    tensor: str | None = None,
    join: bool = False,
    scale: str | None = None,
    as_stored: bool = False,
    keys: Any = None,
    key_encoding: str | None = None,
    rows: slice | tuple[int, int] | None = None,
    missing_keys: MissingKeys = "error",
    step: float | None = None,
    zero_point: int = 0,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress = None,
) -> None:
    """Write one HTML page about a store. Needs matplotlib: ``pip install "qstore[plot]"``.

    The page holds all its tables and pictures, runs no script and fetches nothing; it is light or dark as
    the reader's system is. All figures are in it once more, in full precision, as JSON in the element
    ``facts``. It names the source, the version of qstore and the command that makes it, and no time: the same
    store and source give the same page.

    Parameters
    ----------
    store : Store or path-like
    path : path-like
        Appears when it is complete.
    source, tensor, join, scale, as_stored, keys, key_encoding, rows, missing_keys, step, zero_point
        What the store was built from, as for :func:`qstore.build`: every code is compared then, and every
        error measured. It is read once. Of several tensors, where no name is given, the one that the store
        was built from.
    overwrite : bool
        Replace an existing file.
    threads : int, optional
    progress : bool or callable, optional

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    ExistsError, OutputError
        The output exists or cannot be written.
    """
    target = Path(os.path.abspath(path))
    pictures.check_installed()
    check_path(path)
    check_missing_keys(missing_keys)
    if key_encoding is not None:
        TextEncoding.parse(key_encoding)
    overwrite = flag("overwrite", overwrite)
    if not overwrite and os.path.lexists(target):
        raise ExistsError(17, f"{target} exists; pass overwrite=True (--force) to replace it", str(target))
    with opened(store) as held:
        against: AgainstReport | None = None
        errors: SampledErrors | None = None
        fidelity: Fidelity | None = None
        if source is not None:
            sample = sample_rows(held, pictures.POINTS)
            noted = Noted(sample)
            against, _ = compared_with(
                held,
                source,
                tensor=tensor,
                join=join,
                scale=scale,
                as_stored=as_stored,
                keys=keys,
                key_encoding=key_encoding,
                rows=rows,
                missing_keys=missing_keys,
                progress=progress,
                coding=Coding(step, zero_point),
                threads=threads,
                noted=noted,
            )
            fidelity = against.fidelity
            if fidelity is not None:
                errors = errors_of(held, sample, noted.figures())
        facts = pictures.gather_facts(held, errors, fidelity, threads=threads, progress=progress)
        about_keys = keys_words(keys, key_encoding, missing_keys)
        about_source = source_words(source, tensor, rows, step, zero_point, join, scale, as_stored)
        page = _Page(held, facts, against, made_by(held, target, source, about_source, about_keys))
        text = "".join(_html(page))
    with output_errors(target), atomic_output(target) as file:
        file.write(text.encode(errors="backslashreplace"))  # names of files may be no text


def _html(page: _Page) -> Iterator[str]:
    name = html.escape(store_name(page.store))
    yield f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{name}</title>\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{name}</h1>\n"
    for warning in page.facts.stats.warnings:
        yield f'<p class="warning">{html.escape(warning)}</p>\n'
    yield from _section("The store", [_table(_store_facts(page.store)), _table(_statistics(page))])
    yield from _errors(page)
    distributions = distribution_table(stats_distributions(page.facts.stats))
    yield from _section("Rows", [_table(distributions, heading=True)])
    yield from _section("Pictures", _pictures(page.facts))
    yield from _section("How this page was made", [_table(page.made)])
    yield "</main>\n"
    yield f'<script type="application/json" id="facts">{_json(page)}</script>\n</body>\n</html>\n'


def _store_facts(store: Store) -> list[tuple[str, object]]:
    return [
        ("tensor", store.tensor or "(no name)"),
        ("built from", store.source_dtype or "(unknown)"),
        ("keys", store.key_kind or "(none)"),
        ("format", f"qstore {'.'.join(map(str, store.format_version))}"),
        ("content id", store.content_id),
        ("size", f"{_size(store)}; {4 * store.size:,} as float32"),
    ]


def _size(store: Store) -> str:
    if is_url(store.path):
        return f"{len(store) * (store.shape[1] + 8):,} bytes of codes and scales"
    return f"{sum(os.stat(shard.path).st_size for shard in store.shards):,} bytes"


def _statistics(page: _Page) -> Iterator[tuple[str, object]]:
    examples = page.facts.stats.duplicates.examples
    repeated = {row for first, second, _ in examples for row in (first, second)}
    return stats_facts(page.facts.stats, keys_of_rows(page.store, sorted(repeated)))


def _fidelity(page: _Page, found: Fidelity) -> list[tuple[str, object]]:
    return fidelity_facts(found, keys_of_rows(page.store, [row for row, _ in worst_rows(found)]))


def _errors(page: _Page) -> Iterator[str]:
    if page.against is not None:
        result = (
            f"{what_agrees(page.against)} agrees" if page.against.ok else "; ".join(page.against.problems)
        )
        result += taken_for_zero(page.against)
        parts = [_table([("compared", f"{page.against.rows:,} rows"), ("result", result)])]
        if page.against.fidelity is not None:
            parts.append(_table(_fidelity(page, page.against.fidelity)))
        yield from _section("Errors against the source", parts)
    elif page.store.fidelity is not None:
        measured = share_of_rows(page.store.fidelity.rows, len(page.store))
        parts = [_table([("measured", measured), *_fidelity(page, page.store.fidelity)])]
        yield from _section("Errors, measured at the build", parts)


def _section(title: str, parts: Iterable[str]) -> Iterator[str]:
    yield f"<section>\n<h2>{html.escape(title)}</h2>\n"
    yield from parts
    yield "</section>\n"


def _table(rows: Iterable[Sequence[object]], heading: bool = False) -> str:
    lines = []
    for number, row in enumerate(rows):
        first, *others = (html.escape(str(cell)) for cell in row)
        cell = "th" if heading and number == 0 else "td"
        lines.append(f"<tr><th>{first}</th>{''.join(f'<{cell}>{one}</{cell}>' for one in others)}</tr>\n")
    kind = "figures" if heading else "facts"
    return f'<div class="scroll"><table class="{kind}">\n{"".join(lines)}</table></div>\n'


def _pictures(facts: Facts) -> Iterator[str]:
    for kind in pictures.available(facts):
        svg = pictures.rendered(pictures.draw(facts, [kind], _SENTINELS), "svg").decode()
        below = f"<figcaption>{html.escape(caption(kind, facts))}</figcaption>"
        yield f'<figure id="{kind}">\n{_inlined(svg, kind, description(kind, facts))}{below}\n</figure>\n'


def _inlined(svg: str, kind: str, what: str) -> str:
    """The picture as an element of the page: in the page's colors, with names of its own."""
    svg = svg[svg.index("<svg") :]
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable})")
    svg = re.sub(r"\bid=\"", f'id="{kind}-', svg)
    svg = re.sub(r"(url\(|href=\")#", rf"\g<1>#{kind}-", svg)
    # The pictures scale with the page. To those who do not see them, each is an image in words.
    begin = f'<svg role="img" aria-label="{html.escape(what)}"'
    return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', lambda box: f"{begin} {box[1]}>", svg, count=1)


def _json(page: _Page) -> str:
    found = {
        "made": dict(page.made),
        "store": dict(_store_facts(page.store)),
        "fidelity": page.store.fidelity,
        "against": page.against,
        "stats": page.facts.stats,
    }
    # "</script>" in a name must not end the element.
    return json.dumps(jsonable(found)).replace("<", "\\u003c")


_STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1f2328; --faint: #d0d7de; --main: #2f6fb3;
  --accent: #c2571a; }
@media (prefers-color-scheme: dark) { :root { --ground: #16181d; --ink: #e6e8eb; --faint: #3a3f47;
  --main: #6ea8e6; --accent: #f0a35e; } }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 0.5rem; border-bottom: 1px solid var(--faint); }
.scroll { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; }
th, td { padding: 0.2rem 1.2rem 0.2rem 0; vertical-align: top; text-align: left; }
.facts th { font-weight: normal; opacity: 0.75; white-space: nowrap; }
.facts td { overflow-wrap: anywhere; }
.figures th, .figures td { border-bottom: 1px solid var(--faint); white-space: nowrap; }
.figures td { text-align: right; font-variant-numeric: tabular-nums; }
.figures tr:first-child th + th { text-align: right; }
.warning { border-left: 4px solid var(--accent); padding: 0.3rem 0.8rem; }
section:has(figure) { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr));
  gap: 1.5rem; }
section:has(figure) h2 { grid-column: 1 / -1; }
figure { margin: 0; min-width: 0; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { font-size: 0.85rem; opacity: 0.8; }
"""
