"""Nothing is computed twice: what is known is remembered, and what is being computed is shared by all who ask for it."""

from rewardmesh.serving.caching.batcher import CacheSettings, CachingBatcher
from rewardmesh.serving.caching.codec import Codec, CorruptValueError, FloatsCodec
from rewardmesh.serving.caching.keys import KeyMaker

__all__ = ["CacheSettings", "CachingBatcher", "Codec", "CorruptValueError", "FloatsCodec", "KeyMaker"]
