"""Every optimizer of the registry, for one tensor of each size and for many small ones."""

import numpy as np

from fastloss import optimizers

TENSORS = {
    "1 of 10^3": (1, 10**3),
    "1 of 10^6": (1, 10**6),
    "1 of 10^7": (1, 10**7),
    "1,000 of 10^3": (1_000, 10**3),
}


class Step:
    param_names = ("optimizer", "tensors", "dtype")
    params = (optimizers.__all__, list(TENSORS), ["float16", "float32", "float64"])
    rounds = 1
    repeat = (3, 10, 0.5)

    def setup(self, name, tensors, dtype):
        count, size = TENSORS[tensors]
        rng = np.random.default_rng(0)
        params = [rng.standard_normal(size, dtype=np.float32).astype(dtype) for _ in range(count)]
        self.grads = [rng.standard_normal(size, dtype=np.float32).astype(dtype) for _ in range(count)]
        self.optimizer = getattr(optimizers, name)(params)
        self.optimizer.step(self.grads)

    def time_step(self, name, tensors, dtype):
        self.optimizer.step(self.grads)
