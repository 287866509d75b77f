"""What a store answers as an array: operators, NumPy's functions, sums over axes, products, tensors.

Comes in: operands of all kinds of libraries. Goes out: fresh arrays, made a block of rows at a time; or the
answer of an operand that has its own way. `methods` is what a Store inherits; all else is imported when it is
used.

May use: reading, engine, system.
"""
