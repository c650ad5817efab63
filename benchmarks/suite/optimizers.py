"""Every optimizer of the registry, for one tensor of each size and for many small ones."""

import numpy as np

from fastloss import optimizers


class Step:
    param_names = ["optimizer", "tensors", "size", "dtype"]
    params = [optimizers.__all__, [1, 1_000], [1_000, 1_000_000, 10_000_000], ["float16", "float32", "float64"]]

    def setup(self, name, tensors, size, dtype):
        if tensors > 1 and size > 1_000:
            raise NotImplementedError("more memory than this is worth")
        rng = np.random.default_rng(0)
        params = [rng.standard_normal(size, dtype=np.float32).astype(dtype) for _ in range(tensors)]
        self.grads = [rng.standard_normal(size, dtype=np.float32).astype(dtype) for _ in range(tensors)]
        self.optimizer = getattr(optimizers, name)(params)
        self.optimizer.step(self.grads)

    def time_step(self, name, tensors, size, dtype):
        self.optimizer.step(self.grads)
