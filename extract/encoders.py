"""List which architectures of open_clip are supported, as a page: `python -m extract.encoders > docs/design/encoders.md`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from data.base.errors import UserError
from data.base.progress import Progress
from data.cli.command import run_command
from data.cli.command_line import About
from extract.encode.preprocessing import Preprocessing, as_option

if TYPE_CHECKING:  # torch loads late, so that --help answers at once
    from extract.encode.models import Model

PAGE = """# Encoders

Written by `python -m extract.encoders`. It builds each open_clip architecture on torch's `meta` device, without memory or weights, and runs
the checks that `extract` makes before it loads weights. Of {count} architectures, {accepted} are accepted and {refused} are refused.

## Accepted

*Dimension* is the dimension of the features, *picture* the height and width of the input in pixels, and *tokens* the number of positions of
a text, including the special tokens around it. *Patch tokens* is the number of patch tokens of a picture, which `--tokens patches` keeps;
*none* marks towers without them, whose features are maps.

*From Hugging Face* names what a model takes from there beside its weights: a tokenizer, or a tokenizer and the text tower's configuration.
`pip install -r requirements-hf.txt` installs what reads them, and the first extraction or `--fetch-model` fetches them. The page is written
without a network and from open_clip's configuration alone. `extract` checks the tokenizer and the text tower themselves before it loads
weights.

Each of open_clip's tags comes with its own preprocessing. The last column is the preprocessing for weights from a file and for
`--pretrained random`: the values that all tags of the architecture share. *Must be given* means that the tags differ: set the values with
`--image-mean`, `--image-std` and `--image-resize`. *OpenAI's* are mean {mean} and std
{std}.

| architecture | dimension | picture | tokens | patch tokens | from Hugging Face | preprocessing of weights from a file |
| --- | --- | --- | --- | --- | --- | --- |
{rows}
{refusals}"""

REFUSALS = """
## Refused

| architecture | reason |
| --- | --- |
{reasons}
"""


@dataclass(frozen=True)
class EncodersOptions:
    """List the open_clip architectures that extract accepts, and why it refuses the others."""

    like: Annotated[str | None, About.INPUT] = None
    """Only architectures whose name contains this text, ignoring case. Default: all."""
    quiet: Annotated[bool, About.OUTPUT] = False
    """Do not print progress."""


@dataclass(frozen=True)
class Verdict:
    """Whether an architecture is accepted, and its row on the page."""

    accepted: bool
    row: str


def judge(name: str) -> Verdict:
    """Build an architecture without memory or weights, and run the checks of extraction on it."""
    from extract.encode.clip import check_features
    from extract.encode.models import RANDOM, find_model

    try:
        model = find_model(name, RANDOM)
        shape = check_features(model, None if _from_hugging_face(model) else model.tokenizer())
    except UserError as error:
        return Verdict(False, f"| {name} | {str(error).removeprefix(f'--model {name} ').removesuffix(': choose another model')} |")
    size = " x ".join(map(str, shape.image_size))
    sizes = f"{shape.dimension} | {size} | {shape.positions} | {shape.patches or 'none'}"
    return Verdict(True, f"| {name} | {sizes} | {_from_hugging_face(model)} | {_pictures(model)} |")


def _from_hugging_face(model: "Model") -> str:
    tower, tokenizer = model.hugging_face_tower, model.hugging_face_tokenizer
    if tower is not None:
        return f"{tower}: text tower" if tokenizer is None else f"{tower}: text tower and tokenizer"
    return "" if tokenizer is None else f"{tokenizer}: tokenizer"


def _pictures(model: "Model") -> str:
    from extract.encode.library import tags_of

    try:
        found, _ = model.preprocessing({})
    except UserError:
        return "must be given"
    usual = (found.mean, found.std) == (Preprocessing.mean, Preprocessing.std)
    normalised = "OpenAI's" if usual else f"mean {as_option(found.mean)}, std {as_option(found.std)}"
    return f"{normalised}; {found.interpolation}, {found.resize_mode}{'' if tags_of(model.name) else ' (guessed: no tags)'}"


def page(verdicts: Sequence[Verdict]) -> str:
    """The page that lists these architectures."""
    accepted = [verdict.row for verdict in verdicts if verdict.accepted]
    refused = [verdict.row for verdict in verdicts if not verdict.accepted]
    return PAGE.format(
        count=len(verdicts),
        accepted=len(accepted),
        refused=len(refused),
        mean=as_option(Preprocessing.mean),
        std=as_option(Preprocessing.std),
        rows="\n".join(accepted),
        refusals=REFUSALS.format(reasons="\n".join(refused)) if refused else "",
    )


def main(options: EncodersOptions) -> None:
    from extract.encode.library import list_models

    names = [name for name in list_models() if (options.like or "").lower() in name.lower()]
    if not names:
        raise UserError(f"--like {options.like}: no open_clip architecture has this in its name; leave it out to list all")
    verdicts: list[Verdict] = []
    with Progress("architectures", len(names), "architectures", options.quiet) as progress:
        for name in names:
            verdicts.append(judge(name))
            progress.update()
    print(page(verdicts))


if __name__ == "__main__":
    run_command(
        EncodersOptions,
        main,
        prog="python -m extract.encoders",
        examples=("--like B-32", "> docs/design/encoders.md"),
    )
