"""`python -m data.presets`: print the split protocols and their recipes."""

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from data.base.errors import UserError
from data.cli.command import run_command
from data.cli.command_line import About

if TYPE_CHECKING:  # pandas loads late, so that --help answers at once
    from data.datasets import Preset


@dataclass(frozen=True)
class PresetsOptions:
    """Print the presets: split protocols with their sizes, and recipes with words, frames, epochs, batch size and learning rate. extract
    takes a preset with --preset; its --fps, --max-frames and --max-words override the recipe."""

    dataset: Annotated[str | None, About.INPUT] = None
    """Print only the presets of this data set."""
    preset: Annotated[str | None, About.INPUT] = None
    """Print only the preset of this name."""
    training: Annotated[bool, About.OUTPUT] = False
    """Print the train_head options of the recipe of --preset on one line, for use in a shell."""
    json: Annotated[bool, About.OUTPUT] = False
    """Print the presets as one JSON line on standard output."""


def print_presets(options: PresetsOptions) -> int:
    """Print the presets and return the exit status. Raises UserError for an unknown data set or preset."""
    from data.datasets import ADAPTERS

    if options.dataset not in (None, *ADAPTERS):
        raise UserError(f"--dataset {options.dataset} is unknown: choose one of {', '.join(ADAPTERS)}")
    chosen = [(name, preset) for name, (_, presets) in ADAPTERS.items() if options.dataset in (None, name) for preset in presets]
    chosen = [(name, preset) for name, preset in chosen if options.preset in (None, preset.name)]
    if not chosen:
        raise UserError(f"--preset {options.preset} is unknown: python -m data.presets lists them")
    if options.training:
        if options.preset is None:
            raise UserError("--training is for the recipe of one preset: name it with --preset")
        recipe = chosen[0][1]
        print(f"--epochs {recipe.epochs} --batch-size {recipe.batch_size} --lr {recipe.lr:g}")
        return 0
    if options.json:
        print(json.dumps([_plain(dataset, preset) for dataset, preset in chosen]))
        return 0
    heading = f"{'dataset':11} {'preset':12} {'words':>5} {'frames':>6} {'fps':>3}  {'seconds':19}  {'train/val/test videos':23}"
    print(f"{heading}  {'epochs':>6} {'batch':>5} {'lr':>6}  captions of test")
    for dataset, preset in chosen:
        sizes = "/".join(f"{count.videos:,}" if count.videos else "?" for count in preset.expected.values()) or "as listed"
        held_out = f"; {preset.held_out} training videos are val" if preset.held_out else ""
        frames = f"{preset.max_words or 'all':>5} {preset.max_frames:6} {preset.fps:3g}  {preset.seconds:19}"
        training = f"{preset.epochs:6} {preset.batch_size:5} {preset.lr:6g}"
        print(f"{dataset:11} {preset.name:12} {frames}  {sizes:23}  {training}  {preset.captions}{held_out}")
    words = "words are tokens, start and end included; all: as many as the model takes"
    print(f"fps frames a second are sampled, then evenly chosen down to frames, the first and the last among them; {words}")
    return 0


def _plain(dataset: str, preset: "Preset") -> dict[str, Any]:
    plain = dataclasses.asdict(preset)
    return {"dataset": dataset, **plain, "expected": {split: count._asdict() for split, count in preset.expected.items()}}


if __name__ == "__main__":
    run_command(
        PresetsOptions,
        print_presets,
        prog="python -m data.presets",
        status=int,
        examples=("", "--dataset msrvtt --json", "--preset didemo --training"),
    )
