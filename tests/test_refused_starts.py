"""Bad input, verb by verb: one line and exit status 2, before weights load, and nothing is left behind."""

import json
import shutil
from pathlib import Path

import jax
import pytest

from lcv_jax import convert, encode, export, generate, plan, train
from lcv_jax.checkpoint import store
from lcv_jax.checkpoint.checksums import CHECKSUMS, write_checksums
from lcv_jax.parallel.mesh import make_mesh
from lcv_jax.rewards import server
from lcv_jax.toy import make, score, start

NESTED = "[" * 100_000
TINY = str(Path(__file__).parent / "tiny_checkpoint")
PROMPT = ("--prompt", "a", "--height", "32", "--width", "32", "--num-frames", "5")
SMALL = ("--sizes", "5,32,32", "--fps", "8")
CONFIG = """
from pathlib import Path
from lcv_jax.data.config import DataConfig
from lcv_jax.objectives.flow_matching import FlowMatching
from lcv_jax.training.config import AdapterConfig, SamplesConfig, TrainConfig

def get_config():
    return TrainConfig(
        run=Path("runs/new"), checkpoint=Path("CHECKPOINT"), objective=FlowMatching(),
        data=DataConfig(path=Path("none")), steps=2, batch_size=2,
        samples=SamplesConfig(prompts=("a",), size=(32, 32), num_frames=5),
    )
"""


def damaged(name, content):
    """A change of a converted folder."""

    def change(folder):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def edited(name, **fields):
    def change(folder):
        (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **fields}))

    return change


def renumbered(folder):
    """A tokenizer of a larger vocabulary."""
    path = folder / "tokenizer/tokenizer.json"
    model = json.loads(path.read_text())
    vocabulary = model["model"]["vocab"]
    if isinstance(vocabulary, dict):
        model["model"]["vocab"] = {token: i + 10**6 if i > 5 else i for token, i in vocabulary.items()}
    else:
        model["added_tokens"].append({**model["added_tokens"][-1], "content": "<new>", "id": 10**6})
    path.write_text(json.dumps(model))


def sealed_again(folder):
    """Checksums of what is there now: a folder that was written wrongly, not one that was damaged since."""
    facts = json.loads((folder / CHECKSUMS).read_text())["facts"]
    (folder / CHECKSUMS).unlink()
    write_checksums(folder, without=lambda name: False, **facts)


@pytest.fixture
def place(tmp_path, tiny_checkpoint, monkeypatch):
    """An empty folder to run in, with what the tables name; weights must not be loaded."""

    def load(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(store, "load_component", load)
    monkeypatch.setattr(train, "make_mesh", lambda *shape: make_mesh(*shape, jax.devices()[:1]))
    monkeypatch.chdir(tmp_path)
    Path("CHECKPOINT").symlink_to(tiny_checkpoint)
    Path("config.py").write_text(CONFIG)
    Path("adapter.py").write_text(CONFIG.replace("steps=2", "adapter=AdapterConfig(name='a'), steps=2"))
    Path("clips.jsonl").write_text('{"path": "none.mp4", "caption": "a"}\n')
    Path("file").write_text("x")
    Path("full").mkdir()
    Path("configured").mkdir()
    Path("configured/config.json").write_text("{}")
    Path("dangling").symlink_to("nowhere")
    Path("full/mine.txt").write_text("mine")
    Path("folder.json").mkdir()
    Path("folder.png").mkdir()
    Path("folder.safetensors").mkdir()
    Path("cut.safetensors").write_bytes(b"\x08" + b"\0" * 7)
    for name in ("prompts", "nested", "config_nested"):
        Path(f"{name}.json").write_text('[{"prompt": "a", "fps": NaN}]' if name == "prompts" else NESTED)
    return tmp_path


def assert_refused(main, arguments, message, capsys, place):
    before = sorted(path.relative_to(place) for path in place.rglob("*"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as raised:
        main(list(arguments))
    told = capsys.readouterr().err
    assert raised.value.code == 2, told
    lines = [line for line in told.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, told
    assert lines[0].startswith("error: "), told
    assert message in lines[0], told
    assert sorted(path.relative_to(place) for path in place.rglob("*")) == before


TABLE = [
    (convert.main, ("none", "out"), "none is no folder"),
    (convert.main, (TINY, "full"), "exists and is not empty"),
    (convert.main, (TINY, "file/out"), "file"),
    (convert.main, (TINY, "dangling"), "dangling is a link to nowhere, which does not exist"),
    (convert.main, (TINY, "out", "--fold", "cfg_step_lora=nan"), "the multiplier must be finite"),
    (convert.main, ("CHECKPOINT", "out"), "is converted already"),
    (generate.main, ("text-to-video", "CHECKPOINT", *PROMPT, "--guidance-scale", "nan"), "guidance_scale must lie in"),
    (generate.main, ("text-to-video", "CHECKPOINT", *PROMPT, "--num-steps", "100000000"), "num_steps must lie in"),
    (generate.main, ("text-to-video", "CHECKPOINT", *PROMPT, "--max-sequence-length", "1000000000000"), "must lie in"),
    (generate.main, ("text-to-video", "CHECKPOINT", *PROMPT, "--num-frames", "1000000001"), "num_frames must lie in"),
    (generate.main, ("text-to-video", "CHECKPOINT", *PROMPT, "--codec="), "codec must be FFmpeg's name"),
    (generate.main, ("text-to-video", "CHECKPOINT", *PROMPT, "--adapters", "none", "1"), "adapter none: there is none"),
    (
        generate.main,
        ("text-to-video", "CHECKPOINT", *PROMPT, "--adapters", "folder.safetensors", "1"),
        "adapter folder.safetensors: there is no such file",
    ),
    (
        generate.main,
        ("text-to-video", "CHECKPOINT", *PROMPT, "--adapters", "cut.safetensors", "1"),
        "cut.safetensors is truncated",
    ),
    (generate.main, ("text-to-video", "CHECKPOINT", *PROMPT, "--adapters", "a", "1", "a", "1"), "a more than once"),
    (generate.main, ("text-to-video", "CHECKPOINT", *PROMPT, "--output", "folder.mp4"), "folder.json is a folder"),
    (
        generate.main,
        ("text-to-video", "CHECKPOINT", *PROMPT, "--output", "new/a.mp4", "--adapters", "b", "1"),
        "adapter b: there is none",
    ),
    (generate.main, ("text-to-video", "none", *PROMPT, "--output", "new/deep/a.mp4"), "none is no folder"),
    (generate.main, ("batch", "CHECKPOINT", "prompts.json", "--folder", "new"), "fps must be above 0 and at most 1000"),
    (generate.main, ("batch", "CHECKPOINT", "nested.json", "--folder", "new"), "nested.json: nested too deeply"),
    (generate.main, ("batch", "CHECKPOINT", "none.json", "--folder", "new"), "none.json: No such file or directory"),
    (encode.main, ("clips.jsonl", "CHECKPOINT", "out", "--sizes", "5,31,32"), "must be multiples of 8, got 5x31x32"),
    (encode.main, ("clips.jsonl", "CHECKPOINT", "out", *SMALL, "--fps", "nan"), "fps must be above 0"),
    (encode.main, ("none.jsonl", "CHECKPOINT", "out", *SMALL), "none.jsonl: no such manifest"),
    (encode.main, ("clips.jsonl", "CHECKPOINT", "full", *SMALL), "full holds other things"),
    (encode.main, ("clips.jsonl", "CHECKPOINT", "file", *SMALL), "file"),
    (train.main, ("config.py", "--optimizer.learning-rate", "nan"), "learning_rate must be above 0 and finite"),
    (train.main, ("config.py", "--optimizer.eps", "-1"), "eps must be above 0"),
    (train.main, ("config.py", "--seed", str(2**70)), "seed must lie in 0..4294967295"),
    (train.main, ("config.py", "--checkpoints.keep-every", "1500"), "must be a multiple of checkpoints.every = 1000"),
    (train.main, ("adapter.py", "--adapter.name", "a/b"), "adapter.name must be of letters"),
    (train.main, ("config.py", "--samples.every", "1", "--samples.size", "33", "32"), "samples: height and width must"),
    (train.main, ("config.py", "--samples.every", "1", "--samples.num-frames", "6"), "frames must be a multiple of 4"),
    (train.main, ("config.py", "--fold", "none", "1"), "adapter none: there is none"),
    (train.main, ("adapter.py", "--adapter.start", "none"), "adapter none: there is none"),
    (train.main, ("config.py",), "none: no such folder"),
    (train.main, ("config.py", "--run", "file"), "file"),
    (export.main, ("full", "out"), "full is no run: it has no config.json"),
    (export.main, ("configured", "out"), "configured is no run: it has no checkpoints"),
    (plan.main, ("text-to-video", "--gpu", "none"), "none"),
    (plan.main, ("text-to-video", "--json", "folder.json"), "folder.json is a folder"),
    (make.main, ("out", "--num-clips", "0"), "give num_clips or num_images"),
    (make.main, ("out", "--fps", "nan"), "fps must be above 0"),
    (make.main, ("full",), "exists and is not empty"),
    (start.main, ("out", "--seed", "-1"), "seed must lie in"),
    (score.main, ("CHECKPOINT", "--num-frames", "4"), "num_frames must be a multiple of 4 plus 1"),
    (score.main, ("CHECKPOINT", "--json", "folder.json"), "folder.json is a folder"),
    (score.main, ("CHECKPOINT", "--sheet", "a.txt"), "a.txt must end with"),
    (score.main, ("CHECKPOINT", "--sheet", "/proc/none/a.png"), "/proc/none/a.png cannot be written"),
    (server.main, ("json:loads",), "json:loads: TypeError"),
    (server.main, ("none:at_all",), "ModuleNotFoundError: No module named 'none'"),
    (server.main, ("lcv_jax.toy.rewards:alignment", "--options", NESTED), "--options: nested too deeply"),
    (server.main, ("lcv_jax.toy.rewards:alignment", "--port", "99999"), "port must lie in 0..65535"),
]


def _name(value):
    return value.__module__.removeprefix("lcv_jax.") if callable(value) else None


@pytest.mark.parametrize(("main", "arguments", "message"), TABLE, ids=_name)
def test_a_bad_argument_is_refused_and_leaves_nothing(place, capsys, main, arguments, message):
    assert_refused(main, arguments, message, capsys, place)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def get_config(:\n", "bad.py, line 1: SyntaxError"),
        ("def get_config():\n    raise RuntimeError('boom')\n", "bad.py, line 2: RuntimeError: boom"),
        ("def get_config():\n    return {}['x']\n", "bad.py, line 2: KeyError: 'x'"),
        ("import sys\nsys.exit(0)\n", "bad.py, line 2: SystemExit: 0"),
        ("import no_such_package\n", "bad.py, line 1: ModuleNotFoundError"),
        ("def get_config():\n    return get_config()\n", "bad.py, line 2: RecursionError"),
        ("x = '\0'\n", "bad.py: SyntaxError: source code"),
        ("get_config = 3\n", "bad.py: TypeError: 'int' object is not callable"),
        ("from lcv_jax.data.config import DataConfig\nDataConfig(fps=-1)\n", "bad.py, line 2: "),
    ],
)
@pytest.mark.parametrize("main", [train.main, plan.main])
def test_a_config_that_raises_is_named_with_its_line(place, capsys, main, code, message):
    Path("bad.py").write_text(code)
    arguments = ("bad.py",) if main is train.main else ("train", "bad.py")
    assert_refused(main, arguments, message, capsys, place)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damaged("lcv_jax.json", NESTED), "lcv_jax.json: nested too deeply; convert again"),
        (damaged("lcv_jax.json", b"\xff\xfe"), "lcv_jax.json: the encoding is UTF-16"),
        (edited("lcv_jax.json", components=[1]), "components must be an object"),
        (damaged("dit/config.json", "[]"), "dit/config.json: expected an object in JSON, got a list"),
        (edited("dit/config.json", num_heads=0), "num_heads must lie in 1.."),
        (edited("dit/config.json", in_channels=8, out_channels=8), "dit.in_channels and vae.z_dim must be equal"),
        (edited("vae/config.json", latents_std=[0.0] * 16), "latents_std[0] must be above 0, got 0.0"),
        (edited("vae/config.json", latents_mean=[float("nan")] * 16), "latents_mean[0] must be finite, got nan"),
        (edited("scheduler/scheduler_config.json", shift=float("nan")), "shift must be above 0"),
        (damaged("tokenizer/tokenizer.json", "{}"), "tokenizer.json: not a readable tokenizer"),
        (renumbered, "they belong to different checkpoints"),
    ],
)
@pytest.mark.parametrize("verb", ["generate", "train", "encode"])
def test_a_damaged_checkpoint_is_refused_by_every_verb(place, tiny_checkpoint, capsys, verb, change, message):
    Path("CHECKPOINT").unlink()
    shutil.copytree(tiny_checkpoint, "CHECKPOINT", ignore=shutil.ignore_patterns("params"))
    change(Path("CHECKPOINT"))
    sealed_again(Path("CHECKPOINT"))
    main, arguments = {
        "generate": (generate.main, ("text-to-video", "CHECKPOINT", *PROMPT, "--output", "new/a.mp4")),
        "train": (train.main, ("config.py", "--samples.every", "1")),
        "encode": (encode.main, ("clips.jsonl", "CHECKPOINT", "out", *SMALL)),
    }[verb]
    assert_refused(main, arguments, message, capsys, place)


def test_encoding_that_finds_no_clip_leaves_its_folder_to_another_command(place, tiny_checkpoint, capsys, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert_refused(encode.main, ("clips.jsonl", "CHECKPOINT", "out/deep", *SMALL), "no clip can be read", capsys, place)
    Path("out").mkdir()
    assert_refused(encode.main, ("clips.jsonl", "CHECKPOINT", "out", *SMALL), "no clip can be read", capsys, place)
