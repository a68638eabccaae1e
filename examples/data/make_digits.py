"""Makes digits.npz, digits_train.npz and digits_test.npz beside this file.

Needs scikit-learn, which carries the data set; nothing else in this project does:

    python3 -m venv /tmp/digits && /tmp/digits/bin/pip install scikit-learn
    /tmp/digits/bin/python examples/data/make_digits.py

Written uncompressed, so that a member of the archive can be memory-mapped, and with fixed time
stamps, so that the same data give the same bytes.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

TRAIN_ROWS = 1437
SPLIT_SEED = 0
FIRST_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 images (pixels 0..16) and their labels, in scikit-learn's order."""
    try:
        from sklearn import datasets
    except ImportError:
        sys.exit("make_digits.py needs scikit-learn: pip install scikit-learn")
    digits = datasets.load_digits()
    return digits.data.astype(np.uint8), digits.target.astype(np.int64)


def write_npz(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Like np.savez, with time stamps and attributes that do not depend on when or where."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, column in columns.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(column), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", FIRST_ZIP_DATE), buffer.getvalue())
    print(f"{path.name}: {path.stat().st_size:,} bytes")


def main() -> None:
    here = Path(__file__).resolve().parent
    pixels, labels = load_digits()
    write_npz(here / "digits.npz", {"x": pixels, "t": labels})

    order = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
    scaled = pixels.astype(np.float32) / np.float32(16)
    for name, rows in (("train", order[:TRAIN_ROWS]), ("test", order[TRAIN_ROWS:])):
        write_npz(here / f"digits_{name}.npz", {"x": scaled[rows], "t": labels[rows]})


if __name__ == "__main__":
    main()
