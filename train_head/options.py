"""Options of `python -m train_head`, the same from the shell and from Python."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from data.cli.command_line import About


@dataclass(frozen=True)
class TrainOptions:
    """Train a head on cached features and keep the epoch that is best on the validation split."""

    cache: Annotated[Path, About.INPUT]
    """Folder of the feature cache."""
    out: Annotated[Path, About.OUTPUT]
    """Folder for the run; must be empty, or hold the run that --resume goes on with."""
    resume: Annotated[bool, About.OUTPUT] = False
    """Go on with the unfinished run in OUT, on a CPU to the same bits as if it had never stopped; start where there is none."""
    checkpoint_steps: Annotated[int, About.OUTPUT] = 200
    """Steps between checkpoints, of which there is also one after every epoch."""
    preset: Annotated[str | None, About.INPUT] = None
    """Split protocol, where the cache serves several."""
    name: Annotated[str | None, About.INPUT] = None
    """Source in the cache, by the name that extract gave it. Default: all that have captions, together."""
    select_on: Annotated[Literal["val", "test"], About.INPUT] = "val"
    """Split that chooses the epoch. `test` is the field's way with splits that have no validation of their own: training videos held out
    for it are trained on, and all results are labelled."""
    head: Annotated[str, About.HEAD] = "glccl"
    """glccl (the method), its halves glim-global and glim-local, mean (CLIP4Clip's pooling), xclip (the four scores without text guidance),
    wti (DRL's weighted token-wise interaction) or xpool (X-Pool's language-video attention)."""
    scores: Annotated[str, About.HEAD] = "all"
    """Scores of a head that has several, with a + between them: video-sentence+word-frame, say; also sentence-frame and video-word."""
    temporal: Annotated[Literal["seq-transf", "none"], About.HEAD] = "seq-transf"
    """Temporal encoder over the frames."""
    temporal_init: Annotated[Literal["clip", "random"], About.HEAD] = "clip"
    """Where the temporal encoder starts: CLIP's text blocks, or random."""
    csc_weight: Annotated[float, About.LOSS] = 0.5
    """Weight of the CSC loss; heads with a single score have none."""
    csc_data: Annotated[Literal["both", "positive", "negative"], About.LOSS] = "both"
    """Pairs through which the CSC gradient flows."""
    mask_same_video: Annotated[bool, About.LOSS] = False
    """Leave other captions of the same video out of both losses; without it they count as captions of another, as in the field."""
    max_frames: Annotated[int | None, About.INPUT] = None
    """Frames used of each video, chosen evenly. Default: all that are cached."""
    epochs: Annotated[int, About.OPTIMIZER] = 5
    """Passes over the training captions."""
    batch_size: Annotated[int, About.OPTIMIZER] = 128
    """Captions (and their videos) per step, of all processes together. With fewer training videos, as many as fit are taken."""
    lr: Annotated[float, About.OPTIMIZER] = 1e-4
    """Largest learning rate, after 10% linear warm-up; then a cosine to zero."""
    weight_decay: Annotated[float, About.OPTIMIZER] = 0.2
    """Decoupled weight decay of matrices; biases, norms and the logit scale have none."""
    finetune: Annotated[bool, About.FINETUNING] = False
    """Train CLIP too, on the pictures that extract --store-pixels keeps in the cache. The new CLIP is left in OUT/clip: extract with it
    before evaluating."""
    clip_lr: Annotated[float, About.FINETUNING] = 1e-7
    """With --finetune: largest learning rate of CLIP, after the same warm-up."""
    freeze_layers: Annotated[int, About.FINETUNING] = 0
    """With --finetune: this many blocks of each tower of CLIP, from the input on, stay as they are, and the embeddings below them. 0: only
    the embeddings; -1: nothing."""
    grad_checkpointing: Annotated[bool, About.FINETUNING] = False
    """With --finetune: compute the activations of CLIP a second time rather than keep them: more time, less memory."""
    model: Annotated[str | None, About.FINETUNING] = None
    """With --finetune: the CLIP that made the cache, where it is no longer what it was extracted with. Default: what that was."""
    pretrained: Annotated[str | None, About.FINETUNING] = None
    """With --finetune: the weights that made the cache, where they are no longer where they were. Default: where they were."""
    allow_missing: Annotated[bool, About.INPUT] = False
    """Go on without captions and videos whose features are missing."""
    memory_budget: Annotated[float | None, About.MACHINE] = None
    """GiB of features kept in memory for each split. Default: half of the machine's memory."""
    process_timeout: Annotated[float, About.MACHINE] = 60.0
    """Under torchrun: seconds without a sign of life after which another process counts as lost."""
    precision: Annotated[Literal["fp32", "bf16"], About.MACHINE] = "fp32"
    """On CUDA: bf16 runs the temporal encoder and the products of texts with frames in bfloat16, and nothing else."""
    device: Annotated[Literal["auto", "cpu", "cuda"], About.MACHINE] = "auto"
    """Where to train; auto takes CUDA where there is one."""
    seed: Annotated[int, About.OPTIMIZER] = 0
    """Seed of the initial weights and of the order of captions."""
    tensorboard: Annotated[bool, About.OUTPUT] = False
    """Write losses and learning rate of every step and figures of every epoch to OUT/tensorboard too; needs the package tensorboard."""
    quiet: Annotated[bool, About.OUTPUT] = False
    """No progress."""
    json: Annotated[bool, About.OUTPUT] = False
    """The result as one JSON line on standard output."""
