"""The camera classifier: what it was trained on is made again by the command, and the shipped weights are right."""

import json

import numpy as np
import pytest

from lcv_jax.curate import main
from lcv_jax.curation.camera import CLASSES, SHIPPED, classify_camera, features, shipped_model
from lcv_jax.curation.camera_training import HELD_OUT, TRAINING, camera_steps, rendered_path, train_camera
from lcv_jax.toy.film_plans import CAMERAS

pytest.importorskip("cv2")
pytest.importorskip("skimage")


def test_shipped_weights_on_pictures_that_training_never_saw():
    right = [
        classify_camera(rendered_path(("coffee", "rocket", "clouds 200"), camera, (99, number)))[0] == camera
        for camera in CLASSES
        for number in range(3)
    ]
    assert np.mean(right) >= 0.9


def test_the_card():
    model = shipped_model()
    assert tuple(model["classes"]) == CLASSES == CAMERAS
    assert SHIPPED.stat().st_size < 200_000
    assert not set(TRAINING) & set(HELD_OUT)
    assert not set(model["trained_on"]["pictures"]) & set(model["held_out"]["pictures"])
    assert model["held_out"]["accuracy"] >= 0.95


def test_training_is_deterministic_and_learns(tmp_path, capsys):
    flags = ["--num-clips", "16", "--num-held-out", "8", "--seed", "5"]
    main(["train-camera", str(tmp_path / "camera.json"), *flags])
    written = json.loads((tmp_path / "camera.json").read_text())
    assert f"accuracy {written['held_out']['accuracy']:.3f} on pictures never seen" in capsys.readouterr().out
    assert written == json.loads(json.dumps(train_camera(num_clips=16, num_held_out=8, seed=5)))
    assert classify_camera(rendered_path(("brick",), "pan_left", (5, 9)), written)[0] == "pan_left"


def test_a_mirrored_path_is_the_mirrored_class():
    rng = np.random.default_rng(0)
    for camera, mirrored in (("pan_left", "pan_right"), ("tilt_up", "tilt_down"), ("zoom_in", "zoom_out")):
        steps = camera_steps(camera, 45, 15.0, rng) * 15
        # What is seen moves against the camera; a zoom is its own way.
        path = steps * np.array((-1, -1, 1, -1))
        assert classify_camera(path)[0] == camera
        assert classify_camera(-path)[0] == mirrored
    assert classify_camera(np.zeros((20, 4)))[0] == "static"


def test_an_empty_path():
    with pytest.raises(ValueError, match="at least one pair of frames"):
        features(np.zeros((0, 4)))
