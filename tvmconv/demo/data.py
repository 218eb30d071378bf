"""The files that ship with the demo: the trained model and the digits it has never seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).parent
MODEL = "digits.onnx"
TEST_DATA = "digits_test.npz"
SCALE = 4
LARGEST_PIXEL = 16
#: A character for each pixel value, 0 to 16.
SHADES = " ..::--==++**##%@"


@dataclass(frozen=True)
class Digits:
    """Handwritten digits.

    Attributes
    ----------
    images : ndarray of uint8, shape (N, 8, 8)
        Pixels 0 (white) to 16 (black).
    labels : ndarray of uint8, shape (N,)
        The digit, 0 to 9.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]


def prepare(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Turn (N, 8, 8) pixels 0..16 into the model's input: (N, 1, 32, 32), 0 to 1, enlarged."""
    scaled = images.astype(np.float32) / np.float32(LARGEST_PIXEL)
    large: npt.NDArray[np.float32] = scaled.repeat(SCALE, axis=1).repeat(SCALE, axis=2)
    return large[:, None]


def load_test_digits(folder: Path = FOLDER) -> Digits:
    """Load the digits that training did not use; `train.py` says where they come from."""
    with np.load(folder / TEST_DATA, allow_pickle=False) as archive:
        return Digits(archive["images"], archive["labels"])


def load_digits_model(folder: Path = FOLDER) -> tuple[Any, dict[str, str]]:
    """Load the classifier (an ``onnx.ModelProto``) and what its training recorded in it."""
    import onnx

    model = onnx.load(folder / MODEL)
    return model, {entry.key: entry.value for entry in model.metadata_props}
