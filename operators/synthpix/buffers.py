"""Output arrays that are used again as soon as nobody holds them.

A fresh batch of 256 pairs is 200 MB of new memory, and its first touch costs as much as rendering into it. The pool
keeps what it gave out and hands an array out again only when it is the last holder (CPython's reference count):
batches, views of them and whatever wraps them (a tensor made from an array) all count as holders.
"""

import sys

import numpy as np

KEPT = 9  # arrays: three batches of images1, images2 and flow
LAST_HOLDER = 3  # the pool's list, the loop's name, and the question itself


class Pool:
    """`take(shape, dtype)` gives an array of undefined content."""

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        for array in self._arrays:
            if array.shape == shape and array.dtype == dtype and sys.getrefcount(array) == LAST_HOLDER:
                return array
        fresh = np.empty(shape, dtype)
        self._arrays = [*self._arrays[-(KEPT - 1) :], fresh]
        return fresh
