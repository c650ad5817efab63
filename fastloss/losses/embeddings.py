"""Losses of distances and angles between rows of embeddings."""

from ..formula import Flag, Fraction, Interval, Label, NonNegative, PerRow, Positive, maximum, minimum, sqrt, where
from ..formula.registry import row_loss
from ..formula.rows import dot, norm, norm2, total


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

    .. math:: 1 - \frac{x_1 \cdot x_2}{\max(\|x_1\|, \epsilon)\, \max(\|x_2\|, \epsilon)} \qquad \epsilon = 10^{-8}

    From 0 (same direction) to 2 (opposite), as in Optax's `cosine_distance` and, less one, as `cosine_similarity` of PyTorch,
    whose ε this is: a row of zeros has distance 1 from all others and a gradient of the size 1/ε. Keras's `CosineSimilarity`
    is the negative cosine. The value's error is of the size of one rounding of 1, also where the distance is tiny.
    """
    return 1 - dot(x1, x2) / (maximum(norm2(x1), 1e-8) * maximum(norm2(x2), 1e-8))


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
    cosine = dot(x1, x2) / (sqrt(total(x1 * x1) + 1e-12) * sqrt(total(x2 * x2) + 1e-12))
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
    d = norm2(x1 - x2)
    short = maximum(margin - d, 0)
    return 0.5 * same * total((x1 - x2) * (x1 - x2)) + 0.5 * (1 - same) * (short * short)


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
    far = norm(anchor - negative + eps, p)
    if swap:
        far = minimum(far, norm(positive - negative + eps, p))
    return maximum(norm(anchor - positive + eps, p) - far + margin, 0)
