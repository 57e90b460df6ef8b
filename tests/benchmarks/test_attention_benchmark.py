"""The attention benchmark runs at a toy size, and its arithmetic is what its page says."""

import json
import sys

import jax.numpy as jnp
import pytest

from benchmarks import attention, kernel_cases, tilings
from benchmarks.attention import Clock, Row, Work, measure, selection_share, speed_up
from benchmarks.timing import Times

TOY = ["--heads", "2", "--head-dim", "16", "--dtype", "float32", "--seconds", "0.001", "--matmul-size", "64"]


def row(what, seconds, *, blocks=(64, 64), implementation="xla", tokens=1024):
    sparsity = 0.75 if blocks else 0.0
    return Row(Work(tokens, implementation, blocks, sparsity), what, Times(seconds, seconds, 1), 1.0)


def test_a_run_has_a_row_for_every_pass(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.json"
    options = ["--tokens", "256", "--blocks", "64x64", "96x64", "--sparsity", "0.75", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["attention", *TOY, *options, "--implementations", "xla", "cudnn"])
    attention.main()
    told = json.loads(out.read_text())
    timed = {(r["implementation"], r["pass"], r["blocks"] is None) for r in told["rows"] if r["median_ms"]}
    passes = [("forward", True), ("backward", True), *((what, False) for what in attention.FLOP)]
    assert timed == {("xla", *each) for each in passes}
    notes = [r["note"] for r in told["rows"] if not r["median_ms"]]
    assert len(notes) == 2
    assert any("cudnn" in note for note in notes)
    assert any("no multiple of the blocks" in note for note in notes)
    assert {r["density"] for r in told["rows"] if r["blocks"] == [64, 64]} == {0.25}
    assert "not timed: 256 tokens, 96 x 64" in capsys.readouterr().out


def test_executed_work_counts_the_blocks_that_are_attended_to():
    x = (jnp.ones((1, 256, 2, 16)),) * 4
    rows = {row.what: row for row in measure(Work(256, "xla", (64, 32), 0.8), x, Clock(1, 9), 0.001)}
    kept = 1 / 8  # floor(0.2 * 8) of 8 key blocks
    assert rows["forward"].teraflop == pytest.approx(4 * 256 * 256 * 2 * 16 * kept / 1e12)
    assert rows["backward"].teraflop == pytest.approx(10 / 4 * rows["forward"].teraflop)
    assert rows["selection"].rate is None


def test_speed_up_is_over_the_fastest_dense_one_of_the_same_pass_and_size():
    dense = [
        row("forward", 4.0, blocks=None),
        row("forward", 2.0, blocks=None, implementation="cudnn"),
        row("backward", 9.0, blocks=None),
        row("forward", 0.1, blocks=None, tokens=64),
    ]
    forward, alone, backward = row("forward", 0.5), row("attention alone", 0.4), row("backward", 3.0)
    assert [speed_up(each, dense) for each in (forward, alone, backward)] == [4.0, 5.0, 3.0]
    assert speed_up(forward, []) is None
    assert selection_share(row("selection", 0.1), [forward]) == pytest.approx(0.2)


def test_what_fails_is_a_row_that_says_why(monkeypatch):
    def no_memory(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")

    monkeypatch.setattr(attention, "attention", no_memory)
    (only,) = measure(Work(256, "xla"), (jnp.ones((1, 256, 2, 16)),) * 4, Clock(1, 9), 0.001)
    assert (only.times, only.note) == (None, "out of memory")


def test_nothing_is_begun_that_would_take_too_long():
    clock, work = Clock(minutes=1, slowest=5), Work(256, "xla")
    clock.note(row("forward", 2.0, blocks=None))
    assert clock.why_not(work, "forward", 2.0) == ""
    assert "would take some 6 s" in clock.why_not(work, "forward", 3.0)
    assert clock.why_not(Work(256, "cudnn"), "forward", 3.0) == ""
    assert "no time left" in Clock(minutes=0, slowest=5).why_not(work, "forward", 1.0)


def test_a_chart_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks import charts

    rows = [
        {"implementation": "xla", "blocks": blocks, "sparsity": 0.5, "pass": what, "num_tokens": n, "median_ms": n / 9}
        for n in (128, 256)
        for what in ("forward", "backward")
        for blocks in (None, [64, 64], [64, 128])
    ]
    points = [(128, 128 / 9), (256, 256 / 9)]
    assert charts.lines(rows, "forward") == [("xla", None, points), ("xla", 0.5, points)]
    told = {"rows": rows, "heads": 1, "head_dim": 2, "dtype": "float32", "device": "cpu", "date": "2026-01-01"}
    charts.draw(told, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_every_tiling_is_timed(monkeypatch):
    monkeypatch.setattr(tilings, "tilings", lambda _: list(kernel_cases.tilings((32, 32)))[:1])
    x = (jnp.ones((1, 64, 1, 16)),) * 4
    found = list(tilings.rows(tilings.kernels(*x, (32, 32)), (32, 32), 1.0, 0.001))
    assert [(name, tiles) for name, tiles, *_ in found] == [(name, "32 x 32") for name in ("forward", "dq", "dkdv")]
    assert all(float(each[4]) > 0 for each in found)


def test_what_matters_most_is_measured_first(monkeypatch):
    options = ["--tokens", "256", "512", "--blocks", "64x64", "64x32", "--sparsity", "0.75", "0.5"]
    monkeypatch.setattr(sys, "argv", ["attention", *options, "--implementations", "xla", "pallas_triton", "cudnn"])
    works = attention.plan(attention.arguments())
    assert len(works) == len(set(works)) == 2 * (4 + 4 + 1)
    names = [work.implementation for work in works]
    assert set(names[: names.index("xla")]) == {"pallas_triton", "cudnn"}
    assert set(names[names.index("xla") :]) == {"xla"}
    pallas = [(w.blocks, w.sparsity) for w in works if w.implementation == "pallas_triton" and w.num_tokens == 512]
    assert pallas == [(None, 0.0), ((64, 64), 0.75), ((64, 64), 0.5), ((64, 32), 0.75)]
