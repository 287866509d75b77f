"""Tensors of torch: checkpoints, read without torch and without running their pickles, and tensors in memory.

`checkpoint_zip` opens the archive, `restricted_pickle` reads the pickle (opcodes in `pickle_opcodes`, on
the stack of `pickle_machine`, torch's own calls in `pickle_rebuilders`), `checkpoint_pickle` finds tensors in
it (`types`), `tensor_rows` reads their rows. `distributed` puts tensors together that many processes have
saved, from what `distributed_metadata` says of their pieces. `memory_tensor` is for tensors that live in
this process.
"""
