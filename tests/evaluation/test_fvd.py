"""The Fréchet distance against closed forms, and the command with a network of our own."""

import numpy as np
import pytest

from lcv_jax import evaluate
from lcv_jax.data.media_writer import VideoWriter
from lcv_jax.evaluation.fvd import features_of, frechet_distance, i3d
from tests.evaluation.clips import make_run


def gaussian(mean, covariance, number=64, seed=0):
    """Samples whose mean and covariance are exactly these."""
    plain = np.random.default_rng(seed).standard_normal((number, len(mean)))
    plain -= plain.mean(axis=0)
    white = plain @ np.linalg.inv(np.linalg.cholesky(np.cov(plain, rowvar=False).reshape(len(mean), -1))).T
    return white @ np.linalg.cholesky(covariance).T + mean


def test_one_dimension_by_hand():
    a, b = gaussian([0.0], [[1.0]]), gaussian([2.0], [[9.0]], seed=1)
    assert frechet_distance(a, b) == pytest.approx((2 - 0) ** 2 + (3 - 1) ** 2)


def test_covariances_that_do_not_commute():
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(2)
    covariances = [one @ one.T + np.eye(5) for one in rng.standard_normal((2, 5, 5))]
    means = rng.standard_normal((2, 5))
    a, b = (gaussian(mean, cov, seed=seed) for seed, (mean, cov) in enumerate(zip(means, covariances, strict=True)))
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    want = np.sum((means[0] - means[1]) ** 2) + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_fewer_clips_than_dimensions():
    few = np.random.default_rng(3).standard_normal((4, 50))
    assert frechet_distance(few, few + 1) == pytest.approx(50)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), "at least two vectors"),
        (np.zeros((5, 3)), np.zeros((5, 4)), "of one length"),
        (np.full((5, 3), np.nan), np.zeros((5, 3)), "finite"),
    ],
)
def test_what_cannot_be_compared(a, b, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(a, b)


def mean_colour():
    return lambda frames_THWC: frames_THWC.mean(axis=(0, 1, 2))


def test_the_command_finds_noise(tmp_path, capsys):
    runs = {name: make_run(tmp_path / name, 4, noise=noise) for name, noise in (("a", 0), ("b", 0), ("c", 60))}
    found = {}
    for name in ("b", "c"):
        command = ["fvd", runs["a"], runs[name], "--features", "tests.evaluation.test_fvd:mean_colour"]
        evaluate.main([*map(str, command), "--num-frames", "4"])
        told = capsys.readouterr()
        assert "warning: 4 clips are few" in told.err
        found[name] = float(told.out.split()[1].rstrip(":"))
        assert told.out.endswith("4 and 4 clips of 4 frames\n")
    assert found["b"] < 1e-3 < found["c"]


def test_videos_that_are_too_short_are_left_out(tmp_path):
    for name, length in (("long", 5), ("short", 2)):
        with VideoWriter(tmp_path / f"{name}.mp4", fps=8.0, height=16, width=16) as file:
            file.write(np.zeros((length, 16, 16, 3), np.uint8))
    paths = [tmp_path / "long.mp4", tmp_path / "short.mp4", tmp_path / "none.mp4"]
    vectors, failures = features_of(paths, mean_colour(), 4)
    assert vectors.shape == (1, 3)
    assert failures[str(paths[1])] == "2 frames, 4 are needed"
    assert str(paths[2]) in failures


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--features", "nothing"], "module:factory"),
        (["--options", "weights", "/none.pt"], "no such file"),
        (["--num-frames", "0"], "at least 1"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, arguments, message):
    run = str(make_run(tmp_path / "a", 2))
    with pytest.raises(SystemExit) as left:
        evaluate.main(["fvd", run, run, *arguments])
    told = capsys.readouterr().err
    assert left.value.code == 2
    assert message in told
    assert told.count("\n") == 1


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated, and what the weights are published in
def test_the_published_network_gets_what_it_takes(tmp_path):
    torch = pytest.importorskip("torch")

    class Network(torch.nn.Module):
        def forward(self, x, rescale: bool = False, resize: bool = False, return_features: bool = False):
            assert (rescale, resize, return_features) == (True, True, True)
            return x.mean(dim=[2, 3, 4])

    torch.jit.script(Network()).save(str(tmp_path / "network.pt"))
    frames = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    got = i3d(str(tmp_path / "network.pt"))(frames)
    np.testing.assert_allclose(got, frames.mean(axis=(0, 1, 2)), rtol=1e-5)
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(ValueError, match="no TorchScript"):
        i3d(str(tmp_path / "text.pt"))
