"""`python -m benchmarks.gpu`: every stage at toy sizes, what is left of a stage that dies, and the table made of it."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import overlap, table2
from benchmarks.gpu import parts, training
from benchmarks.gpu.__main__ import STAGES
from benchmarks.gpu.arrays import random_arrays
from benchmarks.gpu.running import Run, Stage, run_stages
from benchmarks.gpu.weights import rows_of
from lcv_jax.kernels.block_select import Selection
from lcv_jax.models.streamed import PackedLayers, fields_of, packed_shapes
from lcv_jax.planning.requests import programs_of
from lcv_jax.sampling.options import SamplingOptions

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_stage_runs_at_a_toy_size_without_what_a_gpu_machine_may_lack(tmp_path):
    for name in ("grain", "tyro", "av"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is not installed')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry-run", "--results", str(tmp_path / "results")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    for each in STAGES:
        record = json.loads((tmp_path / "results" / f"{each.name}.json").read_text())
        assert record["status"] == "done"
        assert record["rows"], each.name
        assert {"device", "versions", "date", "command"} <= set(record)
    assert table2.read_results(tmp_path / "results") == {}  # a dry run measures nothing


def test_a_stage_that_dies_or_takes_too_long_leaves_its_rows_and_the_next_one_runs(tmp_path, monkeypatch):
    package = tmp_path / "stages_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "odd.py").write_text(
        "import os, time\n"
        "def rows(toy, how):\n"
        "    yield {'number': 1}\n"
        "    if how == 'raise': raise ValueError('no such thing')\n"
        "    if how == 'die': os._exit(9)\n"
        "    if how == 'sleep': time.sleep(600)\n"
        "    yield {'number': 2, 'error': 'out of memory'} if how == 'row' else {'number': 2}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = Run(folder=tmp_path, toy=True, command="a test", limit=100, package="stages_of_a_test")
    problems = run_stages([Stage(how, "odd", 25, {"how": how}) for how in ("raise", "die", "row", "end")], run)
    problems += run_stages([Stage("sleep", "odd", 6, {"how": "sleep"})], dataclasses.replace(run, limit=6))
    assert run_stages([Stage("late", "odd", 25, {"how": "end"})], dataclasses.replace(run, limit=1)) == []
    assert not (tmp_path / "late.json").exists()  # nothing is begun without time, nor older results overwritten
    names = ("raise", "die", "row", "end", "sleep")
    records = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in names}
    assert [len(records[name]["rows"]) for name in names] == [1, 1, 2, 2, 1]
    assert [records[name]["status"] for name in names] == ["failed", "failed", "done", "done", "failed"]
    assert problems[0] == "raise: ValueError: no such thing"
    assert problems[1] == "die: its process died: exit status 9"
    assert problems[2] == "row: out of memory"
    assert problems[3].startswith("sleep: stopped after its 6 s")


def test_random_arrays_keep_the_size_of_what_passes():
    shape = jax.ShapeDtypeStruct
    tree = {
        "blocks": {"kernel": shape((3, 64, 128), jnp.bfloat16), "bias": shape((3, 128), jnp.float32)},
        "norm": {"scale": shape((64,), jnp.float32)},
        "conv": {"kernel": shape((3, 3, 16, 8), jnp.float32)},
        "mask": shape((2, 5), jnp.bool_),
        "kept": "text",
    }
    made = random_arrays(tree)
    assert made["kept"] == "text"
    assert made["mask"].all()
    assert (made["norm"]["scale"] == 1).all()
    assert not made["blocks"]["bias"].any()
    kernel = np.asarray(made["blocks"]["kernel"], np.float32)
    assert kernel.std() == pytest.approx(1 / math.sqrt(64), rel=0.02)
    assert abs(kernel.mean()) < 0.002
    assert not np.array_equal(kernel[0], kernel[1])
    assert abs(np.corrcoef(kernel[0].ravel(), kernel[1].ravel())[0, 1]) < 0.05
    assert np.asarray(made["conv"]["kernel"]).std() == pytest.approx(1 / math.sqrt(144), rel=0.05)


def test_layers_that_are_packed_on_the_device_are_read_as_they_were():
    stack = {
        "ffn": {"kernel": jnp.arange(3 * 4 * 5, dtype=jnp.int8).reshape(3, 4, 5), "scale": jnp.ones((3, 5))},
        "attn": {"kernel": jax.random.normal(jax.random.key(0), (3, 7, 33), jnp.bfloat16)},
    }
    rows_PN = rows_of(stack)
    assert rows_PN.shape == packed_shapes(stack).rows_PN.shape
    layer = PackedLayers(rows_PN, fields_of(stack)).layer(rows_PN[1])
    jax.tree.map(np.testing.assert_array_equal, layer, jax.tree.map(lambda leaf: leaf[1], stack))


def test_rows_count_what_generation_runs():
    """Steps and parts of every setting, by the pipeline at full size."""
    runs = {
        "480p": programs_of(parts.TextToVideo(), SamplingOptions(), parts.networks(False)),
        "480p distilled": programs_of(parts.TextToVideo(), SamplingOptions(distilled=True), parts.networks(False)),
        "refine": programs_of(parts.Refine(spatial_only=True), SamplingOptions(), parts.networks(False)),
    }
    ran = {
        name: {p.name: p.times * (p.sampling.steps if p.sampling else 1) for p in programs}
        for name, programs in runs.items()
    }
    assert ran["480p"] == {"encode text": 2, "denoise": 50, "decode": 1}
    assert ran["480p distilled"] == {"encode text": 1, "denoise": 16, "decode": 1}
    assert ran["refine"] == {"upsample": 1, "encode": 1, "encode text": 1, "denoise": 5, "decode": 1}
    by_name = {setting.name: dict(setting.parts()) for setting in table2.SETTINGS}
    assert by_name["480p x 93, guidance"] == {"step_480p_guided": 50, "text": 2, "decode_480p": 1}
    assert by_name["480p x 93, distilled"] == {"step_480p": 16, "text": 1, "decode_480p": 1}
    # The prompt's embedding is there from the first stage.
    refined = {"step_720p_sparse": 5, "encode_720p": 1, "decode_720p": 1}
    assert by_name["480p -> 720p x 93, sparse"] == {**by_name["480p x 93, distilled"], **refined}
    assert all(name in parts.PARTS for row in by_name.values() for name in row)
    shapes = [
        part.arguments[2].shape
        for name in ("step_720p", "step_720p_189")
        for part in parts.programs(parts.PARTS[name], False)
    ]
    assert shapes == [(1, 24, 88, 160, 16), (1, 48, 88, 160, 16)]


def record(name, *rows, toy=False, device="card"):
    facts = {"device": device, "date": "2026-01-01T00:00", "versions": {"jax": "1"}, "command": "x", "error": None}
    return {"stage": name, "toy": toy, "rows": list(rows), **facts}


def part_row(part, seconds, **more):
    return {"part": part, "seconds": seconds, "peak_bytes": int(seconds * 1e9), "planned_bytes": 5e9, **more}


def test_a_row_of_the_table_adds_up_its_parts_and_says_how():
    small, *_ = (s for s in table2.SETTINGS if s.name == "480p x 93, distilled")
    results = {
        "steps": record("steps", part_row("step_480p", 2.0)),
        "text": record("text", part_row("text", 0.5)),
        "autoencoder": record("autoencoder", part_row("decode_480p", 3.0), part_row("encode_720p", 1, error="no")),
    }
    assert table2.total(small, results) == table2.Total(35.5, 32.0, (), False, 3_000_000_000, 5e9)
    whole = {**results, "whole_480p": record("whole_480p", part_row("step_480p", 30.0))}
    assert table2.total(small, whole) == table2.Total(33.5, 30.0, (), True, 3_000_000_000, 5e9)
    (refined,) = (s for s in table2.SETTINGS if s.name == "480p -> 720p x 93")
    assert table2.total(refined, whole).missing == ("step_720p", "encode_720p", "decode_720p")
    text = table2.table(results)
    assert (
        "| 480p x 93, distilled | 16 | 61.3 s | 35.5 s | 32.0 s | extrapolated from a step | 3.0 GB | 5.0 GB |" in text
    )
    assert "| 720p x 93, guidance | 50 | 1,429.5 s | unmeasured | unmeasured |" in text
    assert "- 480p -> 720p x 93: without step_720p, encode_720p, decode_720p" in text


def test_results_of_dry_runs_and_of_several_cards_make_no_table(tmp_path):
    for name, toy, device in (("a", True, "cpu"), ("b", False, "one"), ("c", False, "one")):
        (tmp_path / f"{name}.json").write_text(json.dumps(record(name, toy=toy, device=device)))
    assert set(table2.read_results(tmp_path)) == {"b", "c"}
    (tmp_path / "d.json").write_text(json.dumps(record("d", device="other")))
    with pytest.raises(ValueError, match="several cards, one, other"):
        table2.read_results(tmp_path)


def test_the_page_has_the_table_of_the_results():
    page = (ROOT / "docs" / "speed.md").read_text()
    assert table2.put_between_markers(page, table2.table(table2.read_results(table2.RESULTS))) == page


def test_layers_that_fit_follow_from_two_peaks(monkeypatch):
    found = [
        {"depth": 2, "peak_bytes": 20, "seconds": 1.0, "flops": 1.0},
        {"depth": 4, "peak_bytes": 30, "seconds": 1.5, "flops": 2.0},
    ]
    monkeypatch.setattr(training, "memory_limit", lambda: 100)
    assert training.layers_that_fit(found, most=48) == 2 + math.floor((94 - 20) / 5)
    assert training.layers_that_fit(found, most=8) == 8
    assert training._with_layer(found)["seconds_per_layer"] == 0.25
    monkeypatch.setattr(training, "memory_limit", lambda: None)
    assert training.layers_that_fit(found, most=48) == 0


def test_overlap_of_lists():
    lists = Selection(np.array([[[[0, 1], [1, 2], [3, 4], [3, 4], [5, 0]]]]), np.array([[[2, 2, 2, 2, 1]]]))
    found = overlap.overlap_of(lists, 2, num_keys=8)  # {0, 1} with {1, 2}, {3, 4} with {3, 4}; the fifth is alone
    assert found.overlap == pytest.approx((2 * 1 + 2 * 2) / 8)
    assert found.loads == pytest.approx((3 + 2) / 8)
    assert found.products == pytest.approx(2 * (3 + 2) / 8)
    assert found.chance == pytest.approx((1 - 0.75**2) / (2 * 0.25))
    with pytest.raises(ValueError, match="a group of 8 query blocks needs as many, got 5"):
        overlap.overlap_of(lists, 8, num_keys=8)
