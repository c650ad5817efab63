"""Losses of distances and angles between rows of embeddings."""

from ..formula import (
    Flag,
    Fraction,
    Interval,
    Label,
    NonNegative,
    PerRow,
    Positive,
    maximum,
    minimum,
    sqrt,
    where,
    with_derivative,
)
from ..formula.registry import row_loss
from ..formula.rows import norms, scaled_squares


@row_loss(
    differentiable=("x1", "x2"),
    reference="Salton and McGill (1983), Introduction to Modern Information Retrieval, McGraw-Hill",
    peers={
        "torch": "1 - F.cosine_similarity(x1, x2, -1)",
        "optax": "optax.losses.cosine_distance(x1, x2, epsilon=1e-8)",
    },
)
def cosine_distance(x1, x2):
    r"""One less the cosine of the angle between two rows.

    .. math:: 1 - \frac{x_1 \cdot x_2}{\|x_1\|\, \|x_2\|}

    From 0 (same direction) to 2 (opposite), as in Optax's `cosine_distance` and, less one, as `cosine_similarity` of PyTorch,
    which both divide by at least ε = 1e-8 for each length. Here rows of any size have a direction but a row of zeros: its length
    counts as ε, so that it has distance 1 from all others and a gradient of the size 1/ε. Keras's `CosineSimilarity` is the
    negative cosine. The value's error is of the size of one rounding of 1, also where the distance is tiny.
    """
    first, second, product = scaled_squares(x1, x2, product=True)
    lengths = [where(each.square == 0, 1e-8 * each.scale, each.root) for each in (first, second)]
    slopes = [where(each.square == 0, 0, 0.5 * each.scale / each.root) for each in (first, second)]
    return 1 - _cosine(first, second, product, lengths, slopes)


def _cosine(first, second, product, lengths, slopes, taken=1):
    """The product, times `taken`, over the lengths, whose slopes are those in `half_scaled`; derived by way of sums in range."""
    for each, length, slope in zip((first, second), lengths, slopes, strict=True):
        with_derivative(length, each.half_scaled, slope)
    (l1, l2), (d1, d2) = lengths, slopes
    both = l1 * l2
    cosine = taken * product / both
    by_products = (first.toward(second), taken * first.scale / both, second.toward(first), taken * second.scale / both)
    by_lengths = (first.half_scaled, -(cosine * (d1 * l2)) / both, second.half_scaled, -(cosine * (l1 * d2)) / both)
    return with_derivative(cosine, *by_products, *by_lengths)


@row_loss(
    target=PerRow(Label()),
    margin=Interval(-1.0, 1.0, 0.0),
    differentiable=("x1", "x2"),
    reference="Chopra, Hadsell and LeCun (2005), CVPR; as in torch.nn.CosineEmbeddingLoss",
    peers={
        "torch": "F.cosine_embedding_loss(x1, x2, torch.where(target > 0, 1.0, -1.0).to(x1.dtype), margin=margin, reduction='none')"
    },
)
def cosine_embedding(x1, x2, target, margin):
    r"""Cosine distance of pairs that belong together, cosine beyond `margin` of those that do not.

    .. math:: \begin{cases} 1 - \cos(x_1, x_2) & \text{together} \\ \max(0, \cos(x_1, x_2) - m) & \text{else} \end{cases}
        \qquad \cos(x_1, x_2) = \frac{x_1 \cdot x_2}{\sqrt{(\|x_1\|^2 + \epsilon)(\|x_2\|^2 + \epsilon)}}

    As in PyTorch, with its ε = 1e-12, which differs from that of `cosine_distance`; PyTorch's labels are 1 and -1, here 0 also
    means apart. `margin` m is a cosine.
    """
    first, second, product = scaled_squares(x1, x2, product=True)
    lengths, slopes, taken = [], [], 1
    for each in (first, second):
        # Beside ε the square of what had to be scaled up does not count; then half of the scale is taken off.
        is_up, root = each.scale > 1, sqrt(each.scale)
        length = where(is_up, 1e-6 * root, sqrt(each.square + 1e-12 * (each.scale * each.scale)))
        lengths.append(length)
        slopes.append(where(is_up, 0, 0.5 * each.scale / length))
        taken = taken * where(is_up, 1 / root, 1)
    cosine = _cosine(first, second, product, lengths, slopes, taken)
    return where(target > 0, 1 - cosine, maximum(cosine - margin, 0))


@row_loss(
    same=PerRow(Fraction()),
    margin=Positive(1.0),
    differentiable=("x1", "x2"),
    reference="Hadsell, Chopra and LeCun (2006), Dimensionality Reduction by Learning an Invariant Mapping, CVPR",
    peers={
        "torch": "0.5 * same * (x1 - x2).square().sum(-1)"
        " + 0.5 * (1 - same) * (margin - (x1 - x2).norm(dim=-1)).clamp(min=0).square()"
    },
)
def contrastive(x1, x2, same, margin):
    r"""Squared distance of pairs that belong together, squared shortfall from `margin` of those that do not.

    .. math:: \tfrac12 y\, d^2 + \tfrac12 (1 - y) \max(0, m - d)^2 \qquad d = \|x_1 - x_2\|

    With the paper's factors 1/2, but y = `same` is 1 for pairs that belong together, where the paper's Y is 0; fractions mix.
    TensorFlow Addons leaves the factors out. `margin` has the unit of the embeddings. Pairs that
    coincide have gradient 0, whatever their label.
    """
    (gap,) = scaled_squares(x1 - x2)
    short = maximum(margin - gap.length, 0)
    near = where(same == 0, 0, 0.5 * same * (gap.square / gap.scale / gap.scale))  # the square may be infinite
    return with_derivative(near, gap.half_scaled, 0.5 * same / gap.scale) + 0.5 * (1 - same) * (short * short)


@row_loss(
    margin=Positive(1.0),
    p=Interval(1.0, float("inf"), 2.0, open_high=True, special=(1, 2)),
    swap=Flag(False),
    eps=NonNegative(1e-6),
    differentiable=("anchor", "positive", "negative"),
    reference="Balntas et al. (2016), Learning local feature descriptors with triplets and shallow CNNs, BMVC",
    peers={
        "torch": "F.triplet_margin_loss(anchor, positive, negative, margin=margin, p=p, eps=eps, swap=swap, reduction='none')"
    },
)
def triplet_margin(anchor, positive, negative, margin, p, swap, eps):
    r"""Hinge on how much nearer the anchor is to its positive than to its negative example.

    .. math:: \max(0, d(a, p) - d(a, n) + m) \qquad d(u, v) = \|u - v + \epsilon\|_p

    As in PyTorch, ε added to every coordinate of the difference. `swap` takes the smaller of d(a, n) and d(p, n), the distance
    swap of the reference. FaceNet's loss squares the distances.
    `margin` m and `eps` have the unit of the embeddings. A distance of 0 has gradient 0, and so have coordinates that agree.
    """
    gaps = [anchor - negative + eps, anchor - positive + eps, *([positive - negative + eps] if swap else [])]
    far, near, *others = norms(gaps, p)
    for other in others:
        far = minimum(far, other)
    return maximum(near - far + margin, 0)
