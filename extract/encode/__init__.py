"""From pictures and captions to features: open_clip models, their preprocessing and their tokenizers."""
