"""One store on its way to the disk: quantized by blocks, journaled, resumable, published whole.

Comes in: chunks of rows, or codes and scales. Goes out: ``NAME.partial`` and ``NAME.journal``, and at the
end the file at its name. `encoder` makes blocks, `unfinished_store` owns both files, `journal` remembers
what is done, `origin` decides whether an interrupted build may be gone on with.

May use: keys, format, engine, system, errors.
"""
