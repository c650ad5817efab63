"""The command line, the demo's findings, and the examples of training loops."""

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import fastloss as fl
from fastloss import demo
from fastloss.__main__ import main
from fastloss.demo import digits, linear, race
from fastloss.demo.common import split
from fastloss.demo.network import Network
from fastloss.demo.report import CLOSE, RIGHT
from fastloss.information import extras

EXAMPLES = Path(__file__).parents[1] / "examples"
WIDTH = 80


def python(*arguments, cwd, **environment):
    """Run Python away from the source tree, where the installed package is found."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def fastloss_without(modules, *arguments, cwd):
    """The command line in a process where `modules` cannot be imported."""
    script = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({modules!r})); runpy.run_module('fastloss', run_name='__main__')"
    )
    return python("-c", script, *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def one_blas_thread():
    """As in the demo: on a busy machine the threads of BLAS wait for one another."""
    with pytest.importorskip("threadpoolctl").threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(scope="module")
def classes(one_blas_thread):
    pytest.importorskip("sklearn")
    return digits.digit_classes()


@pytest.fixture(scope="module")
def pairs(one_blas_thread):
    pytest.importorskip("sklearn")
    return digits.digit_pairs()


@pytest.fixture(scope="module")
def raced(one_blas_thread):
    pytest.importorskip("sklearn")
    return race.optimizer_race()


def fact(report, name):
    return re.search(rf"^{name} +(.*)$", report, re.MULTILINE)[1]


def test_info_names_versions_kernels_and_threads(tmp_path):
    done = python("-m", "fastloss", "info", cwd=tmp_path, FASTLOSS_NUM_THREADS="1", FASTLOSS_ISA="")
    assert (done.returncode, done.stderr) == (0, "")
    assert fact(done.stdout, "fastloss") == fl.__version__
    assert fact(done.stdout, "NumPy") == np.__version__
    assert fact(done.stdout, "Python").startswith(sys.version.split()[0])
    assert re.fullmatch(r"1 of \d+ cores", fact(done.stdout, "threads"))
    assert max(map(len, done.stdout.splitlines())) <= WIDTH


def test_info_tells_the_level_in_use_from_what_the_processor_runs(tmp_path):
    pattern = r"(x86-64-v\d|plain) \(the processor runs (x86-64-v\d|plain)\)"
    best = re.fullmatch(pattern, fact(python("-m", "fastloss", "info", cwd=tmp_path, FASTLOSS_ISA="").stdout, "kernels"))
    if best[1] == "plain":
        pytest.skip("this build holds one level")
    assert best[1] == best[2]
    low = python("-m", "fastloss", "info", cwd=tmp_path, FASTLOSS_ISA="v2").stdout
    assert re.fullmatch(pattern, fact(low, "kernels")).groups() == ("x86-64-v2", best[2])


def test_info_works_without_any_optional_package(tmp_path):
    done = fastloss_without(["numba", "numba_cuda", "scipy", "sklearn", "tqdm", "matplotlib"], "info", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_info_lists_the_extras_with_versions():
    found = extras()
    assert {"jit", "cuda", "demo"} <= set(found)
    assert found["jit"].keys() == {"llvmlite", "numba"}
    assert found["cuda"].keys() == {"numba-cuda", "numpy"}
    assert found["test"]["pytest"] == pytest.__version__


def test_a_missing_gpu_is_reported_with_its_extra(tmp_path):
    version = extras()["cuda"]["numba-cuda"]
    done = python("-m", "fastloss", "info", cwd=tmp_path)
    if version:
        assert fact(done.stdout, "GPU") in (f"none: no driver is found (numba-cuda {version})", f"through numba-cuda {version}")
    else:
        assert fact(done.stdout, "GPU") == 'none (numba-cuda comes with pip install "fastloss[cuda]")'


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory):
    """The demo in a process of its own, and the picture that it draws."""
    for module in ("sklearn", "tqdm", "matplotlib"):
        pytest.importorskip(module)
    folder = tmp_path_factory.mktemp("demo")
    return python("-m", "fastloss", "demo", "--plot", folder / "curves.png", cwd=folder), folder / "curves.png"


def test_demo_prints_six_tables_that_fit_the_terminal(demonstration):
    done, file = demonstration
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^\d\. [^:]+", done.stdout, re.MULTILINE) == [
        "1. Linear regression",
        "2. Breast cancer",
        "3. Diabetes",
        "4. Digits",
        "5. Digits",
        "6. Digits",
    ]
    *tables, drawn = done.stdout.splitlines()
    assert drawn == f"picture drawn into {file}"
    assert max(map(len, tables)) <= WIDTH
    losses = [float(line.split()[3]) for line in tables if line.startswith("   loss, epoch")]
    assert len(losses) == 11
    assert losses == sorted(losses, reverse=True)


def test_demo_draws_its_results(demonstration):
    _, file = demonstration
    pixels = pytest.importorskip("matplotlib.image").imread(file)[..., :3]
    assert pixels.shape[1] > pixels.shape[0] > 500
    assert pixels.std() > 0.05


@pytest.fixture(scope="module")
def results(classes, pairs, raced):
    """What the demo's experiments find, in its order."""
    return linear.linear_regression(), linear.breast_cancer(), linear.diabetes(), classes, pairs, raced


@pytest.fixture(scope="module")
def drawn(results):
    return pytest.importorskip("fastloss.demo.figure").draw(*results)


def test_each_panel_is_labelled(drawn, pairs):
    curves, maps = drawn.axes[:4], drawn.axes[4:6]
    for axes in curves:
        assert axes.get_title()
        assert axes.get_xlabel() == "epoch"
        assert axes.get_ylabel()
        assert len(axes.get_legend().get_texts()) == len(axes.lines)
    for axes in maps:
        assert axes.get_title()
        assert axes.get_xlabel()
        assert [text.get_text() for text in axes.texts] == list("0123456789")
        assert len(axes.collections[0].get_offsets()) == len(pairs.digits)


def test_the_panel_of_the_digits_shows_what_its_curves_do_after_the_first_epoch(drawn):
    lowest, highest = drawn.axes[3].get_ylim()
    for line in drawn.axes[3].lines:
        assert lowest < min(line.get_ydata()[1:]) <= max(line.get_ydata()) < highest


def test_the_panels_of_the_race_name_every_optimizer_beside_its_accuracy(drawn, raced):
    fits, knows = drawn.axes[6:]
    for axes in (fits, knows):
        assert axes.get_title()
        assert axes.get_xlabel()
    assert fits.get_yscale() == "log"
    assert [text.get_text() for text in fits.texts] == list(raced.losses)
    drawn.canvas.draw()
    names = [text.get_window_extent() for text in fits.texts]
    assert all(lower.y1 <= upper.y0 + 1 for lower, upper in pairwise(names)), "names overlap"
    dots = [line for line in knows.lines if line.get_marker() == "o"]
    assert [dot.get_xdata()[0] for dot in dots] == list(raced.held_out.values())
    for name, dot in zip(names, dots, strict=True):
        assert knows.transData.transform((0, dot.get_ydata()[0]))[1] == pytest.approx((name.y0 + name.y1) / 2, abs=3)
        assert name.x1 < knows.get_window_extent().x0


@pytest.mark.parametrize("package", ["tqdm", "scikit-learn", "matplotlib"])
def test_demo_without_a_package_says_what_to_install(tmp_path, package):
    modules = {"tqdm": "tqdm", "scikit-learn": "sklearn", "matplotlib": "matplotlib"}
    for other in set(modules) - {package}:
        pytest.importorskip(modules[other])
    plot = ["--plot", "curves.png"] if package == "matplotlib" else []
    done = fastloss_without([modules[package]], "demo", *plot, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf'fastloss demo: {package} must be installed: pip install "fastloss\[demo\]" .*\n', done.stderr)


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("curves.txt", "must end in one of"),
        ("curves", "must end in one of"),
        ("no/where.png", "must lie in a folder that exists"),
    ],
)
def test_demo_refuses_a_file_it_cannot_draw_into_before_training(capsys, tmp_path, monkeypatch, file, remedy):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--plot", file]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"fastloss demo: --plot {remedy}.*, got '{file}'\n", err)


def test_demo_says_when_the_file_cannot_be_written(capsys, tmp_path, monkeypatch, results):
    for module in ("sklearn", "tqdm", "matplotlib"):
        pytest.importorskip(module)
    known = [(lambda _, result=result: result, table) for result, (_, table) in zip(results, demo.EXPERIMENTS, strict=True)]
    monkeypatch.setattr(demo, "EXPERIMENTS", known)  # trained already
    folder = tmp_path / "folder.png"
    folder.mkdir()
    assert main(["demo", "--plot", str(folder)]) == 2
    assert capsys.readouterr().err.startswith(
        f"fastloss demo: --plot must be a file that can be written, got {str(folder)!r} ("
    )


@pytest.mark.parametrize("arguments", [[], ["train"], ["demo", "--plot"]])
def test_a_command_line_that_makes_no_sense_exits_with_2(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("usage: python -m fastloss")


def test_gradient_descent_falls_in_every_epoch():
    losses = linear.linear_regression().losses["gradient descent"]
    assert len(losses) == linear.LINEAR_EPOCHS + 1
    assert np.all(np.diff(losses) < 0)


def test_momentum_and_adam_find_the_line_that_plain_descent_is_still_looking_for():
    result = linear.linear_regression()
    plain, *others = result.weights
    for name in others:
        assert result.weights[name] == pytest.approx([3, 0.5], abs=0.05)
        assert result.weights[name] == pytest.approx(result.exact, abs=2e-3)
        assert result.losses[name][-1] < result.losses[plain][-1]
        assert result.held_out[name] < result.held_out[plain]


def test_logistic_loss_needs_fewer_epochs_than_squared_error():
    pytest.importorskip("sklearn")
    result = linear.breast_cancer()
    logistic, squared, doubled = result.accuracies
    assert len({curve[0] for curve in result.distances.values()}) == 1, "not the same start"
    for curves, reached in ((result.accuracies, lambda c: c >= RIGHT), (result.distances, lambda c: c < CLOSE)):
        first = {name: np.argmax(reached(curve)) for name, curve in curves.items()}
        assert all(reached(curve).any() for curve in curves.values())
        assert 2 * first[logistic] < first[squared]
        assert first[logistic] < first[doubled]
    assert result.held_out[logistic] >= 0.95
    assert result.held_out[logistic] >= result.held_out[squared]


def test_huber_withstands_the_outliers_that_mislead_squared_error():
    pytest.importorskip("sklearn")
    result = linear.diabetes()
    mean = {name: errors[-1] for name, errors in result.errors.items()}
    for found in (mean, result.medians):
        assert found["Huber"] < 0.6 * found["squared error"]
        assert found["Huber"] == pytest.approx(found["squared error, clean targets"], rel=0.05)


def test_the_demo_is_deterministic_and_reports_progress():
    seen = {}

    def track(epochs, name):
        seen[name] = 0
        for epoch in epochs:
            seen[name] += 1
            yield epoch

    first, second = linear.linear_regression(track), linear.linear_regression()
    assert seen == dict.fromkeys(first.losses, linear.LINEAR_EPOCHS)
    for name, losses in first.losses.items():
        assert np.array_equal(losses, second.losses[name])


def test_the_chain_rule_of_the_squared_probability_error():
    logits, target, step = np.array([-2.0, -0.1, 0.3, 4.0]), np.array([1.0, 0.0, 1.0, 0.0]), 1e-6
    value = lambda at: linear._squared_error_of_probability(at, target)[0]  # noqa: E731
    numeric = [(value(logits + step * e) - value(logits - step * e)) / (2 * step) for e in np.eye(4)]
    assert linear._squared_error_of_probability(logits, target)[1] == pytest.approx(numeric, abs=1e-9)


def test_cross_entropy_and_adamw_name_held_out_digits(classes):
    assert classes.clean["cross-entropy"][-1] >= 0.96
    assert classes.clean["label smoothing"][-1] >= 0.96
    for curves in (classes.clean, classes.noisy):
        assert {len(curve) for curve in curves.values()} == {digits.CLASSES_EPOCHS + 1}
        assert len({curve[0] for curve in curves.values()}) == 1, "not the same start"
        assert all(curve[0] < 0.25 for curve in curves.values()), "more than chance before training"


def test_generalized_cross_entropy_withstands_the_wrong_labels_that_cross_entropy_learns(classes):
    plain, _, generalized = classes.noisy
    assert classes.noisy[generalized][-1] > classes.noisy[plain][-1] + 0.02
    assert classes.noisy[generalized][-1] == pytest.approx(classes.clean[generalized][-1], abs=0.05)
    assert classes.learnt[plain] > 2 * classes.learnt[generalized]


def test_the_contrastive_embedding_tells_held_out_digits_apart_where_principal_components_do_not(pairs):
    for shares in (pairs.by_centre, pairs.by_neighbours):
        assert shares["contrastive loss"] >= 0.93
        assert shares["contrastive loss"] > shares["principal components"] + 0.2
    assert pairs.places["contrastive loss"].shape == (len(pairs.digits), 2)
    assert pairs.places["contrastive loss"].dtype == np.float32


def test_the_maps_that_need_no_training_agree_with_their_definitions(pairs):
    decomposition = pytest.importorskip("sklearn.decomposition")
    parts, _ = digits.load()
    exact = decomposition.PCA(2, svd_solver="full").fit(parts.features).transform(parts.held_out_features)
    # An axis has no sign of its own.
    assert np.abs(pairs.places["principal components"]) == pytest.approx(np.abs(exact), abs=1e-4)
    centres = np.stack([parts.features[parts.targets == digit].mean(axis=0) for digit in range(10)])
    nearest = ((parts.held_out_features[:, None] - centres) ** 2).sum(axis=-1).argmin(axis=1)
    assert pairs.by_centre["pixels"] == np.mean(nearest == pairs.digits)


def test_the_digits_are_deterministic_and_report_progress(classes, one_blas_thread):
    seen = []

    def first_epochs(epochs, name):
        seen.append((name, len(epochs)))
        return epochs[:2]

    short = digits.digit_classes(first_epochs)
    for curves, full in ((short.clean, classes.clean), (short.noisy, classes.noisy)):
        for name, curve in curves.items():
            assert np.array_equal(curve, full[name][:3])
    assert len({name for name, _ in seen}) == 6
    assert {epochs for _, epochs in seen} == {digits.CLASSES_EPOCHS}
    one, other = (digits.digit_pairs(first_epochs).places["contrastive loss"] for _ in range(2))
    assert np.array_equal(one, other)
    assert seen[6:] == [("contrastive loss", digits.PAIRS_EPOCHS)] * 2


def test_every_optimizer_of_the_race_learns(raced):
    assert raced.losses.keys() == race.RACERS.keys()
    assert len(raced.losses) == 20, "README says so"
    for name, losses in raced.losses.items():
        assert len(losses) == race.EPOCHS + 1
        assert losses[-1] < 0.05 * losses[0], name
        assert raced.held_out[name] >= 0.94, name
        assert raced.microseconds[name] > 0
    assert len({losses[0] for losses in raced.losses.values()}) == 1, "not the same start"
    last = [losses[-1] for losses in raced.losses.values()]
    assert last == sorted(last)


def test_the_race_is_deterministic_and_reports_progress(raced, one_blas_thread):
    seen = {}

    def first_epochs(epochs, name):
        seen[name] = len(epochs)
        return epochs[:3]

    short = race.optimizer_race(first_epochs)
    assert seen == dict.fromkeys(race.RACERS, race.EPOCHS)
    for name, losses in short.losses.items():
        assert np.array_equal(losses, raced.losses[name][:4]), name


def test_sophias_estimate_is_the_mean_of_its_diagonal():
    rng = np.random.default_rng(5)
    network, inputs = Network((3, 4), rng, dtype=np.float64), rng.standard_normal((6, 3))
    activations = network.activations(inputs)
    estimates = [race._curvature(network, activations, rng) for _ in range(4000)]
    shares = np.exp(activations[-1]) / np.exp(activations[-1]).sum(axis=1, keepdims=True)
    exact = (inputs**2).T @ (shares * (1 - shares)) / 6
    assert np.mean([weights for weights, _ in estimates], axis=0) == pytest.approx(exact, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("name", race.RACERS)
def test_the_learning_rates_of_the_race_are_the_best_of_their_grid(name, one_blas_thread):
    pytest.importorskip("sklearn")
    parts, _ = digits.load()
    grid = [float(f"{first}e{power}") for power in range(-6, 4) for first in (1, 2, 5)]
    place = grid.index(race.RACERS[name][1])
    with np.errstate(over="ignore", invalid="ignore"):  # at twice the rate some diverge
        lower, own, higher = (
            np.mean([race._train(parts, name, lr, range(race.EPOCHS), seed)[0][-1] for seed in range(1, 9)])
            for lr in grid[place - 1 : place + 2]
        )
    # Some have an equally good rate beside their own, and another processor rounds otherwise.
    assert own < 1.2 * np.nanmin([lower, higher])


def test_a_fifth_is_held_out_and_nothing_is_in_both_parts():
    parts = split(np.arange(20)[:, None], np.arange(20), np.random.default_rng(1))
    assert len(parts.held_out_targets) == 4
    assert sorted([*parts.targets, *parts.held_out_targets]) == list(range(20))
    assert np.array_equal(parts.features[:, 0], parts.targets)
    assert np.array_equal(parts.held_out_features[:, 0], parts.held_out_targets)


def test_a_fifth_of_the_labels_is_wrong():
    labels = np.arange(1000) % 10
    noisy = digits._mislabelled(labels, np.random.default_rng(1))
    assert np.array_equal(labels, np.arange(1000) % 10)
    assert np.count_nonzero(noisy != labels) == 200
    assert set(noisy) == set(range(10))


def test_every_image_is_paired_with_one_of_its_digit_and_with_one_of_any():
    labels = np.random.default_rng(1).integers(10, size=500)
    first, second = digits._pairs(labels, np.random.default_rng(2))
    for side in (first, second):
        assert np.array_equal(np.bincount(side), np.full(500, 2))
    assert 0.5 < np.mean(labels[first] == labels[second]) < 0.65


def logistic(outputs):
    return fl.cross_entropy.value_and_grad(outputs, np.array([0, 2, 1, 1, 0, 2]), label_smoothing=0.1)


def paired(outputs):
    value, grads = fl.contrastive.value_and_grad(*np.split(outputs, 2), np.array([1, 0, 0]), margin=2.0)
    return value, np.concatenate(grads)


def differences(value, array, step=1e-6):
    """The numerical gradient of what `value()` makes of `array`."""
    found = np.empty_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + step
        above = value()
        array[index] = kept - step
        found[index] = (above - value()) / (2 * step)
        array[index] = kept
    return found


@pytest.mark.parametrize("sizes", [(4, 3), (4, 5, 3), (4, 6, 5, 3)])
@pytest.mark.parametrize("loss", [logistic, paired])
def test_the_backward_pass_agrees_with_numerical_differences(loss, sizes):
    rng = np.random.default_rng(3)
    network, inputs = Network(sizes, rng, dtype=np.float64), rng.standard_normal((6, 4))
    for bias in network.biases:
        bias[:] = 0.1 * rng.standard_normal(len(bias))
    activations = network.activations(inputs)
    for hidden in activations[1:-1]:
        assert (hidden == 0).any(), "no unit is off"
        assert (hidden > 0).any(), "no unit is on"
    found = network.gradients(activations, loss(activations[-1])[1])
    assert [grad.shape for grad in found] == [parameter.shape for parameter in network.parameters]
    for parameter, grad in zip(network.parameters, found, strict=True):
        numeric = differences(lambda: loss(network(inputs))[0], parameter)
        assert grad == pytest.approx(numeric, abs=1e-8)
    # The last bias moves both of a pair alike.
    assert all(np.abs(grad).max() > 1e-3 for grad in found[:-1])


def test_a_network_is_float32_throughout_and_starts_with_the_variance_of_he():
    network = Network((200, 300, 10), np.random.default_rng(0))
    activations = network.activations(np.ones((7, 200), np.float32))
    grads = network.gradients(activations, fl.cross_entropy.grad(activations[-1], np.arange(7)))
    assert {array.dtype for array in (*network.parameters, *activations, *grads)} == {np.dtype(np.float32)}
    assert [weights.var() * len(weights) for weights in network.weights] == pytest.approx([2, 2], rel=0.1)


def test_the_example_of_a_linear_model_learns(tmp_path):
    done = python(EXAMPLES / "train_linear.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", done.stdout)]
    assert losses[0] > 100 * losses[-1]
    assert losses[:4] == sorted(losses[:4], reverse=True)
    found = [float(number) for number in re.findall(r"-?\d+\.\d*", done.stdout.splitlines()[-1])]
    assert found == pytest.approx([3, -2, 0.5, 1], abs=0.05)


def test_the_example_of_a_training_loop_learns(tmp_path):
    pytest.importorskip("sklearn")
    done = python(EXAMPLES / "training_loop.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    *epochs, last = done.stdout.splitlines()
    losses = [float(re.search(r"loss ([\d.]+)", line)[1]) for line in epochs]
    assert losses[0] > 20 * losses[-1]
    # What was saved and loaded is what was there before.
    assert re.search(r"[\d.]+%", last)[0] == re.search(r"[\d.]+%", epochs[-1])[0]
    assert float(re.search(r"([\d.]+)%", last)[1]) >= 96
    assert list(tmp_path.iterdir()) == []
