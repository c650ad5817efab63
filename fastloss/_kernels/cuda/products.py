"""Products of matrices on a GPU, by the library that the arrays are of: all that a layer before a row loss wants of it."""

from contextlib import nullcontext


def library_of(who, name, array):
    """The library of an array that multiplies matrices."""
    found = {"PyTorch": Torch, "CuPy": CuPy}.get(array.library.name)
    if found is None:
        raise TypeError(
            f"{who}: {name} must be a CuPy array or a PyTorch tensor, whose library multiplies matrices, "
            f"got {type(array.owner).__name__}"
        )
    return found(array)


class CuPy:
    """As NumPy. Of half precision all is computed in float32."""

    def __init__(self, array):
        import cupy

        self._module, self._dtype = cupy, array.owner.dtype
        self.code = "f64" if array.code == "f64" else "f32"
        self.real = cupy.dtype("float64" if self.code == "f64" else "float32")
        self.bytes_of_logit = self.real.itemsize

    def no_gradients(self):
        return nullcontext()

    def empty(self, shape, dtype):
        return self._module.empty(shape, dtype)

    def zeros(self, shape, dtype):
        return self._module.zeros(shape, dtype)

    def rows(self, array, shape, lead):
        """The array as seen from a shape, whose leading dimensions become one."""
        return _rows(self._module.broadcast_to(array, shape), lead)

    def kept(self, rows, counts):
        """The rows, 0 where they do not count."""
        return self._module.where(counts[:, None], rows, rows.dtype.type(0))

    def wide(self, array):
        return array.astype(self.real, copy=False)

    def factor(self, array):
        """What is multiplied in the place of an array in the computation's precision."""
        return array

    def inverse(self, divisor):
        """1 by a number or a 0-d array, 0 where that is 0."""
        if isinstance(divisor, float):
            return 1 / divisor if divisor else 0.0
        return self._module.where(divisor == 0, divisor, 1 / divisor)

    def parts(self, classes, features, room):
        """Slices of the classes: a product that is to be added lies in memory of its own before."""
        return _slices(classes, room // (features * self.real.itemsize))

    def multiply(self, a, b, out):
        self._module.matmul(self.wide(a), self.wide(b), out=out)

    def accumulate(self, to, a, b):
        to += self._module.matmul(self.wide(a), self.wide(b))


class Torch:
    """PyTorch's products add to what is there. Those of bfloat16 are float32, where PyTorch can; float16 has not their range."""

    def __init__(self, array):
        import torch

        self._torch, self._dtype = torch, array.owner.dtype
        self.code = "f64" if array.code == "f64" else "f32"
        self.real = torch.float64 if self.code == "f64" else torch.float32
        self.bytes_of_logit = self.real.itemsize + (self._dtype.itemsize if self._dtype == torch.bfloat16 else 0)
        self._device = array.owner.device

    def no_gradients(self):
        return self._torch.no_grad()

    def empty(self, shape, dtype):
        return self._torch.empty(shape, dtype=dtype, device=self._device)

    def zeros(self, shape, dtype):
        return self._torch.zeros(shape, dtype=dtype, device=self._device)

    def rows(self, array, shape, lead):
        return _rows(self._torch.broadcast_to(array, shape), lead)

    def kept(self, rows, counts):
        return rows.masked_fill(~counts[:, None], 0)

    def wide(self, array):
        return array.to(self.real)

    def factor(self, array):
        return array.to(self._dtype) if self._dtype == self._torch.bfloat16 else array

    def inverse(self, divisor):
        if isinstance(divisor, float):
            return 1 / divisor if divisor else 0.0
        return self._torch.where(divisor == 0, divisor, 1 / divisor)

    def parts(self, classes, features, room):
        return _slices(classes, classes if self._dtype == self.real else room // (features * self.real.itemsize))

    def multiply(self, a, b, out):
        if self._dtype == self.real:
            self._torch.mm(a, b, out=out)
        else:
            out.copy_(self._product(a, b))

    def accumulate(self, to, a, b):
        if self._dtype == self.real:
            to.addmm_(a, b)
        else:
            to += self._product(a, b)

    def _product(self, a, b):
        """The product of factors in half precision, in float32."""
        if a.dtype == b.dtype and a.is_cuda:
            try:
                return self._torch.mm(a, b, out_dtype=self.real)
            except TypeError:  # PyTorch before 2.8
                pass
        return self._torch.mm(self.wide(a), self.wide(b))


def _rows(array, lead):
    if len(lead) == 1:
        return array
    count = 1
    for n in lead:
        count *= n
    return array.reshape((count, *array.shape[len(lead) :]))


def _slices(count, most):
    most = max(1, most)
    return [slice(start, min(start + most, count)) for start in range(0, count, most)]
