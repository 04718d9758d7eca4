"""DICOM pictures against NumPy: rescaling, windows, MONOCHROME1, frames, palettes, colors, and what is refused."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from csp_index.errors import SourceError
from csp_index.images.decode import decode

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, RLELossless  # noqa: E402

CT = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)


def dicom(values: np.ndarray[Any, Any] | None = CT, *, preamble: bool = True, **fields: Any) -> bytes:
    record = Dataset()
    record.file_meta = FileMetaDataset()
    record.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    record.SOPClassUID, record.SOPInstanceUID, record.Modality = "1.2.840.10008.5.1.4.1.1.2", "1.2.3", "CT"
    record.PatientName = "Somebody"
    if values is not None:
        bits = values.dtype.itemsize * 8
        record.Rows, record.Columns = values.shape[:2]
        record.SamplesPerPixel, record.PhotometricInterpretation = 1, "MONOCHROME2"
        record.BitsAllocated, record.BitsStored, record.HighBit = bits, bits, bits - 1
        record.PixelRepresentation = int(values.dtype.kind == "i")
        record.PixelData = values.tobytes()
    for name, value in fields.items():
        setattr(record, name, value)
    buffer = io.BytesIO()
    if preamble:
        record.save_as(buffer, enforce_file_format=True)
    else:
        del record.file_meta
        record.save_as(buffer, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def gray(data: bytes) -> np.ndarray[Any, Any]:
    pixels = np.asarray(decode(data))
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[:, :, 0].astype(int)


def as_shares(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.rint(values.clip(0, 1) * 255).astype(int)


def test_values_are_rescaled_and_shown_in_the_window() -> None:
    data = dicom(RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400)
    units = CT.astype(float) * 2 - 1024
    expected = as_shares((units - 39.5) / 399 + 0.5)  # DICOM part 3, C.11.2.1.2
    assert np.abs(gray(data) - expected).max() <= 1
    assert {0, 255} < set(gray(data).ravel()), "the window cuts on both sides"


def test_the_first_of_several_windows_is_used() -> None:
    two = dicom(WindowCenter=[1000, 3000], WindowWidth=[500, 10])
    assert np.array_equal(gray(two), gray(dicom(WindowCenter=1000, WindowWidth=500)))


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_other_functions_of_a_window(function: str) -> None:
    data = dicom(WindowCenter=2000, WindowWidth=1000, VOILUTFunction=function)
    place = (CT.astype(float) - 2000) / 1000
    expected = as_shares(place + 0.5 if function == "LINEAR_EXACT" else 1 / (1 + np.exp(-4 * place)))
    assert np.abs(gray(data) - expected).max() <= 1


@pytest.mark.parametrize("window", [{}, {"WindowWidth": 0, "WindowCenter": 5}, {"WindowCenter": 5}])
def test_without_a_window_the_whole_range_is_shown(window: dict[str, int]) -> None:
    values = (CT.astype(np.int16) - 1000)[::-1].copy()
    expected = as_shares((values - values.min()) / float(values.max() - values.min()))
    assert np.array_equal(gray(dicom(values, **window)), expected)
    assert set(gray(dicom(np.full((4, 4), 7, np.uint8))).ravel()) == {0}, "a picture of one value"


def test_padding_does_not_count_into_the_range() -> None:
    values = CT.astype(np.int16)
    values[0, :4] = -2000
    shown = gray(dicom(values, PixelPaddingValue=-2000))
    assert shown[0, 0] == 0 and np.array_equal(shown[1:], as_shares((values[1:] - 64) / (4080.0 - 64)))


def test_monochrome1_is_inverted_after_the_window() -> None:
    window = {"WindowCenter": 2000, "WindowWidth": 3000}
    assert np.array_equal(gray(dicom(PhotometricInterpretation="MONOCHROME1", **window)), 255 - gray(dicom(**window)))


def test_a_table_in_place_of_a_window() -> None:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [256, 0, 8], np.arange(255, -1, -1, dtype=np.uint16).tobytes()
    item["LUTData"].VR = "OW"
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(gray(dicom(values, VOILUTSequence=[item])), 255 - values.astype(int))


def test_the_first_of_many_frames_is_read_with_its_own_window() -> None:
    first, shared = Dataset(), Dataset()
    window, rescale = Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth = 1000, 500
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 2, 0, "US"
    first.FrameVOILUTSequence, shared.PixelValueTransformationSequence = [window], [rescale]
    data = dicom(
        CT,
        PixelData=np.stack([CT, CT[::-1], CT * 0]).tobytes(),
        NumberOfFrames=3,
        PerFrameFunctionalGroupsSequence=[first, Dataset(), Dataset()],
        SharedFunctionalGroupsSequence=[shared],
    )
    expected = gray(dicom(RescaleSlope=2, RescaleIntercept=0, WindowCenter=1000, WindowWidth=500))
    assert np.array_equal(gray(data), expected)


def test_colors_and_palettes() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    colors = {"SamplesPerPixel": 3, "PlanarConfiguration": 0}
    data = dicom(rgb, PhotometricInterpretation="RGB", **colors)
    assert np.array_equal(np.asarray(decode(data)), rgb)
    yellow = np.array([[[225, 0, 148]]], np.uint8).repeat(4, 0).repeat(4, 1)
    shown = np.asarray(decode(dicom(yellow, PhotometricInterpretation="YBR_FULL", **colors)))
    assert np.abs(shown[0, 0].astype(int) - (253, 255, 0)).max() <= 2
    table = np.arange(256, dtype=np.uint16) * 257
    names = ("Red", "Green", "Blue")
    palette: dict[str, Any] = {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 16] for name in names}
    palette |= {
        f"{name}PaletteColorLookupTableData": (table if name == "Red" else table * 0).tobytes() for name in names
    }
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    shown = np.asarray(decode(dicom(values, PhotometricInterpretation="PALETTE COLOR", **palette)))
    assert np.array_equal(shown[:, :, 0], values) and not shown[:, :, 1:].any()


def test_compressed_files_and_files_without_a_preamble_are_read() -> None:
    record = pydicom.dcmread(io.BytesIO(dicom()))
    record.compress(RLELossless)
    buffer = io.BytesIO()
    record.save_as(buffer)
    assert np.array_equal(gray(buffer.getvalue()), gray(dicom()))
    assert np.array_equal(gray(dicom(preamble=False)), gray(dicom()))


def test_what_cannot_be_read_says_why() -> None:
    with pytest.raises(SourceError, match=r"without a picture \(SR\)"):
        decode(dicom(None, Modality="SR"))
    with pytest.raises(SourceError, match="16 x 16 pixels, more than the limit of 200"):
        decode(dicom(), max_pixels=200)
    with pytest.raises(SourceError, match="times the other"):
        decode(dicom(np.zeros((1, 300), np.uint8)))
    with pytest.raises(SourceError, match="a DICOM file that cannot be read"):
        decode(dicom()[:600])
    with pytest.raises(SourceError, match="deflated"):
        decode(dicom().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"))
    with pytest.raises(SourceError):
        decode(b"\0" * 128 + b"DICM" + b"\xff" * 40)


def test_a_file_that_claims_more_pixels_than_it_has_is_refused() -> None:
    with pytest.raises(SourceError, match="a DICOM file that cannot be read"):
        decode(dicom(Rows=4000, Columns=4000))
