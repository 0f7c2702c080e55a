"""Options of `python -m train_head`, the same from the shell and from Python."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from data.cli.command_line import About
from data.cli.meaning import AtLeast, DeviceName, Meaning, NoneAs, SavesMemory, Since
from train_head.temperatures import KAPPA, TAU


@dataclass(frozen=True)
class TrainOptions:
    """Train a head on cached features and keep the epoch that is best on the validation split."""

    cache: Annotated[Path, About.INPUT, Meaning.FREE]
    """Folder of the feature cache."""
    out: Annotated[Path, About.OUTPUT, Meaning.FREE]
    """Folder for the run. Must be empty, or hold the run that --resume continues."""
    resume: Annotated[bool, About.OUTPUT, Meaning.FREE] = False
    """Continue the unfinished run in OUT, or start one if OUT is empty. On a CPU the result is bit-identical to an uninterrupted run."""
    checkpoint_steps: Annotated[int, About.OUTPUT, Meaning.FREE, AtLeast(1)] = 200
    """Steps between checkpoints. Every epoch also ends with one."""
    preset: Annotated[str | None, About.INPUT] = None
    """Split protocol. Needed only if the cache serves several."""
    name: Annotated[str | None, About.INPUT] = None
    """Source in the cache, by the name that extract gave it. Default: all sources with captions, together."""
    select_on: Annotated[Literal["val", "test"], About.INPUT] = "val"
    """Split that chooses the epoch. `test` is common practice for protocols without a validation split: training then includes the videos
    held out for validation, and every result is labelled."""
    head: Annotated[str, About.HEAD, Meaning.VARIED] = "glccl"
    """glccl (the method), its halves glim-global and glim-local, mean (CLIP4Clip's pooling), xclip (the four scores without text guidance),
    dp, ti and wti (DRL's dot product, token-wise and weighted token-wise interaction), meanmaxsim (Video-ColBERT's mean of maxima), xpool
    (X-Pool's cross-modal attention), tmass (T-MASS's stochastic texts), glscl (GLSCL's shared learned queries), tmvm and tmvm-frames
    (TMVM's prototypes of a video, over patch tokens and frames or over frames alone), ts2 (TS2-Net's selection among patch tokens), tight
    (CLIP4Clip's Transformer over every pair, hundreds of times as expensive), joint (a re-ranker that reads words and patch tokens
    together, trained with --candidates-run), or a class of your own as package.module:Class."""
    scores: Annotated[str, About.HEAD, Meaning.VARIED] = "all"
    """Scores to use, joined by +, if the head has several: video-sentence, video-word, sentence-frame, word-frame. For example
    video-sentence+word-frame."""
    temporal: Annotated[Literal["auto", "seq-transf", "seq-lstm", "none"], About.HEAD, Meaning.VARIED] = "auto"
    """Temporal encoder over the frames: seq-transf (four Transformer blocks) or seq-lstm (a one-way LSTM). auto is seq-transf, and
    none for tight, ts2 and joint, which have Transformer blocks of their own."""
    temporal_init: Annotated[Literal["auto", "clip", "random"], About.HEAD, Meaning.VARIED] = "auto"
    """Initial weights of the Transformer blocks, of seq-transf, tight or ts2: CLIP's text blocks, or random. auto takes CLIP's if they fit
    the features, and says and records which."""
    tau: Annotated[float | None, About.HEAD, Meaning.VARIED, NoneAs("paper"), Since(TAU)] = None
    """Temperature of the guidance, for glccl, its halves and glscl: the smaller, the fewer frames a text reads. Evaluation and search of
    the run use it too. Default: the paper's, 5."""
    kappa: Annotated[float | None, About.HEAD, Meaning.VARIED, NoneAs("paper"), Since(KAPPA)] = None
    """Temperature of the interaction, for glccl, its halves and xclip. Default: the paper's, 0.01."""
    csc_weight: Annotated[float, About.LOSS, Meaning.VARIED, AtLeast(0)] = 0.5
    """Weight of the CSC loss. Heads with a single score have no CSC loss."""
    csc_data: Annotated[Literal["both", "positive", "negative"], About.LOSS, Meaning.VARIED] = "both"
    """Pairs through which the CSC gradient flows."""
    cdcr: Annotated[float, About.LOSS, Meaning.VARIED, AtLeast(0), Since(0.0)] = 0.0
    """Weight of DRL's channel decorrelation loss, for heads that read words. DRL uses 0.001."""
    mask_same_video: Annotated[bool, About.LOSS, Meaning.VARIED] = False
    """Exclude other captions of the same video from the losses. By default they count as negatives, as is common practice."""
    candidates_run: Annotated[str | None, About.LOSS, Since(None)] = None
    """For joint and tight: a run, or zero-shot:HEAD, that ranks the training split first. Every step then scores each caption and each
    video with hard negatives alone: wrong entries that this run ranks high. The epoch is chosen by re-ranking its best."""
    hard_negatives: Annotated[int | None, About.LOSS, AtLeast(1), Since(None)] = None
    """With --candidates-run: hard negatives of each caption and of each video in a step. Default: 15."""
    candidates: Annotated[int | None, About.LOSS, AtLeast(1), Since(None)] = None
    """With --candidates-run: how many of its best are drawn from for every caption and every video, and re-ranked in validation. Default:
    50."""
    max_frames: Annotated[int | None, About.INPUT, Meaning.VARIED, NoneAs("all")] = None
    """Frames used of each video, evenly spaced. The temporal encoder gets a position for each, at least as many as CLIP has. Default: all
    cached frames."""
    padding: Annotated[Literal["masked", "authors"] | None, About.HEAD, Meaning.VARIED, NoneAs("recipe"), Since("masked")] = None
    """masked: padded words and frames have no effect. authors: they count wherever they do in the code of the head's authors, with texts
    padded to the cache's limit of words, and videos to --max-frames or to the longest video. Zero vectors stand for padding, because the
    cache holds real words and frames alone; the authors' padding holds what CLIP makes of padding tokens and blank pictures. So this
    approaches their figures and does not reproduce them. Default: masked, or what --recipe says."""
    recipe: Annotated[Literal["authors"] | None, About.OPTIMIZER, Meaning.FREE, Meaning.VARIED] = None
    """authors: --optimizer bert-adam and --padding authors, unless given otherwise. For heads whose published figures were made with that
    optimiser."""
    optimizer: Annotated[Literal["adamw", "bert-adam"] | None, About.OPTIMIZER, Meaning.VARIED, NoneAs("recipe"), Since("adamw")] = None
    """bert-adam is CLIP4Clip's, which its successors use: no bias correction, gradients clipped tensor by tensor, another schedule, and the
    logit scale trains at --lr / 1000, or at --clip-lr with --finetune. Default: adamw, or what --recipe says."""
    epochs: Annotated[int, About.OPTIMIZER, Meaning.VARIED, AtLeast(1)] = 5
    """Passes over the training captions."""
    batch_size: Annotated[int, About.OPTIMIZER, Meaning.VARIED, AtLeast(2), SavesMemory("a --batch-size below {} with another --out")] = 128
    """Captions (and their videos) per step, over all processes. Reduced to the number of training videos if there are fewer."""
    lr: Annotated[float, About.OPTIMIZER, Meaning.VARIED, AtLeast(0)] = 1e-4
    """Peak learning rate: linear warm-up over the first 10% of the steps, then cosine decay to zero. bert-adam begins at 0, and its
    cosine spans all steps, warm-up included."""
    weight_decay: Annotated[float, About.OPTIMIZER, AtLeast(0)] = 0.2
    """Decoupled weight decay of matrices. Biases, norms and the logit scale do not decay. With bert-adam, everything but biases decays."""
    finetune: Annotated[bool, About.FINETUNING, Meaning.FINETUNING] = False
    """Train CLIP too, on the pictures that extract --store-pixels keeps in the cache. Writes the new CLIP to OUT/clip; extract with it
    before evaluating."""
    clip_lr: Annotated[float, About.FINETUNING, Meaning.FINETUNING, AtLeast(0)] = 1e-7
    """With --finetune: peak learning rate of CLIP, on the same schedule."""
    freeze_layers: Annotated[int, About.FINETUNING, Meaning.FINETUNING] = 0
    """With --finetune: freeze the embeddings and this many blocks of each tower of CLIP, counted from the input. 0 freezes only the
    embeddings, -1 nothing."""
    grad_checkpointing: Annotated[bool, About.FINETUNING, Meaning.FREE, Meaning.FINETUNING, SavesMemory("--grad-checkpointing")] = False
    """With --finetune: recompute CLIP's activations in the backward pass instead of storing them. Slower, less memory."""
    model: Annotated[str | None, About.FINETUNING, Meaning.FREE, Meaning.FINETUNING] = None
    """With --finetune: model name or folder of the CLIP that made the cache, if it has moved. Default: the one recorded in the cache."""
    pretrained: Annotated[str | None, About.FINETUNING, Meaning.FREE, Meaning.FINETUNING] = None
    """With --finetune: the weights that made the cache, if they have moved. Default: those recorded in the cache."""
    allow_missing: Annotated[bool, About.INPUT] = False
    """Continue without the captions and videos whose features are missing."""
    memory_budget: Annotated[float | None, About.MACHINE, Meaning.FREE, SavesMemory("a smaller --memory-budget")] = None
    """GiB of features to keep in memory per split. Default: half of the machine's memory."""
    process_timeout: Annotated[float, About.MACHINE, Meaning.FREE] = 60.0
    """Under torchrun: seconds without a heartbeat after which another process counts as lost."""
    precision: Annotated[Literal["fp32", "bf16"], About.MACHINE] = "fp32"
    """bf16, on CUDA only, runs the temporal encoder and the text-frame products in bfloat16; all else stays float32."""
    device: Annotated[DeviceName, About.MACHINE, Meaning.REPEAT] = "auto"
    """Device to train on. auto takes CUDA if available, else the CPU. mps is for GPUs of Apple, and untested."""
    seed: Annotated[int, About.OPTIMIZER, Meaning.REPEAT] = 0
    """Seed of the initial weights and of the order of captions."""
    tensorboard: Annotated[bool, About.OUTPUT, Meaning.FREE] = False
    """Also write every step's losses and learning rate and every epoch's metrics to OUT/tensorboard. Needs the package tensorboard."""
    quiet: Annotated[bool, About.OUTPUT, Meaning.FREE] = False
    """Show no progress."""
    json: Annotated[bool, About.OUTPUT, Meaning.FREE] = False
    """Print the result as one JSON line on standard output."""
