"""One small model of each family of text-image models, as a folder that open_clip loads without a network.

A folder holds open_clip's own configuration of a real architecture with small sizes, weights that open_clip drew from a seed, and the files
of a tokenizer trained here. An image tower of timm is the real one with `model_args`, in a folder within.
"""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ENGLISH = (
    "a dog runs across the green grass",
    "a man is playing a guitar on the stage",
    "two children are building a castle of sand at the beach",
    "a woman is slicing an onion in the kitchen and talks to the camera",
    "the red car turns left at the corner and drives past a blue house",
    "someone pours water into a glass",
    "a cartoon cat chases a small mouse through the house",
    "people are dancing at a wedding while a band plays music",
    "a boy kicks the ball into the goal",
    "a person is connecting something to a computer",
    "first a red ring moves to the left, then a large blue heart appears at the top",
    "the camera pans over a quiet lake and snowy mountains in the evening",
)
FOREIGN = {
    "German": (
        "ein Hund läuft über das grüne Gras",
        "ein Mann spielt auf der Bühne Gitarre",
        "zwei Kinder bauen am Strand eine Burg aus Sand",
        "das rote Auto biegt links ab und fährt an einem Haus vorbei",
    ),
    "Chinese": ("一只狗在草地上奔跑", "一个男人在舞台上弹吉他", "两个孩子在海滩上用沙子建城堡", "红色的汽车在路口左转"),
    "Japanese": (
        "犬が緑の芝生の上を走っている",
        "男性がステージでギターを弾いている",
        "二人の子供が浜辺で砂の城を作っている",
        "赤い車が角を左に曲がる",
    ),
    "Arabic": ("كلب يركض على العشب الأخضر", "رجل يعزف على الجيتار على المسرح", "طفلان يبنيان قلعة من الرمل على الشاطئ"),
    "Hindi": ("एक कुत्ता हरी घास पर दौड़ रहा है", "एक आदमी मंच पर गिटार बजा रहा है", "दो बच्चे समुद्र तट पर रेत का महल बना रहे हैं"),
}
CORPUS = [*ENGLISH * 4, *(text for texts in FOREIGN.values() for text in texts * 4)]
"""What the tokenizers are trained on, each sentence a few times."""

PIECES = 900
"""Pieces of a vocabulary at most."""
WORD = -6.0
"""Score of a whole word in a Unigram model: the few sentences of the corpus alone leave nothing but syllables."""
WIDTH, JOINT, SIDE = 32, 48, 32
LAYERS = {"width": WIDTH, "heads": 2, "layers": 2}
VIT = {"width": 64, "head_width": 32, "layers": 2, "patch_size": 16, "image_size": SIDE}


@dataclass(frozen=True)
class Family:
    """`real` is open_clip's name of an architecture. The rest is what its small form changes or adds.

    `tokenizer` writes tokenizer files into a folder; None is CLIP's own. `tower` is the configuration of a Hugging Face text tower. `timm`
    holds the sizes of an image tower of timm. `multilingual` means that the tokenizer has seen FOREIGN.
    """

    real: str
    tokenizer: Callable[[Path], None] | None = None
    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    tower: dict[str, Any] | None = None
    timm: dict[str, Any] | None = None
    multilingual: bool = False

    def write(self, folder: Path) -> str:
        """Write the folder; its name for `--model`."""
        import torch
        from safetensors.torch import save_file

        from extract.encode.library import open_clip

        folder.mkdir(parents=True)
        library = open_clip()
        config = deepcopy(library.get_model_config(self.real))
        config |= {"embed_dim": JOINT} | self.model
        config["vision_cfg"] |= self.vision
        config["text_cfg"] |= self.text
        if self.timm is not None:
            config["vision_cfg"] |= {"timm_model_name": _timm_tower(folder / "image", config["vision_cfg"]["timm_model_name"], self.timm)}
        if self.tokenizer is not None:
            self.tokenizer(folder)
        if self.tower is not None:
            config["text_cfg"]["hf_model_name"] = str(folder)
            (folder / "config.json").write_text(json.dumps(self.tower | {"vocab_size": _vocabulary(folder) + 3}))
        elif self.tokenizer is not None:
            config["text_cfg"]["vocab_size"] = _vocabulary(folder) + 3
        tag = next(iter(library.list_pretrained_tags_by_model(self.real)), None)
        trained = {} if tag is None else library.get_pretrained_cfg(self.real, tag)
        pictures = {key: trained[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in trained}
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": pictures}))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(len(self.real))
            network = library.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
            with torch.no_grad():
                # Biases start at zero, gains at one and timm's weights near zero: a reader that leaves one out would not be caught.
                for name, parameter in network.named_parameters():
                    if parameter.ndim > 1 and name.startswith("visual.trunk"):
                        parameter.normal_(std=parameter[0].numel() ** -0.5)
                    elif parameter.ndim == 1 and not name.startswith("logit"):
                        parameter.add_(0.1 * torch.randn_like(parameter))
        state = {name: value.contiguous().clone() for name, value in network.state_dict().items()}
        save_file(state, folder / "open_clip_model.safetensors")
        return f"local-dir:{folder}"


def _timm_tower(folder: Path, architecture: str, sizes: dict[str, Any]) -> str:
    """A folder in timm's form; its name for `timm_model_name`."""
    folder.mkdir()
    pictures = {"input_size": [3, SIDE, SIDE]}
    (folder / "config.json").write_text(json.dumps({"architecture": architecture, "model_args": sizes, "pretrained_cfg": pictures}))
    return f"local-dir:{folder}"


def _vocabulary(folder: Path) -> int:
    """Number of ids of a tokenizer, the added ones included."""
    from transformers import AutoTokenizer

    return len(AutoTokenizer.from_pretrained(folder))


@cache
def _unigram() -> list[tuple[str, float]]:
    """Pieces and scores as sentencepiece's Unigram model learns them, without special tokens."""
    from tokenizers import SentencePieceUnigramTokenizer

    made = SentencePieceUnigramTokenizer()
    made.train_from_iterator(CORPUS, vocab_size=PIECES, show_progress=False, unk_token="<unk>", special_tokens=["<unk>"])
    learned = {piece: score for piece, score in json.loads(made.to_str())["model"]["vocab"] if piece != "<unk>"}
    return list((dict.fromkeys(_words(), WORD) | learned).items())


def _words() -> list[str]:
    """The words of the corpus as pieces, of the languages that put spaces between them."""
    return sorted({f"▁{word.strip(',')}" for text in CORPUS if " " in text for word in text.split()})


def _bpe(pre_tokenizer: Any, alphabet: list[str], corpus: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Pieces and merges of a byte-pair encoding."""
    from tokenizers import Tokenizer, models, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizer
    made.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=PIECES, max_token_length=7, show_progress=False, initial_alphabet=alphabet)
    )
    model = json.loads(made.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].__getitem__), [tuple(merge) for merge in model["merges"]]


def _numbered(*groups: list[str]) -> dict[str, int]:
    return {piece: n for n, piece in enumerate(dict.fromkeys(piece for group in groups for piece in group))}


def t5_of_siglip(folder: Path) -> None:
    """SigLIP pads with T5's end token."""
    from transformers import T5Tokenizer

    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *_unigram()]
    T5Tokenizer(vocab=vocabulary, extra_ids=0, pad_token="</s>", model_max_length=64).save_pretrained(folder)


def spiece_of_mt5(folder: Path) -> None:
    """A sentencepiece file alone, as mT5 is published: there is no tokenizer.json."""
    import sentencepiece

    protocol: Any = import_module("sentencepiece.sentencepiece_model_pb2")
    folder.mkdir(exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_prefix=str(folder / "spiece"), vocab_size=PIECES, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, character_coverage=1.0, minloglevel=2, num_threads=1,
    )  # fmt: skip
    (folder / "spiece.vocab").unlink()
    model = protocol.ModelProto.FromString((folder / "spiece.model").read_bytes())
    for word in sorted(set(_words()) - {piece.piece for piece in model.pieces}):
        model.pieces.add(piece=word, score=WORD)
    (folder / "spiece.model").write_bytes(model.SerializeToString())
    settings = {"tokenizer_class": "T5Tokenizer", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "extra_ids": 0}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def gemma_of_siglip2(folder: Path) -> None:
    """Gemma's byte-pair encoding with bytes for what it does not know, an end token and no start token."""
    from tokenizers import pre_tokenizers, processors
    from transformers import GemmaTokenizer

    letters, merges = _bpe(pre_tokenizers.Metaspace(prepend_scheme="never"), [], CORPUS)
    special, single = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], [f"<0x{byte:02X}>" for byte in range(256)]
    made = GemmaTokenizer(
        vocab=_numbered(special, single, letters), merges=merges, padding_side="right", add_bos_token=False, add_eos_token=True,
        model_max_length=64,
    )  # fmt: skip
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    made.save_pretrained(folder)


def word_pieces(folder: Path) -> None:
    """BERT's tokenizer in lower case."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizer

    made = BertWordPieceTokenizer(lowercase=True)
    made.train_from_iterator(ENGLISH, vocab_size=PIECES, min_frequency=1, show_progress=False)
    vocabulary = made.get_vocab()
    assert [vocabulary[token] for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")] == [0, 1, 2, 3, 4]
    BertTokenizer(vocab=vocabulary, model_max_length=512).save_pretrained(folder)


def bytes_of_roberta(folder: Path) -> None:
    """RoBERTa's byte-pair encoding of bytes; any text can be written in it."""
    from tokenizers import pre_tokenizers
    from transformers import RobertaTokenizer

    letters, merges = _bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.ByteLevel.alphabet(), [*ENGLISH])
    vocabulary = _numbered(["<s>", "<pad>", "</s>", "<unk>"], letters, ["<mask>"])
    RobertaTokenizer(vocab=vocabulary, merges=merges, model_max_length=512).save_pretrained(folder)


def xlm_roberta(folder: Path) -> None:
    """XLM-R's pieces between a start and an end token."""
    from transformers import XLMRobertaTokenizer

    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    XLMRobertaTokenizer(vocab=[*special, *_unigram(), ("<mask>", 0.0)], model_max_length=512).save_pretrained(folder)


def nllb(folder: Path) -> None:
    """NLLB's pieces between the language of the text and an end token."""
    from tokenizers import pre_tokenizers
    from transformers import NllbTokenizer

    letters, merges = _bpe(pre_tokenizers.Metaspace(), [], CORPUS)
    vocabulary = _numbered(["<s>", "<pad>", "</s>", "<unk>"], letters)
    made = NllbTokenizer(vocab=vocabulary, merges=merges, extra_special_tokens=["deu_Latn", "eng_Latn", "zho_Hans"], model_max_length=1024)
    made.save_pretrained(folder)


# Weights of the size that these small widths need: with the published 0.02 a token would hardly see its neighbours.
BERT = {
    "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 90,
    "initializer_range": 0.3, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1,
}  # fmt: skip
ROBERTA = BERT | {"model_type": "roberta"}
XLM_R = BERT | {"model_type": "xlm-roberta"}
MT5 = {
    "model_type": "mt5", "d_model": WIDTH, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 2,
    "feed_forward_proj": "gated-gelu", "is_encoder_decoder": True, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
    "tie_word_embeddings": False,
}  # fmt: skip
M2M = {
    "model_type": "m2m_100", "d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 96, "is_encoder_decoder": True,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2, "init_std": 0.3, "scale_embedding": True,
}  # fmt: skip
SIGLIP_IMAGE = {"img_size": SIDE, "embed_dim": JOINT, "depth": 2, "num_heads": 2}
SIDE_32 = {"image_size": SIDE}

FAMILIES = {
    "CLIP": Family("ViT-B-32-quickgelu", text=LAYERS | {"context_length": 24}, vision=VIT),
    "CLIPA": Family("ViT-L-14-CLIPA", word_pieces, LAYERS, VIT),
    "SigLIP": Family("ViT-B-16-SigLIP", t5_of_siglip, LAYERS | {"context_length": 16}, SIDE_32, timm=SIGLIP_IMAGE),
    "SigLIP at 64": Family("ViT-B-16-SigLIP-256", t5_of_siglip, LAYERS, SIDE_32, timm=SIGLIP_IMAGE, multilingual=True),
    "SigLIP i18n": Family(
        "ViT-SO400M-16-SigLIP-i18n-256", t5_of_siglip, LAYERS | {"width": JOINT, "context_length": 20}, SIDE_32, timm=SIGLIP_IMAGE,
        multilingual=True,
    ),
    "SigLIP 2": Family("ViT-B-16-SigLIP2", gemma_of_siglip2, LAYERS, SIDE_32, timm=SIGLIP_IMAGE, multilingual=True),
    "CoCa": Family(
        "coca_ViT-B-32", text=LAYERS | {"context_length": 24}, vision=VIT | {"attn_pooler_heads": 2},
        model={"multimodal_cfg": LAYERS | {"context_length": 24, "vocab_size": 49408, "attn_pooler_heads": 2}},
    ),
    "CoCa with RoBERTa": Family(
        "coca_roberta-ViT-B-32", bytes_of_roberta, {"width": WIDTH}, VIT, {"multimodal_cfg": LAYERS | {"context_length": 76}}, ROBERTA
    ),
    "RoBERTa": Family("roberta-ViT-B-32", bytes_of_roberta, {}, VIT, tower=ROBERTA),
    "XLM-R": Family("xlm-roberta-base-ViT-B-32", xlm_roberta, {}, VIT, tower=XLM_R, multilingual=True),
    "mT5": Family("mt5-base-ViT-B-32", spiece_of_mt5, {}, VIT, tower=MT5, multilingual=True),
    "NLLB": Family("nllb-clip-base", nllb, {}, VIT, tower=M2M, multilingual=True),
    "MetaCLIP worldwide": Family(
        "ViT-H-14-worldwide-quickgelu", xlm_roberta, LAYERS | {"context_length": 24}, VIT, multilingual=True
    ),
    "MobileCLIP": Family(
        "MobileCLIP2-S0", text=LAYERS | {"context_length": 24}, vision={"image_size": 64},
        timm={"layers": [1, 1, 1, 1], "embed_dims": [16, 32, 64, 128]},
    ),
    "PE-Core": Family(
        "PE-Core-T-16-384", text=LAYERS, vision=SIDE_32,
        timm={"img_size": SIDE, "embed_dim": WIDTH, "depth": 2, "num_heads": 2, "attn_pool_num_heads": 2, "ref_feat_shape": [2, 2]},
    ),
    "EVA": Family(
        "EVA02-B-16", text=LAYERS | {"context_length": 24}, vision=SIDE_32,
        timm={"img_size": SIDE, "embed_dim": WIDTH, "depth": 2, "num_heads": 2, "ref_feat_shape": [2, 2]},
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def family_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The `--model` of a family; each is made once."""
    base = tmp_path_factory.mktemp("families")
    made: dict[str, str] = {}

    def model(name: str) -> str:
        if name not in made:
            made[name] = FAMILIES[name].write(base / name.replace(" ", "-"))
        return made[name]

    return model
