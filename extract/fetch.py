"""Download the weights alone, for machines without a network."""

import json
from dataclasses import asdict

import torch

from extract.encode.clip import load_clip
from extract.encode.models import weights_path
from extract.encode.preprocessing import Preprocessing
from extract.options import ExtractOptions
from extract.plan.following import new_cache_defaults


def fetch_model(options: ExtractOptions) -> None:
    """Download the weights if necessary, load them once to check them, and print their path.

    Raises UserError if they cannot be downloaded or loaded.
    """
    # On the CPU, because the machine with the network may have no GPU. No picture is encoded, so any preprocessing will do.
    model = options.model or new_cache_defaults()["model"]
    clip = load_clip(model, options.pretrained, torch.device("cpu"), options.seed, pictures=asdict(Preprocessing()))
    path = weights_path(model, options.pretrained)
    if options.json:
        print(json.dumps({"model": model, "weights": clip.digest, "path": None if path is None else str(path)}))
    elif path is None:
        print(f"{model}: random weights are drawn from --seed, so there is nothing to fetch")
    else:
        print(f"{model}: the weights are in {path}; on a machine without a network set HF_HUB_OFFLINE=1")
