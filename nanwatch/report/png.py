"""A PNG file from rows of pixels, by the standard library alone.

Source: https://www.w3.org/TR/png-3/, colour type 2 (RGB), 8 bits, no interlace.
"""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray


def png_data_uri(pixels_HW3: NDArray[np.uint8]) -> str:
    """`data:image/png;base64,...` of an (H, W, 3) picture."""
    height, width, _ = pixels_HW3.shape
    raw = b"".join(b"\x00" + row.tobytes() for row in np.ascontiguousarray(pixels_HW3))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(raw, 9)) + _chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
