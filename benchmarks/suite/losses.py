"""Every loss of the registry, by pass, size and dtype; and what a call costs besides its elements."""

import numpy as np

import fastloss as fl
from fastloss import losses

from .inputs import inputs, outputs


class Loss:
    # With asv's own settings the registry would take an hour.
    warmup_time = 0.02
    sample_time = 0.01
    rounds = 1
    repeat = (3, 10, 0.3)

    def setup(self, name, size, dtype, *_):
        self.loss = getattr(losses, name)
        self.inputs = inputs(self.loss, size, dtype)
        self.grad_out = outputs(self.loss, self.inputs)
        self.hess_out = outputs(self.loss, self.inputs)


class Gradient(Loss):
    """Value and gradient, which training asks for, into memory that is there."""

    param_names = ("loss", "size", "dtype")
    params = (losses.__all__, [1_000, 1_000_000], ["float16", "float32", "float64"])

    def time_value_and_grad(self, name, size, dtype):
        self.loss.value_and_grad(*self.inputs, grad_out=self.grad_out)


class Value(Loss):
    """The value alone, at a size that stays in the caches."""

    param_names = ("loss", "size", "dtype")
    params = (losses.__all__, [100_000], ["float32", "float64"])

    def time_value(self, name, size, dtype):
        self.loss(*self.inputs)


class Hessian(Loss):
    """All that a pass can give, of the losses that have a Hessian."""

    param_names = ("loss", "size", "dtype")
    params = (losses.__all__, [100_000], ["float32", "float64"])

    def setup(self, name, *arguments):
        if name in losses.BLOCKS:
            raise NotImplementedError  # to asv: there is none
        super().setup(name, *arguments)

    def time_value_grad_hess(self, name, size, dtype):
        self.loss.value_grad_hess(*self.inputs, grad_out=self.grad_out, hess_out=self.hess_out)


class Memory(Loss):
    """Arrays far larger than the caches, on one thread and on all."""

    param_names = ("loss", "size", "dtype", "threads")
    params = (losses.__all__, [10_000_000], ["float32"], ["one", "all"])
    repeat = (3, 5, 0.5)

    def setup(self, name, size, dtype, threads):
        super().setup(name, size, dtype)
        if threads == "one":
            fl.set_num_threads(1)

    def time_value_and_grad(self, name, size, dtype, threads):
        self.loss.value_and_grad(*self.inputs, grad_out=self.grad_out)


class Rows:
    """Cross-entropy of rows as they come: many short ones, a network's classes, a vocabulary, one very long row."""

    param_names = ("shape", "layout")
    params = (["64 x 10", "1000000 x 3", "100000 x 10", "4096 x 1000", "512 x 32000", "1 x 4000000"], ["rows", "axis 0"])

    def setup(self, shape, layout):
        rng = np.random.default_rng(0)
        rows, length = map(int, shape.split(" x "))
        self.axis = -1 if layout == "rows" else 0
        self.logits = rng.standard_normal((rows, length) if layout == "rows" else (length, rows), dtype=np.float32)
        self.labels = rng.integers(0, length, rows)
        self.soft = np.full_like(self.logits, 1 / length)
        self.grad_out = np.zeros_like(self.logits)

    def time_value_and_grad(self, shape, layout):
        fl.cross_entropy.value_and_grad(self.logits, self.labels, axis=self.axis, grad_out=self.grad_out)

    def time_with_every_option(self, shape, layout):
        options = {"label_smoothing": 0.1, "z_loss": 1e-4, "softcap": 30.0, "axis": self.axis}
        fl.cross_entropy.value_and_grad(self.logits, self.labels, grad_out=self.grad_out, **options)

    def time_probabilities(self, shape, layout):
        fl.cross_entropy.value_and_grad(self.logits, self.soft, axis=self.axis, grad_out=self.grad_out)

    def time_hessian_vector_product(self, shape, layout):
        fl.cross_entropy.hvp(self.logits, self.labels, vector=self.soft, axis=self.axis, out=self.grad_out)

    def time_side_outputs(self, shape, layout):
        outputs = ("value", "grad", "logsumexp", "correct")
        fl.cross_entropy.evaluate(self.logits, self.labels, outputs=outputs, axis=self.axis, grad_out=self.grad_out)


class LinearLayer:
    """A language model's last layer: time, and the process's peak memory, of which inputs and results are 130 MiB."""

    def setup(self):
        rng = np.random.default_rng(0)
        self.x, self.weight = (rng.standard_normal(shape, dtype=np.float32) for shape in ((512, 512), (32_000, 512)))
        self.labels = rng.integers(0, 32_000, 512)
        self.grad_out = np.zeros_like(self.x), np.zeros_like(self.weight)

    def time_value_and_grad(self):
        fl.linear_cross_entropy.value_and_grad(self.x, self.weight, self.labels, grad_out=self.grad_out)

    def peakmem_value_and_grad(self):
        fl.linear_cross_entropy.value_and_grad(self.x, self.weight, self.labels, grad_out=self.grad_out)


class Call:
    """Ten elements: the price of a call. One formula serves, as all go the same way."""

    def setup(self):
        self.pred, self.target = inputs(fl.huber, 10)
        self.weights = np.ones(10, np.float32)
        self.grad_out = np.zeros_like(self.pred)
        self.listed = self.target.tolist()

    def time_value(self):
        fl.huber(self.pred, self.target)

    def time_value_and_grad(self):
        fl.huber.value_and_grad(self.pred, self.target)

    def time_into_given_output(self):
        fl.huber.value_and_grad(self.pred, self.target, grad_out=self.grad_out)

    def time_with_hyperparameter(self):
        fl.huber.value_and_grad(self.pred, self.target, delta=2.0, grad_out=self.grad_out)

    def time_with_weights(self):
        fl.huber.value_and_grad(self.pred, self.target, sample_weight=self.weights, grad_out=self.grad_out)

    def time_per_element(self):
        fl.huber(self.pred, self.target, reduction="none")

    def time_with_list(self):
        fl.huber.value_and_grad(self.pred, self.listed, grad_out=self.grad_out)


class Layout:
    """What arrays that are not plain cost, at a size where the loads are all there is."""

    param_names = ("layout",)
    params = (["plain", "strided", "reversed", "transposed", "broadcast", "integers", "in place", "weighted"],)

    def setup(self, layout):
        pred, target = inputs(fl.huber, (1000, 1000))
        self.arguments = {"grad_out": np.zeros_like(pred)}
        if layout == "strided":
            pred = np.repeat(pred, 2, axis=1)[:, ::2]
        elif layout == "reversed":
            pred = pred[::-1, ::-1]
        elif layout == "transposed":
            pred = pred.T
        elif layout == "broadcast":
            target = target[:, :1]
        elif layout == "integers":
            target = target.astype(np.int32)
        elif layout == "in place":
            self.arguments["grad_out"] = pred
        elif layout == "weighted":
            self.arguments["sample_weight"] = np.ones_like(pred)
        self.inputs = pred, target

    def time_value_and_grad(self, layout):
        fl.huber.value_and_grad(*self.inputs, **self.arguments)
