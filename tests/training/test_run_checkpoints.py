"""Checkpoints of a run: every file that a restore reads is verified, and a damaged one falls back to the one before."""

import contextlib
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.checkpoint.checksums import CHECKSUMS, DamagedError
from lcv_jax.training.config import CheckpointsConfig
from lcv_jax.training.folder import BEGUN, WRITTEN_LAST, Checkpoints
from lcv_jax.training.state import TrainState


def state_of(step: int) -> TrainState:
    params = {"blocks": {"kernel": jnp.arange(3000, dtype=jnp.float32) + step}, "bias": jnp.full(3, float(step))}
    return TrainState(
        step=jnp.int32(step),
        skipped=jnp.int32(0),
        key=jnp.zeros(2, jnp.uint32),
        params=params,
        ema=params,
        opt_state=(),
    )


def shapes() -> TrainState:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state_of(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run's folder with checkpoints of steps 4 and 6."""
    run = tmp_path_factory.mktemp("saved") / "run"
    with opened(run) as checkpoints:
        for step in (2, 4, 6):
            checkpoints.save(state_of(step), {"step": step}, step)
        checkpoints.wait()
        assert checkpoints.steps == [6, 4]
    return run


@pytest.fixture
def run(saved, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


@contextlib.contextmanager
def opened(run):
    with contextlib.closing(Checkpoints(run, CheckpointsConfig(keep=2))) as checkpoints:
        yield checkpoints


def assert_restored(restored, step):
    state, data = restored
    jax.tree.map(np.testing.assert_array_equal, state, state_of(step))
    assert data == {"step": step}


def test_a_flipped_bit_in_any_file_is_found_and_the_checkpoint_before_is_taken(run, capsys, flip_bit):
    newest = run / "checkpoints" / "6"
    files = [path for path in sorted(newest.rglob("*")) if path.is_file()]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        flip_bit(path)
        with opened(run) as checkpoints:
            if path.parent == newest and path.name in WRITTEN_LAST:  # nothing is read from them
                assert_restored(checkpoints.resume(shapes()), 6)
                assert not capsys.readouterr().err
            else:
                with pytest.raises(DamagedError, match="6 is damaged"):
                    checkpoints.restore(shapes())
                assert_restored(checkpoints.resume(shapes()), 4)
                told = capsys.readouterr().err
                assert told.startswith(f"warning: {newest} is damaged ({path.relative_to(newest)}")
                assert told.endswith("resuming from the checkpoint before it, of step 4\n")
                assert told.count("\n") == 1
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda newest: shutil.rmtree(newest / "state"), "No such file"),
        (lambda newest: (newest / CHECKSUMS).unlink(), f"it has no {CHECKSUMS}"),
        (lambda newest: (newest / CHECKSUMS).write_text("[" * 100_000), "nested too deeply"),
        (lambda newest: [path.write_bytes(b"") for path in newest.rglob("*") if path.is_file()], "not JSON"),
        (lambda newest: newest.rename(newest.with_name("15")), "it is the checkpoint of step 6"),
    ],
)
def test_damaged_checkpoints_are_moved_away_and_their_steps_saved_again(run, damage, fault, capsys):
    damage(run / "checkpoints" / "6")
    with opened(run) as checkpoints:
        assert_restored(checkpoints.resume(shapes(), move_damaged=True), 4)
        assert fault in capsys.readouterr().err
        checkpoints.save(state_of(6), {"step": 6}, 6)
        checkpoints.wait()
        assert_restored(checkpoints.restore(shapes()), 6)
        assert checkpoints.steps == [6, 4]
    assert len(list((run / "damaged").iterdir())) == 1


def test_the_checkpoint_of_another_run_is_not_resumed_from(run, capsys):
    other = run.parent / "other"
    shutil.copytree(run, other)
    for folder, name in ((run, "one"), (other, "another")):
        (folder / BEGUN).write_text(json.dumps({"run": name}))
        with opened(folder) as checkpoints:
            checkpoints.save(state_of(8), {"step": 8}, 8)
            checkpoints.wait()
    with opened(run) as checkpoints:
        assert_restored(checkpoints.resume(shapes()), 8)
    newest = run / "checkpoints" / "8"
    shutil.rmtree(newest)
    shutil.copytree(other / "checkpoints" / "8", newest)
    with opened(run) as checkpoints:
        assert_restored(checkpoints.resume(shapes()), 6)
    assert f"{newest} is damaged (it is the checkpoint of another run)" in capsys.readouterr().err


def test_a_run_without_an_intact_checkpoint_does_not_resume(run):
    for step in (4, 6):
        (run / "checkpoints" / str(step) / CHECKSUMS).unlink()
    with opened(run) as checkpoints, pytest.raises(ValueError, match=r"no checkpoint in .* is intact: .*6.*; .*4.*"):
        checkpoints.resume(shapes())
