"""Pictures in DICOM files, as a viewer shows them first: the first frame, in the window that the file names.

Stored values are rescaled, put through the first window or lookup table, and become 0-255; a file that names neither
shows its whole range. MONOCHROME1, in which large values are dark, is inverted. What else the file says, names of
patients among it, is not read.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from csp_index.errors import SourceError, one_line
from csp_index.images.files.formats import DICOM, advice
from csp_index.images.files.pixels import bands, check_shape

_DEFLATED = b"1.2.840.10008.1.2.1.99"  # whose data may become any size before they are looked at
_HEADER = 4096
_FRAME_VALUES = ("PixelValueTransformationSequence", "FrameVOILUTSequence")


def dicom_picture(data: bytes, max_pixels: int | None = None) -> Image.Image:
    """Return the picture in a DICOM file: gray or RGB. Raises SourceError that says what is missing."""
    if advice(DICOM):
        raise SourceError(f"a DICOM file: {advice(DICOM)}")
    import pydicom

    if _DEFLATED in data[:_HEADER]:
        raise SourceError("a deflated DICOM file, which is not read: store it with another transfer syntax")
    try:
        record = pydicom.dcmread(io.BytesIO(data), force=True)
        if not any(name in record for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise SourceError(f"a DICOM file without a picture ({record.get('Modality', 'no modality')})")
        check_shape(int(record.Columns), int(record.Rows), max_pixels)
        with np.errstate(over="ignore"):  # far outside a window of the kind SIGMOID
            return _picture(record)
    except SourceError:
        raise
    except Exception as exc:  # pydicom and its decoders raise nearly anything
        raise SourceError(f"a DICOM file that cannot be read: {one_line(exc)}") from exc


def _picture(record: Any) -> Image.Image:
    from pydicom.pixels import apply_color_lut, pixel_array  # type: ignore[attr-defined]

    if "TransferSyntaxUID" not in record.file_meta:  # a bare data set, as old archives keep them
        from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

        implicit = record.original_encoding[0]
        record.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    values = pixel_array(record, index=0)
    kind = str(record.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        values = apply_color_lut(values, record)
    if values.ndim == 3:
        bits = 16 if values.dtype.itemsize > 1 and kind == "PALETTE COLOR" else int(record.BitsStored)
        return Image.fromarray(_scaled(values, 0, float(2**bits - 1)))
    _add_values_of_frame(record)
    return _gray(values, record, inverted=kind == "MONOCHROME1")


def _add_values_of_frame(record: Any) -> None:
    """Put the rescaling and the window of the first frame, which an enhanced file keeps apart, with the others."""
    for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for name in _FRAME_VALUES if record.get(groups) else ():
            for item in (record[groups][0].get(name) or ())[:1]:
                for element in item:
                    if element.tag not in record:
                        record.add(element)


def _gray(values: np.ndarray[Any, Any], record: Any, *, inverted: bool) -> Image.Image:
    from pydicom.pixels import apply_modality_lut, apply_voi_lut  # type: ignore[attr-defined]

    height, width = values.shape
    window = _has_window(record)
    if window:
        low, high = _ends_of_window(record)
    else:
        seen = values[~_padding(values, record)]
        seen = seen[np.isfinite(seen)]
        ends = apply_modality_lut(np.array([seen.min(), seen.max()] if seen.size else [0, 1]), record)
        low, high = float(min(ends)), float(max(ends))
    result = np.empty((height, width), dtype=np.uint8)
    for start, end in bands(width, height):
        band = apply_modality_lut(values[start:end], record)
        result[start:end] = _scaled(apply_voi_lut(band, record) if window else band, low, high)
    return Image.fromarray(255 - result if inverted else result)


def _has_window(record: Any) -> bool:
    if record.get("VOILUTSequence"):
        return True
    width, center = _first(record.get("WindowWidth")), _first(record.get("WindowCenter"))
    return width is not None and center is not None and float(width) >= 1


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue" else value


def _ends_of_window(record: Any) -> tuple[float, float]:
    """Return what the window or the lookup table makes of the smallest and the largest values."""
    from pydicom.pixels import apply_windowing  # type: ignore[attr-defined]

    if record.get("VOILUTSequence"):
        return 0.0, float(2 ** int(record.VOILUTSequence[0].LUTDescriptor[2]) - 1)
    low, high = apply_windowing(np.array([-1e30, 1e30]), record)
    return float(low), float(high)


def _padding(values: np.ndarray[Any, Any], record: Any) -> np.ndarray[Any, Any]:
    """Return which values fill up the frame around the picture."""
    first = record.get("PixelPaddingValue")
    if not isinstance(first, int):
        return np.zeros(values.shape, dtype=bool)
    last = record.get("PixelPaddingRangeLimit", first)
    low, high = sorted((first, last if isinstance(last, int) else first))
    return (values >= low) & (values <= high)


def _scaled(values: np.ndarray[Any, Any], low: float, high: float) -> np.ndarray[Any, Any]:
    share = np.nan_to_num((values.astype(np.float64) - low) / max(high - low, 1e-30), nan=0.0)
    scaled: np.ndarray[Any, Any] = np.rint(share.clip(0, 1) * 255).astype(np.uint8)
    return scaled
