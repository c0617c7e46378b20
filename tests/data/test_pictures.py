"""helpers.data.pictures: every depth and polarity is read as the file states it, or refused by name."""

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps
from radiographs import message

from helpers.data.pictures import UnusableFileError, read_picture

DEEP = np.random.default_rng(0).integers(0, 4096, (20, 30)).astype(np.uint16)
FLAT = (DEEP >> 4).astype(np.uint8)


def read(path, **options):
    values, opacity = read_picture(path, **options)
    assert values.ndim == 2
    return values, opacity


@pytest.mark.parametrize(
    "pixels",
    [
        DEEP > 2000,
        FLAT,
        DEEP,
        DEEP.astype(np.uint32) * 1_000_000,
        DEEP.astype(np.int16) - 2000,
        DEEP.astype(np.int32) - 70_000,
        (DEEP / 7).astype(np.float16),
        (DEEP / 7).astype(np.float32),
        DEEP / 7 - 100,
    ],
    ids=lambda pixels: pixels.dtype.name,
)
@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"bigtiff": True}, {"compression": 8}])
def test_a_tiff_of_any_type_is_read_exactly(tmp_path, pixels, options):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", **options)
    assert np.array_equal(read(tmp_path / "a.tif")[0], pixels)


@pytest.mark.parametrize("pixels", [DEEP > 2000, FLAT, DEEP], ids=["1 bit", "8 bits", "16 bits"])
def test_white_is_zero_is_turned_round_in_every_depth(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite")
    values = read(tmp_path / "a.tif")[0]
    highest = 1 if pixels.dtype == bool else np.iinfo(pixels.dtype).max
    assert np.array_equal(values.astype(int), highest - pixels.astype(int))


@pytest.mark.parametrize(
    "pixels", [DEEP.astype(np.int16) - 2000, DEEP / 7], ids=["signed", "float"]
)
def test_white_is_zero_without_a_highest_value_is_negated(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite")
    assert np.array_equal(read(tmp_path / "a.tif")[0], -pixels.astype(float))


@pytest.mark.parametrize("order", ["contig", "separate"])
def test_a_colour_tiff_with_equal_channels_is_grey(tmp_path, order):
    axis = -1 if order == "contig" else 0
    tifffile.imwrite(
        tmp_path / "a.tif", np.stack([DEEP] * 3, axis), photometric="rgb", planarconfig=order
    )
    assert np.array_equal(read(tmp_path / "a.tif")[0], DEEP)


def test_png_of_16_bits_keeps_them_in_colour_and_with_opacity(tmp_path):
    opaque = np.full_like(DEEP, 65535)
    for channels in ([DEEP] * 3, [DEEP, opaque], [DEEP] * 3 + [opaque]):
        path = tmp_path / f"{len(channels)}.png"
        path.write_bytes(imagecodecs.png_encode(np.stack(channels, -1)))
        values, opacity = read(path)
        assert np.array_equal(values, DEEP)
        assert opacity is None
    half = DEEP.copy()
    half[0] = 40_000
    path.write_bytes(imagecodecs.png_encode(np.stack([DEEP, half], -1)))
    assert np.array_equal(read(path)[1], half)


def test_a_transparent_grey_value_of_a_png_is_opacity(tmp_path):
    Image.fromarray(FLAT).save(tmp_path / "8.png", transparency=int(FLAT[0, 0]))
    Image.fromarray(DEEP).save(tmp_path / "16.png", transparency=int(DEEP[0, 0]))
    for name in ("8.png", "16.png"):
        assert read(tmp_path / name)[1][0, 0] == 0


def test_a_deep_picture_in_colour_that_is_turned_is_named(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(FLAT.astype(np.uint16))
    deep.save(tmp_path / "a.png", exif=exif, transparency=0)
    with pytest.raises(
        UnusableFileError, match="a.png is stored mirrored or turned .EXIF.: save it upright"
    ):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_picture_is_turned_as_its_orientation_says(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(FLAT).save(tmp_path / f"a{suffix}", exif=exif)
    with Image.open(tmp_path / f"a{suffix}") as file:
        upright = np.asarray(ImageOps.exif_transpose(file))
    assert np.array_equal(read(tmp_path / f"a{suffix}")[0], upright)
    assert upright.shape == ((30, 20) if orientation > 4 else (20, 30))


def test_a_jpeg_of_12_bits_and_one_without_loss_are_read(tmp_path):
    smooth = (np.arange(64 * 64).reshape(64, 64) % 4096).astype(np.uint16)
    path = tmp_path / "a.jpg"
    path.write_bytes(imagecodecs.jpeg8_encode(smooth, lossless=True, predictor=1, bitspersample=12))
    assert np.array_equal(read(path)[0], smooth)
    path.write_bytes(imagecodecs.jpeg8_encode(smooth, level=100, bitspersample=12))
    assert np.abs(read(path)[0].astype(int) - smooth).max() < 64


@pytest.mark.parametrize("options", [{}, {"lossless": True, "predictor": 1}])
@pytest.mark.parametrize("left", [0.1, 0.5, 0.99])
def test_a_deep_jpeg_that_is_cut_off_is_refused_and_one_with_bytes_behind_is_read(
    tmp_path, options, left
):
    data = imagecodecs.jpeg8_encode(DEEP, bitspersample=12, **options)
    path = tmp_path / "a.jpg"
    path.write_bytes(data + bytes(40))
    assert read(path)[0].shape == DEEP.shape
    path.write_bytes(data[: int(left * len(data))])
    with pytest.raises(UnusableFileError) as error:
        read_picture(path)
    message(error, path, "cut off", "intact copy")


def test_a_label_map_keeps_indices_and_values_of_few_bits(tmp_path):
    labels = (DEEP % 4).astype(np.uint8)
    palette = Image.fromarray(labels, "L").convert("P")
    palette.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    palette.save(tmp_path / "palette.png", bits=2, transparency=0)
    palette.save(tmp_path / "palette.bmp")
    palette.save(tmp_path / "palette.gif")
    Image.fromarray(labels * 17).save(tmp_path / "4bits.png", bits=4)
    for path in sorted(tmp_path.iterdir()):
        assert np.array_equal(read(path, stored=True)[0], labels), path.name
    assert read(tmp_path / "4bits.png")[0].max() == 51


def save_stack(path):
    tifffile.imwrite(path.with_suffix(".tif"), np.stack([DEEP, DEEP]))
    return path.with_suffix(".tif"), "several pictures"


def save_imagej_stack(path):
    tifffile.imwrite(path.with_suffix(".tif"), np.stack([DEEP, DEEP]), imagej=True)
    return path.with_suffix(".tif"), "several pictures"


def save_turned_tiff(path):
    tifffile.imwrite(path.with_suffix(".tif"), DEEP, extratags=[(274, 3, 1, 6, True)])
    return path.with_suffix(".tif"), "Orientation"


def save_complex(path):
    tifffile.imwrite(path.with_suffix(".tif"), DEEP.astype(np.complex64))
    return path.with_suffix(".tif"), "complex"


def save_infinite(path):
    tifffile.imwrite(path.with_suffix(".tif"), np.where(DEEP > 9, DEEP, np.float32(np.inf)))
    return path.with_suffix(".tif"), "infinite"


def save_unknown_channel(path):
    tifffile.imwrite(
        path.with_suffix(".tif"),
        np.stack([DEEP, DEEP], -1),
        photometric="minisblack",
        planarconfig="contig",
        extrasamples=["unspecified"],
    )
    return path.with_suffix(".tif"), "unknown meaning"


def save_animation(path):
    first, second = Image.fromarray(FLAT), Image.fromarray(FLAT[::-1])
    first.save(path, save_all=True, append_images=[second])
    return path, "2 pictures"


def save_cmyk(path):
    Image.fromarray(FLAT).convert("CMYK").save(path.with_suffix(".jpg"))
    return path.with_suffix(".jpg"), "colour"


def save_cut_jpeg(path):
    Image.fromarray(FLAT).save(path.with_suffix(".jpg"))
    data = path.with_suffix(".jpg").read_bytes()
    path.with_suffix(".jpg").write_bytes(data[:-100])
    return path.with_suffix(".jpg"), "cannot be read"


def save_cut_tiff(path):
    tifffile.imwrite(path.with_suffix(".tif"), DEEP, compression="zlib")
    data = path.with_suffix(".tif").read_bytes()
    path.with_suffix(".tif").write_bytes(data[: len(data) // 2])
    return path.with_suffix(".tif"), "cannot be read"


def save_cut_jpeg_tiff(path):
    tifffile.imwrite(path.with_suffix(".tif"), FLAT, compression="jpeg")
    data = path.with_suffix(".tif").read_bytes()
    path.with_suffix(".tif").write_bytes(data[:-2])
    return path.with_suffix(".tif"), "cut off"


def save_webp(path):
    Image.fromarray(FLAT).save(path, "WEBP")
    return path, "no PNG, JPEG, BMP, GIF, TIFF or DICOM"


def save_jpeg_2000(path):
    path.write_bytes(imagecodecs.jpeg2k_encode(FLAT))
    return path, "no PNG, JPEG, BMP, GIF, TIFF or DICOM"


def save_nothing(path):
    path.touch()
    return path, "cannot be read"


def save_text(path):
    path.write_text("see the other folder")
    return path, "cannot be read"


@pytest.mark.parametrize(
    "save", [value for name, value in sorted(globals().items()) if name.startswith("save_")]
)
def test_what_cannot_be_read_as_one_grey_picture_is_refused_by_name(tmp_path, save):
    path, problem = save(tmp_path / "a.png")
    with pytest.raises(UnusableFileError) as error:
        read_picture(path)
    message(error, path, problem)


def test_a_label_map_whose_zero_is_white_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", FLAT, photometric="miniswhite")
    with pytest.raises(UnusableFileError) as error:
        read_picture(tmp_path / "a.tif", stored=True)
    message(error, "a.tif", "white")
