"""Losses of a linear layer's output, block by block: the output of all rows is never in memory at once."""

from ..formula import Shaped
from ..formula.registry import pair_loss
from ..formula.rows import dot
from .classification import cross_entropy


@pair_loss(
    similarity=dot,
    rows=cross_entropy,
    x=Shaped(("...", "features")),
    weight=Shaped(("classes", "features")),
    bias=Shaped(("classes",), is_optional=True),
    reference="Bridle (1990); in blocks: Hsu et al. (2024), Liger Kernel: Efficient Triton Kernels for LLM Training, arXiv:2410.10989",
    peers={
        "torch": "linear_torch(x, weight, target, bias, class_weight, label_smoothing, z_loss, softcap, temperature)",
    },
)
def linear_cross_entropy(logits, target, **options):
    r"""Cross-entropy of a linear layer's output and the rows' classes, without the logits of all rows in memory.

    .. math:: \mathrm{cross\_entropy}(x W^\top + b, t)

    with W = `weight` and b = `bias` as in `torch.nn.Linear`. Every option of `cross_entropy` is available and means the same. Besides
    inputs, results and a copy of the class weights, a call allocates at most 32 MiB, or one row of logits if that is more, whatever
    the number of rows and classes. A logit that overflows is infinite: the loss is 0 if it is the label's and no other one is, NaN
    if there are several, infinite otherwise. The products are NumPy's: its BLAS has its own threads, whose number may change the
    last bits. In float16 and bfloat16 the gradients of `weight` and `bias` are accumulated in float32, in arrays of their own.
    Apple's `linear_cross_entropy` and Liger's `fused_linear_cross_entropy` are the same loss on GPUs. CuPy arrays and PyTorch
    tensors on a GPU are multiplied by their own library, with at most 256 MiB for logits.
    """
    return cross_entropy(logits, target, **options)
