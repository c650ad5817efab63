"""Squared distances of rows from centers: from the one that the label names, or from the nearest."""

from ..formula import Class, Nearest, Shaped
from ..formula.registry import pair_loss, row_loss
from ..formula.rows import pick, total


@row_loss(
    differentiable=("x1", "x2"),
    reference="Deza and Deza (2009), Encyclopedia of Distances, Springer",
    peers={"torch": "(x1 - x2).square().sum(-1)"},
)
def squared_distance(x1, x2):
    r"""Squared Euclidean distance between two rows.

    .. math:: \|x_1 - x_2\|^2

    Summed over the row, neither halved nor divided by its length: PyTorch's `mse_loss` is the mean over the row.
    """
    difference = x1 - x2
    return total(difference * difference)


@pair_loss(
    similarity=squared_distance,
    x=Shaped(("...", "features")),
    centers=Shaped(("centers", "features")),
    target=Class("centers"),
    reference="Wen et al. (2016), A Discriminative Feature Learning Approach for Deep Face Recognition, ECCV",
    peers={"torch": "(x - centers[target]).square().sum(-1)"},
)
def center(distances, target):
    r"""Squared distance of a row from the center that its label names.

    .. math:: \|x - c_t\|^2

    The paper halves it, and moves the centers by a rule of its own; here both gradients are those of the loss. The gradient of
    `centers` is accumulated in double in the order of the rows, in an extra array unless it is float64 itself.
    """
    return pick(distances, target)


@pair_loss(
    similarity=squared_distance,
    x=Shaped(("...", "features")),
    centers=Shaped(("centers", "features"), is_finite=True),
    nearest=Nearest("centers"),
    reference="Lloyd (1982), Least squares quantization in PCM, IEEE Trans. Inf. Theory 28, 129-137",
    peers={"torch": "(x[:, None] - centers).square().sum(-1).amin(-1)"},
)
def kmeans(distances, nearest):
    r"""Squared distance of a row from the nearest center: the cost that k-means minimises.

    .. math:: \min_k \|x - c_k\|^2

    Not halved; ``reduction="sum"`` is scikit-learn's `inertia_`. ``kmeans.assign(x, centers)`` returns the index of each row's
    nearest center: the first of those at the same distance, compared in double, and 0 for a row with NaN. `centers` must be
    finite. The gradient is that with the assignment held fixed; for a center and the sum over the rows it is 2 n (c - m), where n
    is the number of its rows and m their mean, so c - gradient / 2n is Lloyd's step. Nearest centers are found by NumPy's matrix
    products, and by distances where two are nearly as near. Takes float64 arrays of the shape of `centers` besides the blocks.
    """
    return pick(distances, nearest)
