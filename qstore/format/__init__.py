"""The file format: where everything lies in a store's file, and is it exactly so?

Comes in: the size and the bytes of a file nobody trusts. Goes out: checked facts and places
(`layout.Facts`, `layout.Extent`), or a FormatError; for writers, the metadata of a new file.
``docs/format.md`` is the specification. `manifest` is the same for the ``qstore.json`` of a sharded store,
`fidelity` for the dataset of measured errors. No path is opened here but that of a manifest.

May use: engine, system, errors.
"""
