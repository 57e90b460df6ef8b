"""The README's section "Evaluate", command by command in an empty folder, on an eighth of its prompts."""

import re
import shlex
from pathlib import Path

import pytest

from lcv_jax import convert
from lcv_jax.evaluate import main
from tests.evaluation.served import Served

pytest.importorskip("cv2")
pytest.importorskip("uvicorn")

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.usefixtures("some_optimizations")
def test_the_section_runs_as_printed(tmp_path, monkeypatch, capsys):
    section = re.search(r"\n## Evaluate\n(.*?)\n## ", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    *commands, serving = re.findall(r"^python -m lcv_jax\.evaluate (.*)$", section, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    convert.main([str(ROOT / "examples" / "toy_checkpoint"), "outputs/demo/weights", "--dtype", "float32"])
    for command in commands:
        words = command.replace("--part 0 4", "--part 0 32").replace("--batch 8", "--batch 2")
        assert ("sample " in command) == (words != command)
        main(shlex.split(words))
    out = capsys.readouterr().out
    assert "2 prompts in common" in out
    assert "readers: alignment (higher is better)" in out
    assert Path("outputs/evaluation/page.html").read_text().count("<video ") == 2 * 2
    verb, study = shlex.split(serving)
    assert verb == "rate"
    with Served(Path(study)) as server:
        for link in server.links.values():
            token = link.split("rater=")[1]
            while not (shown := server.ask(f"/api/next?rater={token}")).get("finished"):
                assert all(len(server.ask(video)) > 1000 for video in shown["videos"])
                for dimension in shown["dimensions"]:
                    answer = {"rater": token, "item": shown["item"], "dimension": dimension["id"], "score": 1}
                    server.ask("/api/rate", answer)
    main(["study-results", study])
    # Two pairs by each rater; sides are random, and so is who is called better.
    assert f"{len(server.links) * 2 * 4} answers" in capsys.readouterr().out
