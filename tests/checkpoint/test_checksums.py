"""Converted folders: every byte that is read is verified, and a damaged folder is refused and not passed on."""

import shutil
from pathlib import Path

import pytest

from lcv_jax.checkpoint import convert, store
from lcv_jax.checkpoint.checksums import CHECKSUMS, read_checksums
from lcv_jax.checkpoint.export import open_converted
from lcv_jax.checkpoint.save import save_trained
from lcv_jax.config import SchedulerConfig
from lcv_jax.pipeline import load_pipeline
from lcv_jax.planning.requests import networks_of


def read(folder, name):
    """Reads the part of a converted folder that a file belongs to, as users of the folder do."""
    place = Path(name).parts
    if place[0] in convert.NETWORKS:
        return store.load_component(folder, place[0])
    if place[0] == "adapters" and len(place) > 2:
        return store.load_adapter(folder, place[1], store.load_config(folder, "dit"))
    doors = {"tokenizer": store.tokenizer_folder, "scheduler": store.load_scheduler_config}
    doors |= {"adapters": open_converted}
    return doors.get(place[0], store.read_provenance)(folder)


def test_a_flipped_bit_in_any_file_of_a_converted_folder_is_found(tiny_checkpoint, tmp_path, flip_bit):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "c")
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    recorded = read_checksums(folder)["files"]
    assert {"lcv_jax.json", "dit/config.json", "adapters/config.json", "tokenizer/tokenizer.json"} <= recorded.keys()
    tiles = [name for name in names if name not in recorded and name != CHECKSUMS]
    assert all("/c/" in name or name.endswith("/c") for name in tiles)
    arrays = [name for name in recorded if name.endswith("zarr.json")]
    for name in [*(recorded.keys() - arrays), CHECKSUMS, *arrays[::20], *tiles[::40]]:
        content = (folder / name).read_bytes()
        flip_bit(folder / name)
        with pytest.raises(ValueError, match="convert again|cannot be read") as caught:
            read(folder, name)
        assert "\n" not in str(caught.value)
        assert folder.name in str(caught.value)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "dit/params/blocks.ffn.w1.kernel/c"), "convert again"),
        (lambda folder: (folder / CHECKSUMS).unlink(), f"it has no {CHECKSUMS}; convert again"),
        (lambda folder: (folder / "dit" / "config.json").unlink(), "dit/config.json: No such file"),
        (lambda folder: (folder / "dit" / "config.json").write_text("{}"), "dit/config.json: .* bytes instead of"),
    ],
)
def test_damaged_converted_folders_are_refused(tiny_checkpoint, tmp_path, damage, message):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "c")
    damage(folder)
    with pytest.raises(ValueError, match=message) as caught:
        store.load_component(folder, "dit")
    assert "\n" not in str(caught.value)


def test_a_damaged_folder_is_not_trained_from(tiny_checkpoint, tmp_path, flip_bit):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "c")
    flip_bit(folder / "tokenizer" / "tokenizer.json")
    given = {"networks": {}, "configs": {}, "adapters": {}, "made_by": {}}
    with pytest.raises(ValueError, match=r"tokenizer/tokenizer.json: its content changed"):
        save_trained(folder, tmp_path / "dest", **given)
    save_trained(tiny_checkpoint, tmp_path / "dest", **given)
    for intact in (tiny_checkpoint, tmp_path / "dest"):
        store.verify(intact)


def test_a_trained_folder_says_where_refinement_starts(tiny_checkpoint, tmp_path):
    """In a file of its own, for others are links to the base's."""
    given = {"networks": {}, "configs": {}, "adapters": {}, "made_by": {}}
    save_trained(tiny_checkpoint, tmp_path / "dest", **given, scheduler={"t_thresh": 0.25})
    for folder, start in ((tiny_checkpoint, 0.5), (tmp_path / "dest", 0.25)):
        store.verify(folder)
        assert load_pipeline(folder).t_thresh == start
        assert networks_of(folder).scheduler == SchedulerConfig(shift=12.0, t_thresh=start)
