"""Conversion of the released reward models: strict, LoRA merged exactly, and one line for what is wrong."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lcv_jax.checkpoint.judge_conversion import convert_judge, load_judge_config, load_judge_params
from lcv_jax.checkpoint.judge_source import open_judge
from lcv_jax.checkpoint.judge_templates import read_templates
from lcv_jax.checkpoint.safetensors_files import open_safetensors
from lcv_jax.checkpoint.torch_files import open_torch_file
from lcv_jax.convert import Arguments, run

ROOT = Path(__file__).parent.parent.parent
PUBLISHED = ROOT / "tests" / "golden" / "rewards"
RUBRIC = "\nHow good is this picture of {text_prompt}\n"
VIDEO = "\nLooks <|VQ_reward|>\nMoves <|MQ_reward|>\nShows {text_prompt}\nFits <|TA_reward|>\n"
TEMPLATES = {
    "hpsv3": {"instruction": RUBRIC, "prompt_with_special_token": "\nAnswer: <|Reward|>\n"},
    "videoalign": {"detailed_special": VIDEO},
}


@pytest.fixture
def templates(tmp_path):
    path = tmp_path / "templates.json"
    path.write_text(json.dumps(TEMPLATES))
    return path


@pytest.fixture
def copy_of(tmp_path):
    def copy(name):
        shutil.copytree(PUBLISHED / name, tmp_path / name)
        return tmp_path / name

    return copy


def read_weights(path):
    file = open_safetensors(path)
    # bfloat16 does not go through the library's writer: the values do.
    return {tensor.name: file.read(tensor).astype(np.float32) for tensor in file.tensors}


def edit_hpsv3(folder, change):
    weights = read_weights(folder / "HPSv3.safetensors")
    change(weights)
    save_file(weights, folder / "HPSv3.safetensors")


def test_the_command_converts(tmp_path, templates):
    command = [sys.executable, "convert_torch_weights.py", str(PUBLISHED / "hpsv3"), str(tmp_path / "judge")]
    options = ["--judge", "hpsv3", "--templates", str(templates)]
    subprocess.run([*command, *options], cwd=ROOT, check=True, capture_output=True)
    cfg = load_judge_config(tmp_path / "judge")
    assert (cfg.kind, cfg.head_widths, cfg.num_embeddings) == ("hpsv3", (1024, 16, 2), 1015)
    assert (cfg.before_caption, cfg.after_caption.split("<|im_end|>")[0]) == (
        "<|vision_end|>\nHow good is this picture of ",
        "\n\nAnswer: <|Reward|>\n",
    )


def test_options_that_do_not_go_together(tmp_path, templates):
    source = PUBLISHED / "hpsv3"
    for options, message in (
        ({"judge": "hpsv3", "dest": tmp_path / "judge"}, "--judge needs --templates FILE"),
        ({"templates": templates, "dest": tmp_path / "judge"}, "give --judge too"),
        ({"judge": "hpsv3", "templates": templates}, "give DEST, the folder to write, or --check"),
        ({"judge": "hpsv3", "templates": templates, "check": True, "to_torch": True}, "leave out --to-torch"),
    ):
        with pytest.raises(ValueError, match=message):
            run(Arguments(source=source, **options))
    run(Arguments(source=source, judge="hpsv3", templates=templates, check=True))


def test_lora_is_merged(tmp_path, templates):
    convert_judge(open_judge(PUBLISHED / "videoreward", "videoreward", templates), tmp_path / "judge")
    cfg = load_judge_config(tmp_path / "judge")
    params = load_judge_params(tmp_path / "judge", cfg)
    file = open_torch_file(PUBLISHED / "videoreward" / "checkpoint-7" / "model.pth")
    published = {tensor.name: file.read(tensor).astype(np.float64) for tensor in file.tensors}
    prefix = "base_model.model.model.layers.2.mlp.up_proj"
    factors = [published[f"{prefix}.lora_{letter}.default.weight"] for letter in "BA"]
    merged = published[f"{prefix}.base_layer.weight"] + 8 / 4 * factors[0] @ factors[1]
    kernel = np.asarray(params["model"]["layers"]["mlp"]["up_proj"]["kernel"])
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(kernel[2], merged.T, rtol=1e-6, atol=1e-7)
    assert cfg.statistics[0] == (3.6757, 2.2476)
    assert cfg.num_embeddings == 1017


def test_everything_wrong_is_in_one_error(copy_of, templates):
    folder = copy_of("hpsv3")

    def change(weights):
        del weights["model.layers.1.mlp.up_proj.weight"], weights["rm_head.3.bias"], weights["lm_head.weight"]
        weights["model.layers.9.extra"] = np.zeros(3, np.float32)
        weights["visual.merger.ln_q.weight"] = np.zeros(5, np.float32)

    edit_hpsv3(folder, change)
    with pytest.raises(ValueError, match="does not fit its config") as error:
        open_judge(folder, "hpsv3", templates)
    assert "3 missing: " in str(error.value)
    for part in ("up_proj.weight", "rm_head.3.bias", "lm_head.weight", "1 unexpected: model.layers.9.extra"):
        assert part in str(error.value)
    assert "visual.merger.ln_q.weight is (5,), wanted (32,)" in str(error.value)


@pytest.mark.parametrize("missing", ["lora_A", "lora_B", "both"])
def test_low_rank_factors_come_in_pairs(tmp_path, copy_of, templates, missing):
    layout = copy_of("videoreward") / "lora_layout"
    path = layout / "checkpoint-9" / "adapter_model.safetensors"
    weights = read_weights(path)
    stem = "base_model.model.model.layers.1.mlp.up_proj"
    for letter in ("lora_A", "lora_B"):
        if missing in (letter, "both"):
            del weights[f"{stem}.{letter}.weight"]
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"missing: model.layers.1.mlp.up_proj.weight lora_"):
        open_judge(layout, "videoreward", templates)


def test_the_head_may_have_three_outputs(copy_of, templates, golden):
    folder = copy_of("videoreward")
    path = folder / "checkpoint-7" / "model.pth"
    file = open_torch_file(path)
    weights = {tensor.name: file.read(tensor).astype(np.float32) for tensor in file.tensors}
    path.unlink()
    for outputs in (3, 2):
        weights["base_model.model.rm_head.weight"] = np.zeros((outputs, 64), np.float32)
        save_file(weights, path.with_suffix(".safetensors"))
        if outputs == 3:
            assert open_judge(folder, "videoreward", templates).cfg.head_widths == (3,)
        else:
            with pytest.raises(ValueError, match="rm_head of videoreward has 1 or 3 outputs, got 2"):
                open_judge(folder, "videoreward", templates)


def test_a_tokenizer_of_another_vocabulary(copy_of, templates):
    folder = copy_of("hpsv3")
    path = folder / "Qwen2-VL-7B-Instruct" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    longer = json.loads(path.read_text())
    longer["added_tokens"].append(longer["added_tokens"][-1] | {"id": 1014, "content": "<|more|>"})
    path.write_text(json.dumps(longer))
    with pytest.raises(ValueError, match="embeddings of 1015 tokens, the tokenizer in .* has 1016: it is of another"):
        open_judge(folder, "hpsv3", templates)
    tokenizer["added_tokens"] = tokenizer["added_tokens"][:5]
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match=r"of another vocabulary: <\|image_pad\|> is None, wanted 1012"):
        open_judge(folder, "hpsv3", templates)
    shutil.copyfile(ROOT / "tests" / "tiny_checkpoint" / "tokenizer" / "tokenizer.json", path)
    with pytest.raises(ValueError, match="is a tokenizer of another vocabulary"):
        open_judge(folder, "hpsv3", templates)
    path.write_text("{}")
    with pytest.raises(ValueError, match="is no tokenizer"):
        open_judge(folder, "hpsv3", templates)


def test_foreign_and_truncated_checkpoints(copy_of, templates):
    folder = copy_of("hpsv3")
    with pytest.raises(ValueError, match="has no checkpoint-N: wanted a published videoreward"):
        open_judge(folder, "videoreward", templates)
    file = folder / "HPSv3.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is truncated"):
        open_judge(folder, "hpsv3", templates)
    shutil.copyfile(PUBLISHED / "videoreward" / "Qwen2-VL-2B-Instruct" / "model.safetensors", file)
    with pytest.raises(ValueError, match="embeddings of 1060 tokens"):
        open_judge(folder, "hpsv3", templates)
    shutil.rmtree(folder / "Qwen2-VL-7B-Instruct")
    with pytest.raises(ValueError, match="no base model, a folder of Qwen2-VL with config.json: give it as --base"):
        open_judge(folder, "hpsv3", templates)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (
            "hpsv3",
            RUBRIC.replace("{text_prompt}", "it"),
            "must have the placeholder {text_prompt} once, has it 0 times",
        ),
        ("hpsv3", RUBRIC + "{text_prompt}", "once, has it 2 times"),
        ("hpsv3", RUBRIC + "{dimension}", "placeholder {dimension}, wanted {text_prompt} alone"),
        ("hpsv3", RUBRIC + "<|Reward|>", "must have <|Reward|> once, has it 2 times"),
        ("videoreward", VIDEO.replace("<|MQ_reward|>", ""), "must have <|MQ_reward|> once, has it 0 times"),
        ("videoreward", VIDEO + "}", "Single '}'"),
        ("hpsv3", None, 'the section "hpsv3" has no text instruction'),
    ],
)
def test_templates_that_lack_something(tmp_path, kind, text, message):
    path = tmp_path / "templates.json"
    stored = json.loads(json.dumps(TEMPLATES))
    section, key = ("hpsv3", "instruction") if kind == "hpsv3" else ("videoalign", "detailed_special")
    stored[section][key] = text
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=re.escape(message)):
        read_templates(path, kind)


def test_templates_are_read_from_source_that_is_not_run(tmp_path, templates, capfd):
    path = tmp_path / "prompts.py"
    path.write_text(
        "import torch\nprint('ran')\nraise SystemExit\n"
        f"INSTRUCTION = {RUBRIC!r}\nINSTRUCTION_debug = 'Only {{text_prompt}}'\n"
        "prompt_with_special_token = '\\nAnswer: ' + '<|Reward|>\\n'\nprompt_without_special_token = 'Answer:'\n"
        f"DETAILED_PROMPT_WITH_SPECIAL_TOKEN = {VIDEO!r}\nDETAILED = 'Rate {{text_prompt}}'\n"
    )
    assert read_templates(path, "videoreward") == read_templates(templates, "videoreward")
    path.write_text(path.read_text().split("DETAILED_PROMPT")[0])
    assert read_templates(path, "hpsv3") == read_templates(templates, "hpsv3")
    assert "ran" not in capfd.readouterr().out
    path.write_text("x = 1")
    with pytest.raises(ValueError, match=r"wanted a string with {text_prompt} and <\|VQ_reward"):
        read_templates(path, "videoreward")
    path.write_text("x = (")
    with pytest.raises(ValueError, match="templates of hpsv3 in .*prompts.py"):
        read_templates(path, "hpsv3")
