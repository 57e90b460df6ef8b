"""Bytes of a layer's kernels, read from a program's text."""

from benchmarks.layer_bytes import ATTENTION, PRODUCTS, REST, WEIGHTS, kernels_of_layer

PROGRAM = """
HloModule jit_apply, is_scheduled=true

%cut (stack: bf16[3,4,8], index: s32[]) -> bf16[4,8] {
  %stack = bf16[3,4,8]{2,1,0} parameter(0)
  %index = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one = bf16[1,4,8]{2,1,0} dynamic-slice(%stack, %index, %zero, %zero), dynamic_slice_sizes={1,4,8}
  ROOT %copied = bf16[4,8]{1,0} bitcast(%one)
}

%halve (all: bf16[10,8]) -> f32[10,4] {
  %all = bf16[10,8]{1,0} parameter(0)
  %half = bf16[10,4]{1,0} slice(%all), slice={[0:10], [4:8]}
  ROOT %wide = f32[10,4]{1,0} convert(%half)
}

%square (x: f32[10,4]) -> f32[10,4] {
  %x = f32[10,4]{1,0} parameter(0)
  ROOT %squared = f32[10,4]{1,0} multiply(%x, %x)
}

%body (state: (s32[], bf16[10,4], bf16[3,4,8])) -> (s32[], bf16[10,4], bf16[3,4,8]) {
  %state = (s32[], bf16[10,4], bf16[3,4,8]) parameter(0)
  %index.1 = s32[] get-tuple-element(%state), index=0
  %tokens = bf16[10,4]{1,0} get-tuple-element(%state), index=1
  %stack.1 = bf16[3,4,8]{2,1,0} get-tuple-element(%state), index=2
  %weight = bf16[4,8]{1,0} fusion(%stack.1, %index.1), kind=kLoop, calls=%cut
  %matmul = (bf16[10,8]{1,0}, s8[4096]{0}) custom-call(%tokens, %weight), custom_call_target="__cublas$lt$matmul"
  %product = bf16[10,8]{1,0} get-tuple-element(%matmul), index=0
  %halved = f32[10,4]{1,0} fusion(%product), kind=kLoop, calls=%halve
  %squares = f32[10,4]{1,0} fusion(%halved), kind=kLoop, calls=%square
  %attended = bf16[10,4]{1,0} custom-call(%squares, %squares), custom_call_target="x", config={name = "dense_forward"}
  ROOT %next = (s32[], bf16[10,4], bf16[3,4,8]) tuple(%index.1, %attended, %stack.1)
}

ENTRY %main (state: (s32[], bf16[10,4], bf16[3,4,8])) -> (s32[], bf16[10,4], bf16[3,4,8]) {
  %state.1 = (s32[], bf16[10,4], bf16[3,4,8]) parameter(0)
  ROOT %loop = (s32[], bf16[10,4], bf16[3,4,8]) while(%state.1), condition=%more, body=%body
}
"""


def test_operands_count_once_and_slices_as_what_is_cut_out():
    found = [(kernel.kind, kernel.read, kernel.written) for kernel in kernels_of_layer(PROGRAM)]
    assert found == [
        (WEIGHTS, 64 + 4, 64),
        (PRODUCTS, 80 + 64, 160),
        (REST, 80, 160),
        (REST, 160, 160),
        (ATTENTION, 160, 80),
    ]


KEPT = """
%keep (all: f32[3,10,4], x: f32[10,4], index: s32[]) -> f32[3,10,4] {
  %all = f32[3,10,4]{2,1,0} parameter(0)
  %x = f32[10,4]{1,0} parameter(1)
  %index = s32[] parameter(2)
  %zero = s32[] constant(0)
  %one = f32[1,10,4]{2,1,0} bitcast(%x)
  ROOT %kept = f32[3,10,4]{2,1,0} dynamic-update-slice(%all, %one, %index, %zero, %zero)
}

%body"""


def test_what_is_updated_in_place_counts_as_what_is_written():
    line = "  %stored = f32[3,10,4]{2,1,0} fusion(%all.1, %squares, %index.1), kind=kLoop, calls=%keep\n"
    line = f"  %all.1 = f32[3,10,4]{{2,1,0}} get-tuple-element(%state), index=3\n{line}  %attended"
    text = PROGRAM.replace("%body", KEPT.lstrip(), 1).replace("  %attended", line, 1)
    (stored,) = [kernel for kernel in kernels_of_layer(text) if "[3,10,4]" in kernel.shape]
    assert (stored.read, stored.written) == (160 + 4, 160)
