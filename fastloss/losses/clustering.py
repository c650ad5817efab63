"""Squared distances of rows from centers: those that their labels name, or the nearest ones."""

from ..api import center_loss, nearest_center_loss, row_loss
from ..formula import Class, Shaped
from ..formula.rows import total


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


@center_loss(
    rows=squared_distance,
    x=Shaped(("...", "features")),
    centers=Shaped(("centers", "features")),
    target=Class("centers"),
    differentiable=("x", "centers"),
    reference="Wen et al. (2016), A Discriminative Feature Learning Approach for Deep Face Recognition, ECCV",
    peers={"torch": "(x - centers[target]).square().sum(-1)"},
)
def center(x, centers, target):
    r"""Squared distance of a row from the center that its label names.

    .. math:: \|x - c_t\|^2

    The paper halves it, and moves the centers by a rule of its own; here both gradients are those of the loss. That of `centers`
    is added up in double, in an array of its own unless it is float64, in the order of the rows.
    """
    return ((x - centers[target]) ** 2).sum(-1)


@nearest_center_loss(
    rows=squared_distance,
    x=Shaped(("...", "features")),
    centers=Shaped(("centers", "features"), is_finite=True),
    differentiable=("x", "centers"),
    reference="Lloyd (1982), Least squares quantization in PCM, IEEE Trans. Inf. Theory 28, 129-137",
    peers={"torch": "(x[:, None] - centers).square().sum(-1).amin(-1)"},
)
def kmeans(x, centers):
    r"""Squared distance of a row from the nearest center: the cost that k-means minimises.

    .. math:: \min_k \|x - c_k\|^2

    Not halved; ``reduction="sum"`` is scikit-learn's `inertia_`. ``kmeans.assign(x, centers)`` gives the nearest center's number
    for each row: the first of equally near ones, as far as distances in double can tell, and 0 for a row that holds NaN. `centers`
    must be finite. The gradient is that with the assignment held; the gradient of the sum for a center is 2 n (c - m) with n the
    number of its rows and m their mean, so c less gradient / 2n is Lloyd's step. Products of NumPy's BLAS find the nearest
    center, checked by distances where two are nearly as near. Takes float64 arrays of the shape of `centers` beside the blocks.
    """
    return ((x[..., None, :] - centers) ** 2).sum(-1).min(-1)
