"""The one way in: `python -m lcv_jax COMMAND ...`, or `lcv COMMAND ...` where the package is installed.

    lcv
    lcv generate text-to-video weights --prompt "a cat surfs a wave" --output cat.mp4
    lcv train --help

A command is a module with `main(arguments, prog)`, imported when it is run: the list appears at once.
"""

import difflib
import importlib
import importlib.metadata
import sys
from collections.abc import Mapping
from pathlib import Path

COMMANDS = {
    "generate": ("lcv_jax.generate", "generate video from text, an image or a clip; long videos; refinement"),
    "serve": ("lcv_jax.serve", "serve a model over HTTP: the Videos API, a page, a queue"),
    "convert": ("lcv_jax.convert", "convert the released PyTorch checkpoint, check it, or convert it back"),
    "convert-adapter": (
        "lcv_jax.convert_adapter",
        "convert an adapter (LoRA) to or from the key layouts of other tools",
    ),
    "curate": ("lcv_jax.curate", "curate raw videos: stages over films and clips, a library of their results"),
    "caption": ("lcv_jax.caption", "caption clips with Qwen2-VL, in this process"),
    "encode": ("lcv_jax.encode", "encode clips and captions ahead of training"),
    "train": ("lcv_jax.train", "train or fine-tune with a config: full weights, adapters, distillation, GRPO"),
    "export": ("lcv_jax.export", "export the last checkpoint of a run as a folder to generate from"),
    "plan": ("lcv_jax.plan", "compute memory and time of generation or training on a GPU that is not here"),
    "evaluate": ("lcv_jax.evaluate", "evaluate models: suites, sampling, ratings, judges, measures, reports"),
    "serve-rewards": ("lcv_jax.rewards.server", "serve a reward model over HTTP, for GRPO"),
    "toy make": ("lcv_jax.toy.make", "write captioned clips of the procedural world"),
    "toy films": ("lcv_jax.toy.films", "write long films whose cuts, borders, logos and faults are known"),
    "toy start": ("lcv_jax.toy.start", "write a small checkpoint with random weights, to train on that world"),
    "toy move": ("lcv_jax.toy.move", "move a model of that world onto the latents of another autoencoder"),
    "toy judges": ("lcv_jax.toy.judges", "write a tiny judge and the opinions of simulated raters to train it on"),
    "toy raters": ("lcv_jax.toy.raters", "answer a study of people's ratings as simulated raters"),
    "toy chain-page": (
        "lcv_jax.toy.chain_page",
        "write the page of examples/chain.sh, from raw films to a judged model",
    ),
    "toy tower": ("lcv_jax.toy.tower", "teach a tiny judge to see a model's clips, as raters name what they show"),
    "toy captioner": ("lcv_jax.toy.captioner", "write a tiny captioner to train, or score the captions that it writes"),
    "toy matches": (
        "lcv_jax.toy.matches",
        "rate captions that are right of a clip, in part or not at all, for a judge",
    ),
    "toy agreement": ("lcv_jax.toy.agreement", "print how well judges of that world agree with simulated people"),
    "toy score": ("lcv_jax.toy.score", "score a model of that world on captions it was never trained on"),
    "toy score-streams": ("lcv_jax.toy.score_streams", "score its streams: captions, switched prompts, drift"),
}
"""Name on the command line: its module, and one line about it."""


def main(arguments: list[str] | None = None, prog: str | None = None) -> None:
    """Runs a command, or lists them."""
    arguments = sys.argv[1:] if arguments is None else arguments
    prog = prog or ("python -m lcv_jax" if Path(sys.argv[0]).name == "__main__.py" else "lcv")
    if arguments[:1] == ["--version"]:
        print(f"lcv_jax {importlib.metadata.version('lcv_jax')}")
        return
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(listing(prog))
        return
    for count in (1, 2):
        name = " ".join(arguments[:count])
        if name in COMMANDS:
            importlib.import_module(COMMANDS[name][0]).main(arguments[count:], prog=f"{prog} {name}")
            return
    group = {name: line for name, line in COMMANDS.items() if name.startswith(f"{arguments[0]} ")}
    if group and arguments[1:] in ([], ["--help"], ["-h"]):
        print(listing(prog, group))
        return
    print(f"error: {_unknown(' '.join(arguments[: 2 if group else 1]))}; `{prog}` lists the commands", file=sys.stderr)
    sys.exit(2)


def listing(prog: str, names: Mapping[str, tuple[str, str]] = COMMANDS) -> str:
    """The commands, a line each."""
    width = max(map(len, names))
    lines = [f"  {name:{width}}  {line}" for name, (_, line) in names.items()]
    head = [f"usage: {prog} COMMAND ...", "", "LongCat-Video in JAX. Commands, each with its own --help:", ""]
    return "\n".join(head + lines)


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"unknown command {name!r}" + (f", did you mean {close[0]!r}?" if close else "")


if __name__ == "__main__":
    main()
