"""The table in a GPU's memory from which the kernels of a step read which tensors there are: its columns and sizes."""

from . import device

# What a block does of a tensor, in elements: long enough that its look into the table costs nothing.
CHUNK = 128 if device.SIMULATED else 1 << 15
# Of a bucket, in doubles: which variant, whether its gradients' sign is turned, its parameters; and what `advance` makes of them: the
# two factors of what gradients are multiplied by, the second of which is 1 where one number of the dtype will do; the uniforms.
ROOM = 32
FACTORS = 2
# The columns of the table before those of addresses: elements, where its uniforms are, seed, lane, which of the chunks is its first.
FIXED = 5
