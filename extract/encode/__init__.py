"""Encode pictures and captions as features: open_clip models, their preprocessing and their tokenizers."""
