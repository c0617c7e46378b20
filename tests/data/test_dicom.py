"""helpers.data.dicom: a radiograph looks as in a viewer, whatever its syntax, depth and polarity."""

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset, dcmread, uid
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from radiographs import message, write_dicom

from helpers.common.paths import ROOT
from helpers.data.formats import read_grey

REAL = ROOT.parent / "shared/data/dicom"
RAMP = np.linspace(0, 4095, 40 * 60).reshape(40, 60).round().astype(np.uint16)
UNIT = (RAMP / 4095 * 2 - 1).astype(np.float32)


def table(entries, first, bits):
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item["LUTDescriptor"].VR = "US"
    item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    return Sequence([item])


def test_without_a_window_the_least_is_black_and_the_greatest_white(tmp_path):
    assert np.allclose(read_grey(write_dicom(tmp_path / "a.dcm", RAMP)), UNIT, atol=1e-6)


def test_monochrome1_is_inverted(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, PhotometricInterpretation="MONOCHROME1")
    assert np.allclose(read_grey(path), -UNIT, atol=1e-6)


@pytest.mark.parametrize("stored", [8, 10, 12, 15, 16])
@pytest.mark.parametrize("signed", [0, 1])
def test_bits_beyond_those_stored_do_not_count(tmp_path, stored, signed):
    values = np.linspace(0, 2**stored - 1, 48).round().astype(np.int64).reshape(6, 8)
    values -= signed * 2 ** (stored - 1)
    littered = (values & (2**stored - 1)) | (1 << 15 if stored < 16 else 0)
    path = write_dicom(
        tmp_path / "a.dcm",
        littered.astype(np.uint16),
        BitsStored=stored,
        HighBit=stored - 1,
        PixelRepresentation=signed,
    )
    assert np.allclose(read_grey(path).ravel(), np.linspace(-1, 1, 48), atol=2 / 2**stored + 1e-6)


def test_a_window_says_what_is_black_and_white(tmp_path):
    window = {"WindowCenter": 2000.5, "WindowWidth": 1001}  # 1500.5 − .5 … 2500.5 − .5 of LINEAR
    grey = read_grey(write_dicom(tmp_path / "a.dcm", RAMP, **window))
    assert np.allclose(grey, ((RAMP - 1500.0) / 1000 * 2 - 1).clip(-1, 1), atol=1e-5)
    window |= {"VOILUTFunction": "LINEAR_EXACT", "PhotometricInterpretation": "MONOCHROME1"}
    grey = read_grey(write_dicom(tmp_path / "b.dcm", RAMP, **window))
    assert np.allclose(grey, -((RAMP - 1500.0) / 1001 * 2 - 1).clip(-1, 1), atol=1e-5)
    window = {"WindowCenter": [2048, 1], "WindowWidth": [800, 2], "VOILUTFunction": "SIGMOID"}
    grey = read_grey(write_dicom(tmp_path / "c.dcm", RAMP, **window))
    assert np.allclose(grey, np.tanh(2 * (RAMP - 2048.0) / 800), atol=1e-5)


@pytest.mark.parametrize("slope", [0.5, -2.0])
def test_the_window_is_in_rescaled_units(tmp_path, slope):
    about = {"RescaleSlope": slope, "RescaleIntercept": 100, "VOILUTFunction": "LINEAR_EXACT"}
    about |= {"WindowCenter": 2047.5 * slope + 100, "WindowWidth": 4095 * abs(slope)}
    grey = read_grey(write_dicom(tmp_path / "a.dcm", RAMP, **about))
    assert np.allclose(grey, np.sign(slope) * UNIT, atol=1e-5)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_look_up_table_is_applied_before_the_polarity(tmp_path, bits):
    entries = (np.linspace(0, 1, 3000) ** 2 * (2**bits - 1)).round().astype(int)
    path = write_dicom(
        tmp_path / "a.dcm",
        RAMP,
        PhotometricInterpretation="MONOCHROME1",
        VOILUTSequence=table(entries, 500, bits),
        WindowCenter=1,
        WindowWidth=2,
    )
    shown = ((RAMP.astype(float) - 500).clip(0, 2999) / 2999) ** 2
    assert np.allclose(read_grey(path), 1 - 2 * shown, atol=2.1 / 2**bits)


def test_a_modality_table_comes_before_the_window(tmp_path):
    path = write_dicom(
        tmp_path / "a.dcm",
        RAMP,
        ModalityLUTSequence=table(4095 - np.arange(4096), 0, 16),
        WindowCenter=2047.5,
        WindowWidth=4095,
        VOILUTFunction="LINEAR_EXACT",
    )
    assert np.allclose(read_grey(path), -UNIT, atol=1e-5)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_the_padding_value_is_black_and_no_part_of_the_range(tmp_path, kind):
    values = RAMP + np.uint16(1000)
    values[:, :5] = 0
    path = write_dicom(
        tmp_path / "a.dcm", values, PhotometricInterpretation=kind, PixelPaddingValue=0
    )
    grey = read_grey(path)
    assert (grey[:, :5] == -1).all() and grey[:, 5:].max() == 1
    assert grey[:, 5:].min() == -1 and np.unique(grey).size > 2000


def test_a_range_of_padding_values_is_padding(tmp_path):
    values = RAMP + np.uint16(1000)
    values[:, :5] = np.arange(5)
    about = {"PixelPaddingValue": 4, "PixelPaddingRangeLimit": 0}
    grey = read_grey(write_dicom(tmp_path / "a.dcm", values, **about))
    assert (grey[:, :5] == -1).all() and grey[:, 5:].min() == -1 and grey[:, 5:].max() == 1


SYNTAXES = {
    "JPEGLosslessSV1": lambda x: imagecodecs.jpeg8_encode(
        x, lossless=True, predictor=1, bitspersample=12
    ),
    "JPEGLossless": lambda x: imagecodecs.jpeg8_encode(
        x, lossless=True, predictor=6, bitspersample=12
    ),
    "JPEGLSLossless": imagecodecs.jpegls_encode,
    "JPEG2000Lossless": lambda x: imagecodecs.jpeg2k_encode(x, level=0, codecformat="j2k"),
    "JPEGExtended12Bit": lambda x: imagecodecs.jpeg8_encode(x, level=100, bitspersample=12),
    "JPEGBaseline8Bit": lambda x: imagecodecs.jpeg8_encode((x >> 4).astype(np.uint8), level=100),
    "JPEGLSNearLossless": lambda x: imagecodecs.jpegls_encode(x, level=3),
    "JPEG2000": lambda x: imagecodecs.jpeg2k_encode(x, level=110, codecformat="j2k"),
}


def write_packed(path, syntax, frame=None):
    """RAMP in one of the SYNTAXES, or with another frame."""
    bits = 8 if syntax == "JPEGBaseline8Bit" else 12
    path = write_dicom(path, RAMP, BitsStored=bits, HighBit=bits - 1)
    record = dcmread(path)
    record.PixelData = encapsulate([frame or SYNTAXES[syntax](RAMP)])
    record["PixelData"].VR = "OB"
    if bits == 8:
        record.BitsAllocated = 8
    record.file_meta.TransferSyntaxUID = getattr(uid, syntax)
    record.save_as(path)
    return path


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_compressed_file_is_the_plain_one(tmp_path, syntax):
    grey = read_grey(write_packed(tmp_path / "a.dcm", syntax))
    lossless = "Lossless" in syntax and "Near" not in syntax
    assert np.allclose(grey, UNIT, atol=1e-6 if lossless else 0.03)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_pixels_that_are_cut_off_are_refused(tmp_path, syntax):
    frame = SYNTAXES[syntax](RAMP)
    path = write_packed(tmp_path / "a.dcm", syntax, frame[: len(frame) // 2])
    with pytest.raises(ValueError) as error:
        read_grey(path)
    message(error, path)


def test_signed_values_keep_their_sign_when_they_are_compressed(tmp_path):
    path = write_packed(tmp_path / "a.dcm", "JPEGLSLossless")
    record = dcmread(path)
    record.PixelRepresentation = 1
    record.save_as(path)
    signed = np.where(RAMP < 2048, RAMP, RAMP.astype(int) - 4096)
    assert np.allclose(read_grey(path), (signed + 2048) / 4095 * 2 - 1, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # pydicom's, about frames without a number
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"NumberOfFrames": 3}, "3 frames"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "colour (RGB)"),
        ({"PhotometricInterpretation": "YBR_FULL_422", "SamplesPerPixel": 3}, "colour"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour (PALETTE COLOR)"),
        ({"PixelData": None}, "no pixels"),
        ({"PresentationLUTShape": "INVERSE"}, "INVERSE"),
        ({"PixelData": bytes(100)}, "cannot be read"),
        ({"WindowCenter": 5, "WindowWidth": -3}, "cannot be read"),
        ({"WindowCenter": 90000, "WindowWidth": 3}, "every value"),
        ({"WindowWidth": 3}, "no WindowCenter"),
        ({"PhotometricInterpretation": None}, "no PhotometricInterpretation"),
        ({"NumberOfFrames": None, "PixelData": bytes(4 * RAMP.size)}, "(2, 40, 60)"),
        (
            {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PixelData": bytes(6 * RAMP.size)},
            "(40, 60, 3)",
        ),
    ],
)
def test_what_is_no_grey_radiograph_is_refused_by_name(tmp_path, changes, problem):
    path = write_dicom(tmp_path / "a.dcm", RAMP)
    record = dcmread(path)
    for name, value in changes.items():
        if value is not None:
            setattr(record, name, value)
        elif name in record:
            delattr(record, name)
    record.save_as(path)
    with pytest.raises(ValueError) as error:
        read_grey(path)
    message(error, path, problem)


def test_padding_everywhere_is_refused(tmp_path):
    with pytest.raises(ValueError) as error:
        read_grey(write_dicom(tmp_path / "a.dcm", 0 * RAMP, PixelPaddingValue=0))
    message(error, tmp_path / "a.dcm", "padding everywhere")


def test_compressed_frames_that_nobody_counted_are_refused(tmp_path):
    path = write_packed(tmp_path / "a.dcm", "JPEGLSLossless")
    record = dcmread(path)
    record.PixelData = encapsulate([imagecodecs.jpegls_encode(RAMP)] * 2)
    record.save_as(path)
    with pytest.raises(ValueError) as error:
        read_grey(path)
    message(error, path, "several frames", "one of them alone")


@pytest.mark.parametrize("extreme", [1e308, np.nan])
def test_floating_values_that_overflow_or_are_no_numbers_are_refused(tmp_path, extreme):
    path = write_dicom(tmp_path / "a.dcm", RAMP)
    record = dcmread(path)
    del record.PixelData
    record.BitsAllocated = 64
    record.DoubleFloatPixelData = np.where(RAMP < 2000, -1e308, extreme).tobytes()
    record.save_as(path)
    with pytest.raises(ValueError) as error:
        read_grey(path)
    message(error, path, "NaN or values too far apart")


@pytest.mark.filterwarnings("ignore")  # pydicom's, about the missing end
@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(tmp_path, share):
    for name in ("plain", "JPEGLosslessSV1"):
        path = tmp_path / f"{name}.dcm"
        write_dicom(path, RAMP) if name == "plain" else write_packed(path, name)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with pytest.raises(ValueError) as error:
            read_grey(path)
        message(error, path)


def test_text_and_nothing_called_dcm_are_refused(tmp_path):
    for content in ("", "see the other folder, there are many more images"):
        (tmp_path / "a.dcm").write_text(content)
        with pytest.raises(ValueError) as error:
            read_grey(tmp_path / "a.dcm")
        message(error, tmp_path / "a.dcm")


@pytest.fixture
def real():
    if not REAL.is_dir():
        pytest.skip(f"the real DICOM files are not at {REAL}")
    return {path.stem: read_grey(path) for path in sorted(REAL.glob("*.dcm"))}


def test_real_radiographs_have_bright_bones(real):
    assert len(real) == 4
    for name, grey in real.items():
        height, width = grey.shape
        middle = grey[int(0.4 * height) : int(0.5 * height)]
        spine = middle[:, int(0.48 * width) : int(0.52 * width)].mean()
        lungs = middle[:, int(0.25 * width) : int(0.33 * width)], middle[:, int(0.67 * width) :]
        assert all(spine > lung.mean() + 0.3 for lung in lungs), name
        assert np.abs(grey).max() <= 1


def test_a_real_jpeg_2000_file_is_its_original(real):
    plain, packed = (real[name] for name in sorted(real)[:2])
    assert np.array_equal(plain, packed)
