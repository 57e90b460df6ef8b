"""Phases of the distilled schedule, and clips from a Gaussian, whose velocity and Euler steps have closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lcv_jax.diffusion.sampler import sample
from lcv_jax.diffusion.schedule import distilled
from lcv_jax.objectives.consistency_distillation import ConsistencyDistillation, phase_ends
from lcv_jax.objectives.networks import Networks

SHIFT = 5.0
SPACED = np.arange(50, -1, -1) / 50
GRID = SHIFT * SPACED / (1 + (SHIFT - 1) * SPACED)
"""g_0 = 1 to g_50 = 0."""
SHAPE = (4, 1, 2, 3)
MEAN = np.random.default_rng(0).normal(size=SHAPE)
DEVIATION = np.random.default_rng(1).uniform(0.2, 1.5, size=SHAPE)


def ends(num_steps):
    starts = [i * 50 // num_steps for i in range(num_steps)] + [50]
    return [min(end for end in starts if end > k) for k in range(50)]


def gaussian_velocity(t):
    """(a, b) with E[x_0 - noise | x_t = x] = a x + b where x_0 is normal with MEAN and DEVIATION."""
    variance = (1 - t) ** 2 * DEVIATION**2 + t**2
    gain = ((1 - t) * DEVIATION**2 - t) / variance
    return gain, MEAN - gain * (1 - t) * MEAN


TEACHER = np.array([gaussian_velocity(t) for t in GRID])  # 51 x 2 x SHAPE


def walk(k, end):
    """(A, B) of x -> A x + B: the teacher's Euler steps from g_k to g_end."""
    A, B = np.ones(SHAPE), np.zeros(SHAPE)
    for j in range(k, end):
        a, b = TEACHER[j]
        step = GRID[j] - GRID[j + 1]
        A, B = A + step * a * A, B + step * (a * B + b)
    return A, B


def exact_student(num_steps):
    """(a, b) at every point of the grid: the straight line from there to the end of the phase."""
    table = np.zeros_like(TEACHER)
    for k, end in enumerate(ends(num_steps)):
        A, B = walk(k, end)
        table[k] = (A - 1) / (GRID[k] - GRID[end]), B / (GRID[k] - GRID[end])
    return table


def from_table(table):
    """A velocity that is affine in each position, with a pair a point of the grid."""

    def velocity(x_BTHWC, timesteps_BT, text_BLD, text_mask_BL, num_cond_latents):
        point_BT = jnp.argmin(jnp.abs(timesteps_BT[..., None] / 1000 - jnp.asarray(GRID, jnp.float32)), axis=-1)
        pairs = jnp.asarray(table, jnp.float32)[point_BT[:, -1]]
        return pairs[:, 0] * x_BTHWC + pairs[:, 1]

    return velocity


def clips(size, seed=0):
    latents = MEAN + DEVIATION * np.random.default_rng(seed).normal(size=(size, *SHAPE))
    text = np.zeros((size, 1, 1), np.float32)
    return {"latents_BTHWC": latents.astype(np.float32), "text_BLD": text, "text_mask_BL": np.ones((size, 1), bool)}


def sampled(table, num_steps, noise):
    """By the published schedule and the pipeline's sampler."""
    velocity = from_table(table)

    def at(x, t):
        return velocity(x, jnp.full(x.shape[:2], 1000 * t), None, None, 0)

    return np.asarray(jax.jit(lambda x: sample(at, x, jnp.array(distilled(num_steps, SHIFT))))(noise), np.float64)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8, 16, 50])
def test_phases_are_the_steps_of_the_schedule(num_steps):
    assert list(phase_ends(num_steps)) == ends(num_steps)
    edges = sorted({0, *phase_ends(num_steps)})
    np.testing.assert_allclose(GRID[edges], [*distilled(num_steps, SHIFT), 0], rtol=1e-5)


def test_edges_of_few_steps_are_edges_of_more():
    assert set(phase_ends(4)) < set(phase_ends(8)) < set(phase_ends(16))


@pytest.mark.parametrize(("num_steps", "teacher_steps"), [(16, 1), (16, 4), (8, 2), (4, 1)])
def test_the_exact_student_has_no_loss_and_lands_on_the_teacher(num_steps, teacher_steps):
    table = exact_student(num_steps)
    objective = ConsistencyDistillation(num_steps=num_steps, shift=SHIFT, teacher_steps=teacher_steps)
    student, teacher = from_table(table), from_table(TEACHER)
    run = jax.jit(
        lambda batch: objective(Networks(student, teacher, student), batch, jax.random.key(0), num_cond_latents=0)
    )
    losses = run(clips(100))
    np.testing.assert_allclose(np.sort(losses.t_B), np.repeat(GRID[:50][::-1], 2), rtol=1e-5)  # each point twice
    assert float(losses.loss) < 1e-8

    noise = np.random.default_rng(2).normal(size=(16, *SHAPE)).astype(np.float32)
    A, B = walk(0, 50)
    np.testing.assert_allclose(sampled(TEACHER, 50, noise), A * noise + B, atol=1e-4)
    np.testing.assert_allclose(sampled(table, num_steps, noise), A * noise + B, atol=1e-4)
    # The teacher itself misses by far with so few steps: otherwise this would show nothing.
    assert np.abs(sampled(TEACHER, num_steps, noise) - (A * noise + B)).max() > 0.02


@pytest.mark.parametrize("teacher_steps", [2, 4])
def test_restated(shown, evaluate, teacher_steps):
    """Any networks: the student's velocity against the way of teacher, then average, by the time it takes."""
    batch = clips(32)
    student = shown(lambda x, timesteps: jnp.sin(x))
    average = shown(lambda x, timesteps: jnp.cos(x) - timesteps[..., None, None, None] / 1000)
    objective = ConsistencyDistillation(shift=SHIFT, teacher_steps=teacher_steps, distance="huber", huber_width=0.1)
    networks = Networks(student, from_table(TEACHER), average)
    losses = evaluate(objective, networks, batch, jax.random.key(4), num_cond_latents=2)
    x, timesteps, _, _ = student.calls[0]
    np.testing.assert_array_equal(x[:, :2], batch["latents_BTHWC"][:, :2])
    np.testing.assert_array_equal(timesteps[:, :2], 0)
    assert len(average.calls) == (0 if teacher_steps == 4 else 1)  # the longest phase of 16 has 4 intervals
    difference = []
    for one, time in zip(x, timesteps[:, -1] / 1000, strict=True):
        start = k = int(np.argmin(np.abs(GRID - time)))
        end = ends(16)[start]
        y = one.copy()
        for _ in range(teacher_steps):
            if k < end:
                a, b = TEACHER[k]
                y[2:] += (a * y + b)[2:] * (GRID[k] - GRID[k + 1])
                k += 1
        y[2:] += (np.cos(y) - GRID[k])[2:] * (GRID[k] - GRID[end])
        difference.append((np.sin(one) - (y - one) / (GRID[start] - GRID[end]))[2:])
    difference = np.array(difference)
    np.testing.assert_allclose(losses.t_B, timesteps[:, -1] / 1000, rtol=1e-6)
    np.testing.assert_allclose(losses.error_B, np.mean(difference**2, axis=(1, 2, 3, 4)), rtol=2e-3)
    np.testing.assert_allclose(losses.loss, np.mean(np.sqrt(difference**2 + 0.01) - 0.1), rtol=2e-3)


def test_a_student_serves_the_number_of_steps_it_learnt():
    """The table of docs/objectives.md: exact students of a mixture of three Gaussians, at other numbers of steps.

    The error is that of the end point, in units of the data's deviation, against the teacher's 50 steps; shift 12.
    """
    grid = np.array([*distilled(50, 12.0), 0.0])
    centres, widths, shares = np.array([-1.5, 0.4, 1.2]), np.array([0.15, 0.3, 0.1]), np.array([0.3, 0.5, 0.2])

    def velocity(x, t):
        variance = (1 - t) ** 2 * widths**2 + t**2
        off = x[:, None] - (1 - t) * centres
        likelihood = np.log(shares) - np.log(variance) / 2 - off**2 / variance / 2
        posterior = np.exp(likelihood - likelihood.max(axis=1, keepdims=True))
        posterior /= posterior.sum(axis=1, keepdims=True)
        return np.sum(posterior * (centres + ((1 - t) * widths**2 - t) * off / variance), axis=1)

    def walk(x, k, end):
        for j in range(k, end):
            x = x + velocity(x, grid[j]) * (grid[j] - grid[j + 1])
        return x

    noise = np.random.default_rng(0).normal(size=4000)
    want = walk(noise, 0, 50)

    def error(learnt, num_steps):
        x, k = noise, 0
        while k < 50:
            stop, end = phase_ends(num_steps)[k], phase_ends(learnt)[k]
            x = x + (walk(x, k, end) - x) / (grid[k] - grid[end]) * (grid[k] - grid[stop])
            k = stop
        return np.sqrt(np.mean((x - want) ** 2)) / want.std()

    table = [[error(learnt, num_steps) for num_steps in (16, 8, 4)] for learnt in (50, 16, 8, 4)]  # 50: the teacher
    want_table = [[0.32, 0.55, 0.77], [0.0, 0.46, 0.74], [0.11, 0.0, 0.67], [0.18, 0.12, 0.0]]
    np.testing.assert_allclose(table, want_table, atol=0.01)


def test_only_the_student_gets_a_gradient():
    def loss(weights):
        networks = Networks(*(lambda x, *_, weight=weight: weight * x for weight in weights))
        return ConsistencyDistillation()(networks, clips(8), jax.random.key(0), num_cond_latents=1).loss

    student, teacher, average = jax.jit(jax.grad(loss))((1.0, 0.7, 0.9))
    assert float(student) != 0
    assert float(teacher) == float(average) == 0


def test_training_lands_on_the_teacher():
    """From the teacher's own velocities, by gradient and moving average."""
    objective = ConsistencyDistillation(num_steps=8, shift=SHIFT)
    batch = clips(200)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.03, 1500))
    start = jnp.asarray(TEACHER, jnp.float32)

    def step(carry, key):
        table, average, moments = carry

        def loss(table):
            networks = Networks(from_table(table), from_table(TEACHER), from_table(average))
            return objective(networks, batch, key, num_cond_latents=0).loss

        value, gradient = jax.value_and_grad(loss)(table)
        updates, moments = optimizer.update(gradient, moments)
        table = optax.apply_updates(table, updates)
        return (table, optax.incremental_update(table, average, 0.05), moments), value

    keys = jax.random.split(jax.random.key(1), 1500)
    (table, *_), losses = jax.jit(lambda: jax.lax.scan(step, (start, start, optimizer.init(start)), keys))()
    assert losses[-1] < losses[0] / 100
    noise = np.random.default_rng(3).normal(size=(64, *SHAPE)).astype(np.float32)
    A, B = walk(0, 50)
    missed = np.abs(sampled(table, 8, noise) - (A * noise + B)).mean()
    before = np.abs(sampled(TEACHER, 8, noise) - (A * noise + B)).mean()
    assert missed < before / 10, (missed, before)


def test_overfits_a_batch(learn):
    before, after = learn(ConsistencyDistillation(), 1500)
    assert after < before / 10, (before, after)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, r"must lie in 1\.\.50, got 0"),
        ({"num_steps": 51}, "num_steps must lie in 1"),
        ({"shift": 0.0}, "shift must be above 0"),
        ({"teacher_steps": 0}, r"teacher_steps must lie in 1..50"),
        ({"huber_width": 0.0}, "huber_width must be above 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ConsistencyDistillation(**settings)
