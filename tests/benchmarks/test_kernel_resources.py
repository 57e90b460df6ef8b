"""The arithmetic and the bookkeeping of the resource table; `make test-compile` makes the table itself."""

import pytest

from benchmarks import kernel_resources
from benchmarks.kernel_cases import cases
from lcv_jax.gpus import described_gpu

PAGE = f"text\n{kernel_resources.BEGIN}\nold\n{kernel_resources.END}\nmore\n"


@pytest.mark.parametrize(
    ("num_warps", "registers", "shared_memory", "expected"),
    [
        (4, 128, 48 * 1024, (4, "registers")),
        (4, 129, 48 * 1024, (3, "registers")),
        (4, 64, 80 * 1024, (2, "shared memory")),
        (8, 168, 100 * 1024, (1, "registers")),
        (32, 16, 0, (2, "threads")),
        (1, 16, 0, (32, "programs")),
        (2, 144, 0, (6, "registers")),
        (4, 64, 227 * 512, (1, "shared memory")),
        (4, 64, 226 * 512, (2, "shared memory")),
        (4, 64, 227 * 1024, (1, "shared memory")),
        (4, 64, 228 * 1024, (0, "shared memory")),
    ],
)
def test_programs_that_fit_a_multiprocessor(num_warps, registers, shared_memory, expected):
    assert kernel_resources.programs_per_core(described_gpu("h200"), num_warps, registers, shared_memory) == expected


def resources(**changes):
    fields = {
        "kernel": "forward", "num_tokens": 64, "blocks": "64 x 64", "tiles": "64 x 64", "num_warps": 4, "num_stages": 2,
        "registers": 128, "shared_memory": 0, "spills": 0, "products": "wgmma", "loop": 300, "waits": "2",
        "programs": 4, "limit": "registers",
    }  # fmt: skip
    return kernel_resources.Resources(**{**fields, **changes})


def test_spills_and_slow_products_are_problems():
    assert resources().problems() == []
    assert "spills 8 bytes" in resources(spills=8).problems()[0]
    assert "no wgmma, products by mma" in resources(products="mma").problems()[0]
    assert "products by none" in resources(products="none").problems()[0]


def test_the_table_takes_its_place_between_the_markers():
    page = kernel_resources.put_between_markers(PAGE, "new")
    assert page == PAGE.replace("old", "new")
    with pytest.raises(ValueError, match="no place for the table"):
        kernel_resources.put_between_markers("text", "new")


def test_a_change_shows_unless_the_versions_changed_too():
    made = "JAX 1, ptxas 1; bfloat16\n\nH200:\n\n| forward | 128 |"
    page = kernel_resources.put_between_markers(PAGE, made.replace("H200:", "H100 and H200:"))
    assert kernel_resources.difference(page, made) == ""
    assert "-| forward | 128 |" in kernel_resources.difference(page, made.replace("| forward | 128 |", ""))
    assert "+| forward | 130 |" in kernel_resources.difference(page, made.replace("128", "130"))
    assert kernel_resources.difference(page, made.replace("128", "130").replace("JAX 1", "JAX 2")) == ""
    assert "+| forward | 128 |" in kernel_resources.difference(PAGE, made)


def test_block_sizes_divide_their_tokens():
    assert len({case.name for case in cases()}) == 10
    for case in cases():
        assert all(case.num_tokens % block == 0 for block in case.blocks or ())


PTX = """
.visible .entry kernel(
$L__BB0_1:
	setp.lt.s32 %p1, %r1, 3;
	@%p1 bra $L__BB0_1;
$L__BB0_2:                              // in a loop
	// begin inline asm
	cp.async.wait_group 2;
	// end inline asm
	wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%f1}, 1;
	@%p2 bra $L__BB0_3;
	ex2.approx.ftz.f32 %f2, %f3;
$L__BB0_3:
	@!%p2 bra.uni $L__BB0_2;
	cp.async.wait_group 0;
	ret;
"""


def test_the_main_loop_is_the_one_with_products():
    loop = kernel_resources.main_loop(PTX)
    assert [line.split()[0] for line in loop] == [
        *("cp.async.wait_group", "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16", "@%p2", "ex2.approx.ftz.f32"),
        "@!%p2",
    ]
    assert kernel_resources.waits_of(loop) == "2"
    assert kernel_resources.main_loop(PTX.replace("wgmma.mma_async", "add")) == []


def test_kernels_of_mosaic_are_read_from_what_it_leaves(tmp_path):
    ptx = PTX.replace("kernel(", "mosaic_dq_mosaic_gpu_kernel(\n)\n.maxntid 384, 1, 1\n{")
    ptx = ptx.replace("\twgmma", "\t{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma").replace("cp.async.wait_group", "fence")
    (tmp_path / "mosaic_dq_0.ptx").write_text(ptx)
    entry = "Compiling entry function 'mosaic_dq_mosaic_gpu_kernel' for 'sm_90a'"
    report = f"{entry}\n 0 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\nUsed 168 registers"
    (tmp_path / "mosaic_dq_0.ptxas").write_text(report)
    launch = "gpu.launch async [%0] blocks(%1) dynamic_shared_memory_size %c167184_i32 {\n"
    (tmp_path / "mosaic_dq_0.mlir-passes.log").write_text(f"func\n{launch}{launch}")
    ((*found, report),) = kernel_resources.mosaic_kernels(tmp_path)
    assert found == ["mosaic_dq", 167184, 4, 12]
    assert report == kernel_resources.Assembled(registers=168, spills=12, products="wgmma", loop=5, waits="")
    assert kernel_resources.mosaic_kernels(tmp_path / "nothing") == []
