"""Averages of arrays, updated in place."""


def move_towards(arrays, targets, share, size=2**16):
    """Add ``share * (target - array)`` to every one-dimensional array in place.

    It works on parts of ``size`` entries, so that no array of the full length is allocated.
    """
    for array, target in zip(arrays, targets, strict=True):
        factor = array.dtype.type(share)
        for first in range(0, len(array), size):
            part = slice(first, first + size)
            array[part] += factor * (target[part] - array[part])
