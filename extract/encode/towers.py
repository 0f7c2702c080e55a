"""Text towers by kind: the sentence feature as open_clip's encode_text makes it, and the features of all positions from the same pass.

Shape suffixes: N texts, L text positions, D joint dimension, W width of the text tower.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

BLOCK = "ResidualAttentionBlock"
"""open_clip's class of CLIP's own text blocks."""


class TextTower(ABC):
    """The text tower of an open_clip model.

    `network` is the whole model, and `module` the part of it that holds the text blocks: the model itself, or its attribute `text`.
    """

    def __init__(self, network: Any, context_length: int) -> None:
        self.network, self.context_length = network, context_length
        self.module = text_module(network)

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of its token embeddings."""

    @property
    @abstractmethod
    def clip_blocks(self) -> list[Any]:
        """Its blocks if they are CLIP's own, else an empty list."""

    def positions(self, length: int) -> int:
        """Number of positions to run the tower at for a text of `length` tokens: the whole context, unless later positions have no effect.

        The result depends on the text alone, so its features do not depend on the batch.
        """
        return self.context_length

    @abstractmethod
    def features(self, ids_NL: Tensor) -> tuple[Tensor, Tensor]:
        """Unnormalised sentence features [N, D] and features of all positions [N, L, D], of `positions` positions."""

    @abstractmethod
    def project(self, hidden_NLW: Tensor) -> Tensor:
        """Hidden states of the last block as features [N, L, D], as the tower makes the sentence feature from one of them."""

    def _sentences(self, ids_NL: Tensor) -> Tensor:
        return pooled(self.network.encode_text(ids_NL, normalize=False))


class OpenClipTower(TextTower):
    """A text tower of open_clip's that attends in both directions, or makes the sentence feature at a fixed position: SigLIP, CLIPA.

    It runs at the whole context, padding included, as it was trained.
    """

    @property
    def vocab_size(self) -> int:
        return int(self.module.token_embedding.num_embeddings)

    @property
    def clip_blocks(self) -> list[Any]:
        blocks = list(self.module.transformer.resblocks)
        return blocks if all(type(block).__name__ == BLOCK for block in blocks) else []

    def features(self, ids_NL: Tensor) -> tuple[Tensor, Tensor]:
        assert ids_NL.shape[1] == self.context_length
        with outputs_of(self.module.ln_final) as outputs:
            sentence_ND = self._sentences(ids_NL)
        return sentence_ND, self._to_joint(outputs[0])

    def project(self, hidden_NLW: Tensor) -> Tensor:
        return self._to_joint(self.module.ln_final(hidden_NLW))

    def _to_joint(self, token_NLW: Tensor) -> Tensor:
        projection = self.module.text_projection
        if projection is None:
            return token_NLW
        projected: Tensor = projection(token_NLW) if isinstance(projection, nn.Module) else token_NLW @ projection
        return projected


class CausalTower(OpenClipTower):
    """A text tower of open_clip's in which no position sees a later one, and the sentence feature is made at the end token: CLIP.

    It runs at the positions of a text's tokens alone.
    """

    def positions(self, length: int) -> int:
        """`length` rounded up to an even number, to have fewer distinct shapes, and at most the context length."""
        return min(length + length % 2, self.context_length)

    def features(self, ids_NL: Tensor) -> tuple[Tensor, Tensor]:
        module, length = self.module, ids_NL.shape[1]
        dtype = module.transformer.get_cast_dtype()
        embedded_NLW = module.token_embedding(ids_NL).to(dtype) + module.positional_embedding[:length].to(dtype)
        token_NLD = self.project(module.transformer(embedded_NLW, attn_mask=module.attn_mask[:length, :length]))
        return token_NLD[torch.arange(len(ids_NL), device=ids_NL.device), self._end(ids_NL)], token_NLD

    def _end(self, ids_NL: Tensor) -> Tensor:
        """The position of each text's end token: the largest id, or that of a number."""
        if _pooling(self.module) == "argmax":
            return ids_NL.argmax(dim=-1)
        end: int = getattr(self.module, "eos_id", getattr(self.module, "text_eos_id", -1))
        return ids_NL.eq(end).int().argmax(dim=-1)


class ClassTokenTower(OpenClipTower):
    """CoCa's text tower. It appends a class token to the whole context, makes the sentence feature from it, and hides padding from it.

    The class token is not a token of a text, and no token sees it.
    """

    def features(self, ids_NL: Tensor) -> tuple[Tensor, Tensor]:
        assert ids_NL.shape[1] == self.context_length
        with outputs_of(self.module.transformer) as outputs:
            sentence_ND = self._sentences(ids_NL)
        return sentence_ND, self.project(outputs[0][:, :-1])


class HuggingFaceTower(TextTower):
    """A text tower of transformers': RoBERTa, XLM-R, BERT, or the encoder of mT5 or NLLB. It hides padding by its own mask."""

    @property
    def vocab_size(self) -> int:
        return int(self.module.transformer.get_input_embeddings().num_embeddings)

    @property
    def clip_blocks(self) -> list[Any]:
        return []

    @property
    def width(self) -> int:
        """W, the width of the hidden states."""
        return int(self.module.transformer.get_input_embeddings().embedding_dim)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the hidden states."""
        dtype: torch.dtype = self.module.transformer.get_input_embeddings().weight.dtype
        return dtype

    def features(self, ids_NL: Tensor) -> tuple[Tensor, Tensor]:
        assert ids_NL.shape[1] == self.context_length
        with outputs_of(self.module.transformer) as outputs:
            sentence_ND = self._sentences(ids_NL)
        return sentence_ND, self.project(outputs[0].last_hidden_state)

    def project(self, hidden_NLW: Tensor) -> Tensor:
        projected: Tensor = self.module.proj(hidden_NLW)
        return projected


def text_tower(network: Any, context_length: int) -> TextTower:
    """The text tower of a model, by its kind. `context_length` is the length of its tokenizer's texts."""
    module = text_module(network)
    if hasattr(module, "pooler"):
        return HuggingFaceTower(network, context_length)
    if getattr(module, "cls_emb", None) is not None:
        return ClassTokenTower(network, context_length)
    return (CausalTower if _is_causal(module) else OpenClipTower)(network, context_length)


def text_module(network: Any) -> Any:
    """The module that holds the text blocks: the model itself (CLIP) or its attribute `text` (CustomTextCLIP, CoCa)."""
    return getattr(network, "text", network)


def pooled(made: Any) -> Tensor:
    """The pooled feature alone. A tower configured with `output_tokens` returns a tuple (pooled, tokens)."""
    feature: Tensor = made[0] if isinstance(made, tuple) else made
    return feature


def _pooling(module: Any) -> Any:
    return getattr(module, "pool_type", getattr(module, "text_pool_type", None))


def _is_causal(module: Any) -> bool:
    """True if attention is causal and the end token is pooled: then positions after the end token have no effect."""
    mask: Tensor | None = getattr(module, "attn_mask", None)
    # Without values, the mask tells nothing; and the whole context has the same shapes.
    if mask is None or mask.is_meta or _pooling(module) not in ("argmax", "eos"):
        return False
    later = torch.ones_like(mask, dtype=torch.bool).triu(1)
    return bool((mask[later] == -torch.inf).all() and (mask[~later] == 0).all())


@contextmanager
def outputs_of(module: nn.Module) -> Iterator[list[Any]]:
    """What a module returns within the context."""
    outputs: list[Any] = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        hook.remove()
