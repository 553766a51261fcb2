"""Real numbers to learn from: the embedded digits' scans, as raw pixels."""

import pytest
from sklearn.datasets import load_digits


@pytest.fixture(scope="session")
def digits():
    """Pixels `[1797, 64]` and labels, cut into 1,000 for training and 797 for testing."""
    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels.astype("float32")
    return (pixels[:1000], labels[:1000]), (pixels[1000:], labels[1000:])
