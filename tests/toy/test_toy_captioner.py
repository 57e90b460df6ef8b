"""The tiny captioner of the procedural world: it knows the words, and its captions are scored."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from lcv_jax.captioning.pairs import CaptionsConfig
from lcv_jax.captioning.prompts import CaptionPrompts
from lcv_jax.checkpoint import store
from lcv_jax.checkpoint.qwen2_vl import COMPONENT
from lcv_jax.convert import main as convert_main
from lcv_jax.toy import tower
from lcv_jax.toy.captioner import main
from lcv_jax.toy.captions import caption
from lcv_jax.toy.world import COLOURS, sample_scene
from lcv_jax.train import read_config
from lcv_jax.training.captioners import CaptionerBase

ROOT = Path(__file__).parents[2]


def test_the_start_is_a_captioner_that_can_say_every_caption(tmp_path, capsys):
    main(["start", str(tmp_path / "start"), "--seed", "3"])
    cfg = read_config(str(ROOT / "configs" / "toy" / "captioner.py"))
    assert isinstance(cfg.data, CaptionsConfig)
    base = CaptionerBase.open(tmp_path / "start")
    model = base.model(cfg)
    params = model.read(tmp_path / "start", "float32", None, model.is_read)
    assert params.keys() == {"visual", "model", "lm_head"}
    prompts: CaptionPrompts = base.prompts
    for seed in range(40):
        text = caption(sample_scene(seed), seed)
        clip = prompts.answered(prompts.asked(lambda: None, (1, 2, 2), cfg.data.question, is_picture=False), text)
        said = prompts.text_of(clip.ids[clip.begin :])
        assert said.replace(" ,", ",") == text
    with pytest.raises(SystemExit):
        main(["start", str(tmp_path / "start")])
    assert "exists" in capsys.readouterr().err
    assert "qwen2_vl" in store.read_provenance(tmp_path / "start")["components"]
    written = [file for file in (tmp_path / "start" / "qwen2_vl").rglob("*") if file.is_file()]
    assert not [file for file in written if str(tmp_path).encode() in file.read_bytes()], (
        "names the disk it was made on"
    )
    assert all(np.isfinite(leaf).all() for leaf in params["visual"]["merger"]["mlp_0"].values())


def test_the_published_layout_of_a_new_captioner_says_all_that_it_is(tmp_path):
    main(["start", str(tmp_path / "start")])
    convert_main([str(tmp_path / "start"), str(tmp_path / "published"), "--to-torch"])
    published = json.loads((tmp_path / "published" / "config.json").read_text())
    cfg = store.load_config(tmp_path / "start", COMPONENT)
    assert published["rope_scaling"] == {"type": "mrope", "mrope_section": list(cfg.mrope_section)}
    assert (published["model_type"], published["vision_config"]["spatial_merge_size"]) == ("qwen2_vl", 2)
    convert_main([str(tmp_path / "published"), str(tmp_path / "again")])
    assert store.load_config(tmp_path / "again", COMPONENT) == cfg


def test_captions_are_scored_by_what_was_drawn(tmp_path, capsys):
    said = [
        "a red circle moves slowly to the left over a plain grey background",
        "a red square quickly moves left",
        "a blue circle turns",
        "nothing",
    ]
    scene = {"colour": "red", "shape": "circle", "motion": "left"}
    lines = {
        "captioned": [{"id": str(number), "caption": text} for number, text in enumerate(said)],
        "scenes": [{"id": str(number), **scene} for number in range(len(said))],
    }
    for name, rows in lines.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [str(tmp_path / "captioned.jsonl"), str(tmp_path / "scenes.jsonl")]
    main(["score", *files, "--json", str(tmp_path / "scores.json")])
    found = json.loads((tmp_path / "scores.json").read_text())
    assert {name: share["hits"] for name, share in found.items()} == {
        "colour": 2, "shape": 2, "motion": 2, "all three": 1
    }  # fmt: skip
    assert "colour      50.0 % right (95 %: 15.0 to 85.0)" in capsys.readouterr().out
    (tmp_path / "scenes.jsonl").write_text("")
    with pytest.raises(SystemExit):
        main(["score", *files])
    assert "has no scene 0: give the scenes.jsonl of the captioned clips" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("some_optimizations")
def test_a_tower_that_learns_to_see_names_more_than_chance_and_nothing_else_changes(tmp_path, monkeypatch, capsys):
    """Forty steps on few glances: colours are named at once."""
    monkeypatch.setattr(tower, "GLANCES", 256)
    main(["start", str(tmp_path / "seeing"), "--tower-steps", "40"])
    said = re.search(r"step 40 of 40: colour (\d+) %", capsys.readouterr().out)
    assert said
    assert int(said[1]) > 2 * 100 / len(COLOURS)
    main(["start", str(tmp_path / "blind")])
    seeing, blind = (store.load_component(tmp_path / name, COMPONENT)[1] for name in ("seeing", "blind"))
    changed = {name: jax.tree.leaves(jax.tree.map(np.array_equal, seeing[name], blind[name])) for name in seeing}
    assert not any(changed["visual"])
    assert all(changed["model"])
    assert all(changed["lm_head"])
