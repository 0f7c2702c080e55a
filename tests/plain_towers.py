"""Text features by open_clip and transformers themselves, and token features by a plain reading of each kind of tower.

Shape suffixes: N texts, L text positions, W width of a text tower, D joint dimension.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import Tensor

from extract.encode.library import open_clip


@dataclass(frozen=True)
class Own:
    """A model as open_clip loads it: `network` and `transform`, and `tokenizer` as it calls it."""

    network: Any
    transform: Any
    tokenizer: Any

    @property
    def context(self) -> int:
        """Positions that open_clip pads a text to."""
        return int(self.tokenizer.context_length)

    @property
    def inner(self) -> Any:
        """The tokenizer of transformers; None where open_clip uses CLIP's."""
        return getattr(self.tokenizer, "tokenizer", None)

    @cached_property
    def special(self) -> set[int]:
        """Ids that never stand for a part of a text."""
        if self.inner is None:
            return set(self.tokenizer.all_special_ids)
        return set(self.inner.all_special_ids) - {self.inner.unk_token_id}

    def tokens(self, texts: Sequence[str], most: int | None = None, **how: Any) -> tuple[Tensor, Tensor]:
        """Ids [N, context] as open_clip pads them, and which of them are tokens of the text [N, context]; each text of `most` at most."""
        most = self.context if most is None else most
        if self.inner is None:
            ids_NL = torch.zeros(len(texts), self.context, dtype=torch.long)
            ids_NL[:, :most] = self.tokenizer(list(texts), context_length=most)
            return ids_NL, torch.arange(self.context) <= ids_NL.argmax(dim=-1, keepdim=True)
        cut = self.inner([self.tokenizer.clean_fn(text) for text in texts], max_length=most, truncation=True, **how)
        padded = self.inner.pad(cut, padding="max_length", max_length=self.context, return_tensors="pt")
        ids_NL, real_NL = padded["input_ids"], padded["attention_mask"].bool()
        if self.tokenizer.strip_sep_token:
            separators_NL = ids_NL == self.inner.sep_token_id
            ids_NL, real_NL = ids_NL.masked_fill(separators_NL, 0), real_NL & ~separators_NL
        return ids_NL, real_NL

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each whole text."""
        if self.inner is None:
            return [len(self.tokenizer.encode(text)) + 2 for text in texts]
        found = self.inner([self.tokenizer.clean_fn(text) for text in texts])["input_ids"]
        stripped = {self.inner.sep_token_id} if self.tokenizer.strip_sep_token else set()
        return [sum(token not in stripped for token in tokens) for tokens in found]

    @torch.no_grad()
    def sentences(self, ids_NL: Tensor) -> Tensor:
        """What encode_text makes of ids. [N, D]."""
        made: Tensor = self.network.encode_text(ids_NL, normalize=False)  # CoCa normalises where it is not told
        return made

    @cached_property
    def precise(self) -> Any:
        """The text tower in float64."""
        return deepcopy(getattr(self.network, "text", self.network)).double()

    @torch.no_grad()
    def token_features(self, ids_NL: Tensor, real_NL: Tensor) -> Tensor:
        """The features of all positions: hidden states, after the final norm, in the joint space. float64, [N, L, D]."""
        tower = self.precise
        if hasattr(tower, "pooler"):
            hidden_NLW = tower.transformer(input_ids=ids_NL, attention_mask=real_NL.long()).last_hidden_state
            projected: Tensor = tower.proj(hidden_NLW)
            return projected
        length = ids_NL.shape[1]
        hidden_NLW = tower.token_embedding(ids_NL) + tower.positional_embedding[:length]
        mask = None if tower.attn_mask is None else torch.full((length, length), -torch.inf, dtype=torch.float64).triu(1)
        for block in tower.transformer.resblocks:
            hidden_NLW = block(hidden_NLW, attn_mask=mask)
        token_NLW: Tensor = tower.ln_final(hidden_NLW)
        projection = tower.text_projection
        if projection is None:
            return token_NLW
        token_NLD: Tensor = projection(token_NLW) if isinstance(projection, torch.nn.Module) else token_NLW @ projection
        return token_NLD


@pytest.fixture(scope="session")
def own_of(family_model: Callable[[str], str]) -> Callable[[str], Own]:
    """A family as open_clip loads it from its folder; loaded once."""
    loaded: dict[str, Own] = {}

    def own(name: str) -> Own:
        if name not in loaded:
            model, library = family_model(name), open_clip()
            network, _, transform = library.create_model_and_transforms(model)
            loaded[name] = Own(network.eval(), transform, library.get_tokenizer(model))
        return loaded[name]

    return own
