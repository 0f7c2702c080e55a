"""The weights alone, on a machine with a network, for those that have none."""

import json
from dataclasses import asdict

import torch

from extract.encode.clip import load_clip
from extract.encode.models import weights_path
from extract.encode.preprocessing import Preprocessing
from extract.options import ExtractOptions
from extract.plan.following import new_cache_defaults


def fetch_model(options: ExtractOptions) -> None:
    """Download the weights unless they are there, load them once to see that they are whole, and print where they lie.

    Raises UserError where they cannot be had.
    """
    # The machine with the network may be no machine for the work: no device is asked for.
    # And no picture is seen, so that nothing need be known of them.
    model = options.model or new_cache_defaults()["model"]
    clip = load_clip(model, options.pretrained, torch.device("cpu"), options.seed, pictures=asdict(Preprocessing()))
    path = weights_path(model, options.pretrained)
    if options.json:
        print(json.dumps({"model": model, "weights": clip.digest, "path": None if path is None else str(path)}))
    elif path is None:
        print(f"{model}: random weights are drawn from --seed, there is nothing to fetch")
    else:
        print(f"{model}: the weights lie in {path}; on a machine without a network set HF_HUB_OFFLINE=1")
