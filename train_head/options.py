"""Options of `python -m train_head`, the same from the shell and from Python."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from data.cli.command_line import About
from data.cli.meaning import AtLeast, Meaning, NoneAs


@dataclass(frozen=True)
class TrainOptions:
    """Train a head on cached features and keep the epoch that is best on the validation split."""

    cache: Annotated[Path, About.INPUT, Meaning.FREE]
    """Folder of the feature cache."""
    out: Annotated[Path, About.OUTPUT, Meaning.FREE]
    """Folder for the run; must be empty, or hold the run that --resume goes on with."""
    resume: Annotated[bool, About.OUTPUT, Meaning.FREE] = False
    """Go on with the unfinished run in OUT, on a CPU to the same bits as if it had never stopped; start where there is none."""
    checkpoint_steps: Annotated[int, About.OUTPUT, Meaning.FREE, AtLeast(1)] = 200
    """Steps between checkpoints, of which there is also one after every epoch."""
    preset: Annotated[str | None, About.INPUT] = None
    """Split protocol, where the cache serves several."""
    name: Annotated[str | None, About.INPUT] = None
    """Source in the cache, by the name that extract gave it. Default: all that have captions, together."""
    select_on: Annotated[Literal["val", "test"], About.INPUT] = "val"
    """Split that chooses the epoch. `test` is the field's way with splits that have no validation of their own: training videos held out
    for it are trained on, and all results are labelled."""
    head: Annotated[str, About.HEAD, Meaning.VARIED] = "glccl"
    """glccl (the method), its halves glim-global and glim-local, mean (CLIP4Clip's pooling), xclip (the four scores without text guidance),
    wti (DRL's weighted token-wise interaction) or xpool (X-Pool's language-video attention)."""
    scores: Annotated[str, About.HEAD, Meaning.VARIED] = "all"
    """Scores of a head that has several, with a + between them: video-sentence+word-frame, say; also sentence-frame and video-word."""
    temporal: Annotated[Literal["seq-transf", "none"], About.HEAD, Meaning.VARIED] = "seq-transf"
    """Temporal encoder over the frames."""
    temporal_init: Annotated[Literal["clip", "random"], About.HEAD, Meaning.VARIED] = "clip"
    """Where the temporal encoder starts: CLIP's text blocks, or random."""
    csc_weight: Annotated[float, About.LOSS, Meaning.VARIED, AtLeast(0)] = 0.5
    """Weight of the CSC loss; heads with a single score have none."""
    csc_data: Annotated[Literal["both", "positive", "negative"], About.LOSS, Meaning.VARIED] = "both"
    """Pairs through which the CSC gradient flows."""
    mask_same_video: Annotated[bool, About.LOSS, Meaning.VARIED] = False
    """Leave other captions of the same video out of both losses; without it they count as captions of another, as in the field."""
    max_frames: Annotated[int | None, About.INPUT, Meaning.VARIED, NoneAs("all")] = None
    """Frames used of each video, chosen evenly. Default: all that are cached."""
    epochs: Annotated[int, About.OPTIMIZER, Meaning.VARIED, AtLeast(1)] = 5
    """Passes over the training captions."""
    batch_size: Annotated[int, About.OPTIMIZER, Meaning.VARIED, AtLeast(2)] = 128
    """Captions (and their videos) per step, of all processes together. With fewer training videos, as many as fit are taken."""
    lr: Annotated[float, About.OPTIMIZER, Meaning.VARIED, AtLeast(0)] = 1e-4
    """Largest learning rate, after 10% linear warm-up; then a cosine to zero."""
    weight_decay: Annotated[float, About.OPTIMIZER, AtLeast(0)] = 0.2
    """Decoupled weight decay of matrices; biases, norms and the logit scale have none."""
    finetune: Annotated[bool, About.FINETUNING, Meaning.FINETUNING] = False
    """Train CLIP too, on the pictures that extract --store-pixels keeps in the cache. The new CLIP is left in OUT/clip: extract with it
    before evaluating."""
    clip_lr: Annotated[float, About.FINETUNING, Meaning.FINETUNING, AtLeast(0)] = 1e-7
    """With --finetune: largest learning rate of CLIP, after the same warm-up."""
    freeze_layers: Annotated[int, About.FINETUNING, Meaning.FINETUNING] = 0
    """With --finetune: this many blocks of each tower of CLIP, from the input on, stay as they are, and the embeddings below them. 0: only
    the embeddings; -1: nothing."""
    grad_checkpointing: Annotated[bool, About.FINETUNING, Meaning.FREE, Meaning.FINETUNING] = False
    """With --finetune: compute the activations of CLIP a second time rather than keep them: more time, less memory."""
    model: Annotated[str | None, About.FINETUNING, Meaning.FREE, Meaning.FINETUNING] = None
    """With --finetune: the CLIP that made the cache, where it is no longer what it was extracted with. Default: what that was."""
    pretrained: Annotated[str | None, About.FINETUNING, Meaning.FREE, Meaning.FINETUNING] = None
    """With --finetune: the weights that made the cache, where they are no longer where they were. Default: where they were."""
    allow_missing: Annotated[bool, About.INPUT] = False
    """Go on without captions and videos whose features are missing."""
    memory_budget: Annotated[float | None, About.MACHINE, Meaning.FREE] = None
    """GiB of features kept in memory for each split. Default: half of the machine's memory."""
    process_timeout: Annotated[float, About.MACHINE, Meaning.FREE] = 60.0
    """Under torchrun: seconds without a sign of life after which another process counts as lost."""
    precision: Annotated[Literal["fp32", "bf16"], About.MACHINE] = "fp32"
    """On CUDA: bf16 runs the temporal encoder and the products of texts with frames in bfloat16, and nothing else."""
    device: Annotated[Literal["auto", "cpu", "cuda"], About.MACHINE, Meaning.REPEAT] = "auto"
    """Where to train; auto takes CUDA where there is one."""
    seed: Annotated[int, About.OPTIMIZER, Meaning.REPEAT] = 0
    """Seed of the initial weights and of the order of captions."""
    tensorboard: Annotated[bool, About.OUTPUT, Meaning.FREE] = False
    """Write losses and learning rate of every step and figures of every epoch to OUT/tensorboard too; needs the package tensorboard."""
    quiet: Annotated[bool, About.OUTPUT, Meaning.FREE] = False
    """No progress."""
    json: Annotated[bool, About.OUTPUT, Meaning.FREE] = False
    """The result as one JSON line on standard output."""
