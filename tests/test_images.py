"""Pictures in and out: golden pixels for every mode, and everything that is refused."""

from __future__ import annotations

import io
import random
import re
import resource
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from mmgen import images
from mmgen.errors import DataError

# Six colours with everything in them, as 8-bit RGB, each a column 4 pixels wide.
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255), (120, 60, 200)]
ALPHA = [255, 128, 0, 64, 200, 10]


def columns(values: list, mode: str, height: int = 8) -> Image.Image:
    image = Image.new(mode, (4 * len(values), height))
    for i, value in enumerate(values):
        image.paste(value, (4 * i, 0, 4 * i + 4, height))
    return image


def file(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def seen(data: bytes) -> list[tuple[float, ...]]:
    """The middle of each column, in 0..255."""
    decoded = images.decode(data)
    return [tuple((decoded[:, 4, 4 * i + 2] * 255).tolist()) for i in range(decoded.shape[2] // 4)]


def on_white(colours: list[tuple[int, ...]], alpha: list[int]) -> list[tuple[float, ...]]:
    return [tuple((v * a + 255 * (255 - a)) / 255 for v in c) for c, a in zip(colours, alpha, strict=True)]


GREYS = [0, 1, 100, 128, 254, 255]
DEEP = [0, 256, 40_000, 32_896, 65_278, 65_535]
DEEP_GREY = Image.fromarray(np.array(DEEP, dtype=np.uint16).repeat(4)[None].repeat(8, 0))
PALETTE = columns(list(range(6)), "P")
PALETTE.putpalette([v for colour in COLOURS for v in colour])


def grey(values: list[float]) -> list[tuple[float, ...]]:
    return [(v,) * 3 for v in values]


GOLDEN = {
    "1": (file(columns([0, 1, 0, 1, 1, 0], "1"), "PNG"), grey([0, 255, 0, 255, 255, 0])),
    "L": (file(columns(GREYS, "L"), "PNG"), grey(GREYS)),
    "L with a transparent grey": (file(columns(GREYS, "L"), "PNG", transparency=100), grey([0, 1, 255, 128, 254, 255])),
    "LA": (file(columns(list(zip(GREYS, ALPHA, strict=True)), "LA"), "PNG"), on_white(grey(GREYS), ALPHA)),
    "I;16": (file(DEEP_GREY, "PNG"), grey([v / 257 for v in DEEP])),
    "I;16 with a transparent grey": (
        file(DEEP_GREY, "PNG", transparency=40_000),
        grey([v / 257 if v != 40_000 else 255 for v in DEEP]),
    ),
    "P": (file(PALETTE, "PNG"), COLOURS),
    "P with transparent entries": (file(PALETTE, "PNG", transparency=bytes(ALPHA)), on_white(COLOURS, ALPHA)),
    "P of a GIF": (file(PALETTE, "GIF", transparency=0), [(255, 255, 255), *COLOURS[1:]]),
    "RGB": (file(columns(COLOURS, "RGB"), "PNG"), COLOURS),
    "RGB with a transparent colour": (
        file(columns(COLOURS, "RGB"), "PNG", transparency=COLOURS[3]),
        [*COLOURS[:3], (255, 255, 255), *COLOURS[4:]],
    ),
    "RGBA": (
        file(columns([(*c, a) for c, a in zip(COLOURS, ALPHA, strict=True)], "RGBA"), "PNG"),
        on_white(COLOURS, ALPHA),
    ),
    "RGBA of a WebP": (
        file(
            columns([(*c, a) for c, a in zip(COLOURS, ALPHA, strict=True)], "RGBA"), "WEBP", lossless=True, exact=True
        ),
        on_white(COLOURS, ALPHA),
    ),
    "RGB of a BMP": (file(columns(COLOURS, "RGB"), "BMP"), COLOURS),
}


@pytest.mark.parametrize("mode", GOLDEN)
def test_every_mode_has_its_golden_pixels(mode: str) -> None:
    data, expected = GOLDEN[mode]
    assert np.abs(np.array(seen(data)) - np.array(expected)).max() <= 1


def test_cmyk_is_converted_by_the_plain_rule() -> None:
    inks = [(0, 255, 255, 0), (255, 0, 255, 0), (0, 0, 0, 255), (0, 0, 0, 0), (64, 128, 0, 32), (200, 10, 90, 0)]
    data = file(columns(inks, "CMYK", height=16).resize((192, 128), Image.Resampling.NEAREST), "JPEG", quality=100)
    decoded = images.decode(data)
    got = [tuple((decoded[:, 64, 32 * i + 16] * 255).tolist()) for i in range(6)]
    expected = [tuple((255 - v) * (255 - k) / 255 for v in cmy) for *cmy, k in inks]
    assert np.abs(np.array(got) - np.array(expected)).max() <= 1


def test_sixteen_bit_colour_keeps_its_high_byte() -> None:
    """Written by hand, since Pillow cannot write it: 16-bit RGB and RGBA."""
    for channels, kind in ((3, 2), (4, 6)):
        row = b"\0" + struct.pack(f">{channels}H", *[40_000, 300, 65_535, 65_535][:channels]) * 8
        assert np.abs(np.array(seen(png(8, 8, row * 8, depth=16, kind=kind))[0]) - [155.6, 1.2, 255]).max() <= 1


def png(width: int, height: int, rows: bytes, depth: int = 8, kind: int = 2) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_come_upright(orientation: int, format: str) -> None:
    corners = torch.zeros(3, 32, 48)
    corners[0, :16, :16], corners[1, :16, 32:], corners[2, 16:, :16] = 1, 1, 1
    upright = Image.fromarray((corners.permute(1, 2, 0).numpy() * 255).astype(np.uint8))
    # What a camera stores so that the orientation brings it back: the inverse of each operation.
    inverse = [None, 0, 3, 1, 5, 2, 6, 4][orientation - 1]
    stored = upright if inverse is None else upright.transpose(Image.Transpose(inverse))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
    decoded = images.decode(file(stored, format, exif=exif, **options))
    assert images.picture_size(file(stored, format, exif=exif, **options)) == tuple(decoded.shape[1:])
    assert decoded.shape == (3, 32, 48)
    inside = torch.nn.functional.avg_pool2d((decoded - corners).abs(), 8)  # JPEG blurs the edges
    assert inside.max() < 0.1


def test_damaged_exif_does_not_cost_the_picture() -> None:
    data = file(columns(COLOURS, "RGB"), "PNG", exif=b"Exif\0\0not a TIFF header")
    assert seen(data) == COLOURS


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = file(frames[0], format, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 2
    assert images.decode(data)[:, 8, 8].tolist() == [1, 0, 0]


def test_the_middle_square_is_resized() -> None:
    wide = columns([(255, 0, 0), *[(0, 255, 0)] * 4, (0, 0, 255)], "RGB", height=16)
    cut = images.decode(file(wide, "PNG"), 16)
    assert cut.shape == (3, 16, 16)
    assert cut.amax((1, 2)).tolist() == [0, 1, 0]
    assert images.decode(file(wide.rotate(90, expand=True), "PNG"), 4).shape == (3, 4, 4)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8))
    same = (images.decode(file(noise, "PNG"), 20) * 255).round().permute(1, 2, 0).numpy()
    assert np.array_equal(same, np.asarray(noise))  # nothing is smoothed that has its size already


@pytest.mark.parametrize("side", [256, 512, 1024])
def test_a_large_photo_is_resized_well(side: int) -> None:
    """JPEG is decoded at a fraction of its size; that must not be seen."""
    fine = np.random.default_rng(2).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    photo = Image.fromarray(fine).resize((side, side), Image.Resampling.BICUBIC)
    from_jpeg, exact = (images.decode(file(photo, format, quality=98), 64) for format in ("JPEG", "PNG"))
    assert (from_jpeg - exact).abs().mean() < 0.02


@pytest.mark.parametrize(("width", "height"), [(90, 60), (61, 95), (32, 50), (20, 27), (32, 32), (200, 200), (45, 700)])
def test_clip_reads_pictures_as_hugging_face_does(width: int, height: int) -> None:
    """But for half a pixel more or less of a border that is odd: Hugging Face rounds down, torchvision to even."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    source = np.random.default_rng(0).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    image = Image.fromarray(source).resize((width, height), Image.Resampling.BICUBIC)
    process = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_normalize=False
    )
    (theirs,) = process(images=image, return_tensors="pt")["pixel_values"]
    shorter = min(width, height)
    border = int(32 * max(width, height) / shorter) - 32
    found = images.decode(file(image, "PNG"), 32, resize="bicubic")
    if border % 4 == 3:
        theirs, found = (theirs[:, :, 1:], found[:, :, :-1]) if width > height else (theirs[:, 1:], found[:, :-1])
    torch.testing.assert_close(found, theirs, atol=1e-6, rtol=0)


def test_a_path_and_its_bytes_are_the_same(tmp_path: Path) -> None:
    data = GOLDEN["P"][0]
    path = tmp_path / "a.jpg"  # the content counts, not the name
    path.write_bytes(data)
    assert torch.equal(images.decode(path), images.decode(data))
    assert torch.equal(images.decode(str(path)), images.decode(data))
    assert images.decode(data).dtype == torch.float32
    assert images.decode(data).is_contiguous() or images.decode(data).shape == (3, 8, 24)


def refused(source: bytes | Path, size: int | None = 32) -> DataError:
    with pytest.raises(DataError) as caught:
        images.decode(source, size)
    assert caught.value.fix
    assert len(caught.value.render().splitlines()) <= 6
    return caught.value


FOREIGN = {
    "empty": b"",
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32"></svg>',
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n",
    "pdf": b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF",
    "psd": b"8BPS\0\1" + b"\0" * 6 + struct.pack(">HIIHH", 3, 32, 32, 8, 3) + b"\0" * 64,
    "fits": b"SIMPLE  =                    T".ljust(2880),
    "tiff": file(Image.new("RGB", (32, 32)), "TIFF"),
    "ico": file(Image.new("RGB", (32, 32)), "ICO"),
    "ppm": file(Image.new("RGB", (32, 32)), "PPM"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_formats_are_refused_whatever_they_are_called(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_process(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("subprocess.Popen", no_process)
    path = tmp_path / "picture.jpg"
    path.write_bytes(FOREIGN[kind])
    e = refused(path)
    assert e.code == "MMG-D04"
    assert e.where == str(path)
    assert e.why == "it is not a JPEG, PNG, WEBP, GIF or BMP file"


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    assert refused(tmp_path / "no.png").what == "the picture does not exist"
    assert refused(tmp_path).code == "MMG-D04"


NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
WHOLE = {
    format: file(NOISE, format, **options)
    for format, options in {"JPEG": {}, "PNG": {}, "WEBP": {}, "GIF": {}, "BMP": {}}.items()
}


@pytest.mark.parametrize("format", WHOLE)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_truncated_files_are_refused(share: float, format: str) -> None:
    assert refused(WHOLE[format][: int(share * len(WHOLE[format]))]).code == "MMG-D04"


def test_a_flipped_bit_in_a_png_is_noticed() -> None:
    data = bytearray(WHOLE["PNG"])
    data[len(data) // 2] ^= 4
    assert refused(bytes(data)).code == "MMG-D04"


@pytest.mark.parametrize("format", WHOLE)
def test_damage_anywhere_is_a_data_error_or_a_picture(format: str) -> None:
    rng, refusals = random.Random(format), 0
    for _ in range(150):
        data = bytearray(WHOLE[format])
        for _ in range(rng.choice((1, 3, 30))):
            data[rng.randrange(min(len(data), rng.choice((60, 10_000))))] = rng.randrange(256)
        try:
            decoded = images.decode(bytes(data), 16)
        except DataError:
            refusals += 1
        else:
            assert decoded.shape == (3, 16, 16)
    assert refusals > 0


def resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


GIF_HEADER = (
    b"GIF89a" + struct.pack("<HH", 65_000, 65_000) + b"\0\0\0" + b"\x2c" + struct.pack("<HHHH", 0, 0, 65_000, 65_000)
)


@pytest.mark.parametrize(
    "data",
    [
        png(100_000, 100_000, b""),
        png(12_000, 10_000, b""),
        png(8_001, 8_000, b""),
        png(3_000, 1, b""),
        png(8, 129, b""),
        png(7, 7, b"\0" * 7 * 22),
        png(0, 10, b""),
        file(Image.new("1", (9_000, 9_000)), "PNG"),
        GIF_HEADER + b"\0\x02\x02\x4c\x01\0;",
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0),
    ],
    ids=["100k×100k", "12k×10k", "64 MP", "3000×1", "8×129", "7×7", "0×10", "real 81 MP", "gif", "bmp"],
)
def test_sizes_are_refused_by_the_header_alone(data: bytes) -> None:
    images.decode(WHOLE["PNG"], 8)
    before, start = resident(), time.process_time()
    e = refused(data)
    assert time.process_time() - start < 0.25  # 50 ms on a quiet machine
    assert resident() - before < 20e6
    assert e.code in ("MMG-D05", "MMG-D04")


def test_the_cap_can_be_lowered() -> None:
    with pytest.raises(DataError, match="64×64 pixels, more than 4,095"):
        images.decode(WHOLE["PNG"], max_pixels=4_095)
    assert images.decode(WHOLE["PNG"], max_pixels=4_096).shape == (3, 64, 64)


def test_a_text_bomb_in_a_png_is_refused() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("bomb", "x" * 100_000_000, zip=True)
    assert refused(file(Image.new("RGB", (16, 16)), "PNG", pnginfo=info)).code == "MMG-D04"


def test_small_pictures_are_read_fast() -> None:
    data = file(columns([(*c, a) for c, a in zip(COLOURS, ALPHA, strict=True)], "RGBA").resize((72, 72)), "PNG")

    def seconds() -> float:
        start = time.process_time()
        images.decode(data, 32)
        return time.process_time() - start

    assert min(seconds() for _ in range(50)) < 0.003


@pytest.mark.parametrize("size", [0, -1])
def test_an_impossible_size(size: int) -> None:
    with pytest.raises(ValueError, match="size must be at least 1"):
        images.decode(WHOLE["PNG"], size)


def test_a_png_holds_the_picture_and_its_text(tmp_path: Path) -> None:
    picture = torch.rand(3, 9, 17)
    path = tmp_path / "new" / "a.png"
    images.save_png(picture, path, {"caption": "a 👩🏿‍🚒", "seed": "3"})
    assert (images.decode(path) - picture).abs().max() <= 0.5 / 255 + 1e-6
    with Image.open(path) as image:
        assert image.text == {"caption": "a 👩🏿‍🚒", "seed": "3"}
    assert path.read_bytes() == images.encode_png(picture, {"caption": "a 👩🏿‍🚒", "seed": "3"})


def test_values_outside_are_clamped_and_the_tensor_left_alone() -> None:
    picture = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0, torch.nan, torch.inf, 0.25]).expand(3, 8, 8)
    before = picture.clone()
    row = (images.decode(images.encode_png(picture))[0, 0] * 255).round().int().tolist()
    assert row == [0, 0, 128, 255, 255, 0, 255, 64]
    assert torch.equal(picture.nan_to_num(9), before.nan_to_num(9))
    with pytest.raises(ValueError, match=r"\(3,H,W\)"):
        images.encode_png(torch.zeros(1, 8, 8))


def test_a_grid_reads_as_text_does() -> None:
    pictures = torch.arange(5)[:, None, None, None].expand(5, 3, 4, 6) / 10
    sheet = images.grid(pictures, columns=3, pad=2)
    assert sheet.shape == (3, 2 + 2 * 6, 2 + 3 * 8)
    assert [[round(sheet[0, 2 + 6 * r, 2 + 8 * c].item() * 10) for c in range(3)] for r in range(2)] == [
        [0, 1, 2],
        [3, 4, 10],
    ]
    assert sheet[:, :2].min() == 1
    assert images.grid(pictures[:2], columns=9, pad=0).shape == (3, 4, 12)
    for bad in (pictures[:0], pictures[0]):
        with pytest.raises(ValueError, match="a grid needs"):
            images.grid(bad, 2)


def test_a_sheet_shows_captions_ranks_and_enlarged_pictures() -> None:
    red, blue = torch.zeros(3, 32, 32), torch.zeros(3, 32, 32)
    red[0], blue[2] = 1, 1
    rows = [("a red square", [red, blue]), ("a blue square " * 40 + "\x1b[0m 猫", [blue])]
    sheet = images.sheet(rows)
    reds, blues = ((sheet - colour[:, :1, :1]).abs().amax(0) < 1e-6 for colour in (red, blue))
    assert reds.sum() == 96 * 96
    assert blues.sum() == 2 * 96 * 96
    assert torch.nonzero(reds)[:, 1].max() < torch.nonzero(blues[: sheet.shape[1] // 2])[:, 1].min()  # best first
    text = sheet[:, :, : torch.nonzero(reds)[:, 1].min()]
    assert (text.amax(0) < 0.5).sum() > 100  # ink in the captions' column, and none of it beyond
    assert images.sheet(rows, headers=()).shape[1] < sheet.shape[1] < images.sheet(rows, title="Title").shape[1]
    assert not torch.equal(images.sheet(rows, headers=["original", "1"]), sheet)
    for bad in ([], [("nothing", [])]):
        with pytest.raises(ValueError, match="at least one row"):
            images.sheet(bad)


def test_labels_stand_below_their_pictures_and_are_cut_at_their_width() -> None:
    red = torch.zeros(3, 32, 32)
    red[0] = 1
    rows = [("a caption " * 90 + "猫", [("short", red), ("very long and longer", red)]), ("", [("", None), ("", red)])]
    sheet = images.labelled(rows)
    reds = (sheet - red[:, :1, :1]).abs().amax(0) < 1e-6
    assert reds.sum() == 3 * 32 * 32
    (top, left), (bottom, right) = torch.nonzero(reds).amin(0).tolist(), torch.nonzero(reds).amax(0).tolist()
    assert (sheet[:, :, :left].amax(0) < 0.5).sum() == 0
    assert (sheet[:, :, right + 1 :].amax(0) < 0.5).sum() == 0, "lines are cut, too"
    labels = sheet[:, top + 32 : bottom - 31].amax(0) < 0.5
    assert labels[:, left : left + 32].any()
    assert labels[:, right - 31 :].any()
    assert not labels[:, left + 33 : right - 31].any()
    noted = images.labelled(rows, notes=["a note that is wider than two pictures of thirty-two pixels"])
    assert noted.shape[1] > sheet.shape[1]
    assert noted.shape[2] > sheet.shape[2] + 200
    for bad in ([], [("", [("nothing", None)])], [("", [("", red), ("", red[:, :8, :8])])]):
        with pytest.raises(ValueError, match="pictures of one size"):
            images.labelled(bad)


def test_no_other_module_imports_pil() -> None:
    modules = list(Path(images.__file__).parent.rglob("*.py"))
    importing = [m.name for m in modules if re.search(r"^\s*(from|import) PIL\b", m.read_text(encoding="utf-8"), re.M)]
    assert importing == ["images.py"]
    assert len(modules) > 40
