"""Losses of a linear layer's output, in blocks of rows: the layer's output is never held whole."""

from ..api import linear_loss
from ..formula import Shaped
from .classification import cross_entropy


@linear_loss(
    rows=cross_entropy,
    x=Shaped(("...", "features")),
    weight=Shaped(("classes", "features")),
    bias=Shaped(("classes",), is_optional=True),
    differentiable=("x", "weight", "bias"),
    reference="Bridle (1990); in blocks: Hsu et al. (2024), Liger Kernel: Efficient Triton Kernels for LLM Training, arXiv:2410.10989",
    peers={
        "torch": "linear_torch(x, weight, target, bias, class_weight, label_smoothing, z_loss, softcap, temperature)",
    },
)
def linear_cross_entropy(x, weight, target, bias=None, **options):
    r"""Cross-entropy between what a linear layer makes of a row and its class, without the logits of all rows in memory.

    .. math:: \mathrm{cross\_entropy}(x W^\top + b, t)

    with W = `weight` and b = `bias` as in `torch.nn.Linear`; every option of `cross_entropy` is there and means the same. Beside
    inputs, results and a copy of the class weights, at most 32 MiB are taken, or one row of logits, whatever the numbers of rows
    and classes. The products are NumPy's: its BLAS has threads of its own, on whose number the last bits may depend. In float16
    and bfloat16 the gradients of `weight` and `bias` are added up in float32, in arrays of their own. Apple's
    `linear_cross_entropy` and Liger's `fused_linear_cross_entropy` are the same loss on GPUs. So is this one, for CuPy's arrays and
    PyTorch's tensors there: by their library's products, with at most 256 MiB for logits.
    """
    logits = x @ weight.T if bias is None else x @ weight.T + bias
    return cross_entropy(logits, target, **options, reduction="none")
