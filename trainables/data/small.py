"""Small images: augmented on the device where it can, in worker processes where the recipe needs more."""

from __future__ import annotations

from trainables.data import Data, Loading
from trainables.data.cache import Arrays
from trainables.data.device import DeviceData, suits


def small_images(cached: Arrays, loading: Loading) -> Data:
    """The cached arrays, loaded for a trial."""
    if suits(loading.settings):
        return DeviceData(cached, loading)
    from trainables.data.loader import Images, LoaderData

    size = cached.train.shape[-1]
    return LoaderData(Images(**vars(cached), size=size, square=True), loading)
