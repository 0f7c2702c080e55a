"""The feature cache on disk: sealed HDF5 parts, an index over them, tables of captions and splits."""

from data.cache.feature_cache import FeatureCache, recorded_settings
from data.cache.layout import CLIP_FILE, ClipParts, Images, TextEntry, VideoEntry

__all__ = ["CLIP_FILE", "ClipParts", "FeatureCache", "Images", "TextEntry", "VideoEntry", "recorded_settings"]
