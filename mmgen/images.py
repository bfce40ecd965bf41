"""The one place that decodes pictures, safely, and that lays them out: grids, and sheets with captions.

Everything that comes in is untrusted: only five formats are tried, the size is read from the header before a pixel is
decoded, and every mode a file can have is brought to RGB by a rule written down here. No other module imports PIL.
"""

from __future__ import annotations

import contextlib
import io
import math
import textwrap
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor
from torch.nn import functional as F

from mmgen.errors import DataError, quoted

# Formats with a decoder that starts no process and reads no other file. Left out with a reason: EPS (runs Ghostscript),
# PDF, PSD, TIFF, FITS, SVG.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
MAX_PIXELS = 64_000_000
MAX_ASPECT = 16
MIN_SIDE = 8

Result = TypeVar("Result")
Resize = Literal["lanczos", "bicubic"]

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(
    source: str | Path | bytes, size: int | None = None, *, max_pixels: int = MAX_PIXELS, resize: Resize = "lanczos"
) -> Tensor:
    """Decodes one picture, upright, on white, as RGB.

    Transparency is composited on white, 16-bit grey is scaled (not clipped), an animation gives its first frame. With
    `size`, the middle square is cut out and resized to (3,size,size).

    Args:
        source: a path, or the bytes of a file.
        size: side of the square in pixels; None keeps the picture as it is.
        max_pixels: refuse larger ones, by the header alone.
        resize: lanczos; or bicubic, as CLIP reads pictures: the shorter side is resized first, and then the middle
            cut out, with the same bytes as torchvision's Resize and CenterCrop give.

    Returns:
        (3,H,W) float in [0,1].

    Raises:
        DataError: MMG-D04, the file is missing, in no known format, or damaged; MMG-D05, its size is refused.
    """
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    pixels = _opened(source, max_pixels, lambda image: _pixels(image, size, resize))
    return torch.from_numpy(pixels).permute(2, 0, 1).float().div_(255)


def picture_size(source: str | Path | bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(H,W) of a picture as `decode` gives it, upright, without decoding it; errors as there."""
    width, height = _opened(source, max_pixels, lambda image: _upright(Image.new("L", image.size), image).size)
    return height, width


def _opened(source: str | Path | bytes, max_pixels: int, read: Callable[[Image.Image], Result]) -> Result:
    """What `read` makes of an opened picture whose size was checked; see `decode` for the errors."""
    where = "bytes" if isinstance(source, bytes) else str(source)
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file, formats=FORMATS) as image:
            _check_size(image.size, where, max_pixels)
            return read(image)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise _refused(f"the picture has more than {max_pixels:,} pixels", where) from e
    except FileNotFoundError as e:
        raise _unreadable("the picture does not exist", where, "check the path") from e
    except Exception as e:
        # Decoders trip over damaged files in many ways (OSError, SyntaxError, ValueError, struct.error, zlib.error …),
        # and all of them mean the same here.
        raise _unreadable("cannot decode the picture", where, _hint(source), why=_reason(e)) from e


def _check_size(size: tuple[int, int], where: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise _refused(f"the picture has {width}×{height} pixels, more than {max_pixels:,}", where)
    if min(size) < MIN_SIDE:
        raise _refused(f"the picture has {width}×{height} pixels, each side needs at least {MIN_SIDE}", where)
    if max(size) > MAX_ASPECT * min(size):
        raise _refused(f"the picture has {width}×{height} pixels, more than {MAX_ASPECT} times as long as wide", where)


def _refused(what: str, where: str) -> DataError:
    return DataError(what, code="MMG-D05", where=where, fix="resize or crop the picture, or take it out")


def _unreadable(what: str, where: str, fix: str, why: str = "") -> DataError:
    return DataError(what, code="MMG-D04", where=where, why=why, fix=fix)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"it is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"
    return quoted(str(error) or type(error).__name__)


def _hint(source: str | Path | bytes) -> str:
    return (
        "save it as PNG or JPEG" if isinstance(source, bytes) else f"save {Path(source).name!r} as PNG, or take it out"
    )


def _pixels(image: Image.Image, size: int | None, resize: Resize) -> np.ndarray:
    """(H,W,3) uint8 of an opened picture whose size was checked."""
    if size is not None and image.format == "JPEG" and resize == "lanczos":
        # A large photo is decoded at 1/2, 1/4 or 1/8, never below twice the size asked for.
        image.draft(image.mode, (2 * size, 2 * size))
    image.load()
    image = _upright(_rgb(image), image)
    if size is not None and resize == "bicubic":
        image = _as_clip(image, size)
    elif size is not None:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        image = square if side == size else square.resize((size, size), Image.Resampling.LANCZOS)
    return np.array(image)


def _as_clip(image: Image.Image, size: int) -> Image.Image:
    shorter = min(image.size)
    width, height = (size if side == shorter else int(size * side / shorter) for side in image.size)
    if shorter != size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _upright(image: Image.Image, original: Image.Image) -> Image.Image:
    try:
        orientation = original.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged metadata of a good picture: shown as stored
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode a file can have to RGB, transparency on white."""
    if image.mode.startswith("I"):
        return _rgb_of_deep_grey(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _rgb_of_deep_grey(image: Image.Image) -> Image.Image:
    """16-bit grey, scaled to 8 bits; Pillow's own conversion clips everything above 255 to white."""
    levels = np.asarray(image).astype(np.int64)
    grey = ((levels.clip(0, 65535) + 128) // 257).astype(np.uint8)
    if isinstance(transparent := image.info.get("transparency"), int):
        grey[levels == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def to_bytes(image: Tensor) -> Tensor:
    """Pictures of any shape in [0,1], clamped, to uint8: what a file and the datamodule's memory hold."""
    return image.detach().cpu().float().nan_to_num(0.0).clamp(0, 1).mul(255).round().to(torch.uint8)


def _to_pil(image: Tensor) -> Image.Image:
    if image.dim() != 3 or image.shape[0] != 3:
        raise ValueError(f"a picture has the shape (3,H,W), got {tuple(image.shape)}")
    return Image.fromarray(to_bytes(image).permute(1, 2, 0).numpy())


def _from_pil(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255)


def encode_png(image: Tensor, text: Mapping[str, str] | None = None) -> bytes:
    """A picture (3,H,W) in [0,1] as the bytes of a PNG; `text` becomes its tEXt (or iTXt) entries."""
    info = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        info.add_text(key, value)
    file = io.BytesIO()
    _to_pil(image).save(file, format="PNG", pnginfo=info)
    return file.getvalue()


def through_jpeg(image: Tensor, quality: int) -> Tensor:
    """A picture (3,H,W) in [0,1] as JPEG leaves it, at a quality in 1..95."""
    file = io.BytesIO()
    _to_pil(image).save(file, format="JPEG", quality=quality)
    with Image.open(file) as spoilt:
        return _from_pil(spoilt.convert("RGB"))


def save_png(image: Tensor, path: str | Path, text: Mapping[str, str] | None = None) -> None:
    """Writes `encode_png` to a file, making its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(image, text))


def grid(images: Tensor, columns: int, pad: int = 2) -> Tensor:
    """Pictures (B,3,H,W) in reading order, `columns` a row, `pad` white pixels around each: one picture (3,H',W')."""
    if images.dim() != 4 or images.shape[0] == 0 or columns < 1:
        raise ValueError(
            f"a grid needs pictures (B,3,H,W) and at least one column, got {tuple(images.shape)}, {columns}"
        )
    count, _, height, width = images.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    canvas = torch.ones(3, pad + rows * (height + pad), pad + columns * (width + pad))
    for i, image in enumerate(images.detach().cpu().float()):
        top, left = pad + (i // columns) * (height + pad), pad + (i % columns) * (width + pad)
        canvas[:, top : top + height, left : left + width] = image
    return canvas


_INK, _QUIET, _LINE, _MARGIN, _GAP = (34, 34, 34), (120, 120, 120), (226, 226, 226), 16, 6


def sheet(
    rows: Sequence[tuple[str, Sequence[Tensor]]],
    *,
    headers: Sequence[str] | None = None,
    title: str = "",
    picture_size: int = 96,
    caption_width: int = 230,
) -> Tensor:
    """Captions on the left, their pictures on the right, best first: what a person looks at to judge a run.

    Small pictures are enlarged by a whole number without smoothing, so that what is seen is what was drawn.

    Args:
        rows: a caption and its pictures, each (3,H,W) in [0,1]; all pictures of one size.
        headers: what stands above the columns; None writes the ranks 1, 2, 3 …; an empty sequence writes nothing.
        title: a line above everything.
        picture_size: pictures are enlarged to at least this many pixels a side.
        caption_width: width of the caption's column in pixels.

    Returns:
        (3,H',W') in [0,1].
    """
    if not rows or not any(pictures for _, pictures in rows):
        raise ValueError("a sheet needs at least one row with a picture")
    first = next(pictures[0] for _, pictures in rows if pictures)
    scale = max(1, math.ceil(picture_size / max(first.shape[1:])))
    height, width = first.shape[1] * scale, first.shape[2] * scale
    columns = max(len(pictures) for _, pictures in rows)
    headers = [str(i + 1) for i in range(columns)] if headers is None else headers
    top = _MARGIN + (34 if title else 0) + (24 if headers else 0)
    left = _MARGIN + caption_width + _MARGIN
    step = height + 2 * _GAP + 1
    canvas = Image.new(
        "RGB", (left + columns * (width + _GAP) - _GAP + _MARGIN, top + len(rows) * step + _MARGIN), "white"
    )
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((_MARGIN, _MARGIN - 4), _drawable(title), fill=_INK, font=_font(22, _drawable(title)))
    for column, header in enumerate(headers):
        middle = left + column * (width + _GAP) + width // 2
        draw.text((middle, top - 6), header, fill=_QUIET, font=_font(14), anchor="ms")
    for i, (caption, pictures) in enumerate(rows):
        y = top + i * step
        draw.line((_MARGIN, y, canvas.width - _MARGIN, y), fill=_LINE)
        _draw_caption(draw, caption, (_MARGIN, y + _GAP + height // 2), caption_width, height)
        for column, picture in enumerate(pictures):
            enlarged = _to_pil(picture).resize((width, height), Image.Resampling.NEAREST)
            canvas.paste(enlarged, (left + column * (width + _GAP), y + _GAP + 1))
    return _from_pil(canvas)


def two_columns(rows: Sequence[tuple[str, Sequence[Tensor]]], headers: Sequence[str]) -> Tensor:
    """Captions and their pictures (3,H',W'), as `sheet` shows them, in two columns: one is too tall."""
    half = -(-len(rows) // 2)
    columns = [sheet(part, headers=headers) for part in (rows[:half], rows[half:]) if part]
    height = max(column.shape[1] for column in columns)
    ground = float(columns[0][0, 0, 0])
    padded = [F.pad(column, (0, 0, 0, height - column.shape[1]), value=ground) for column in columns]
    return torch.cat(padded, dim=2)


def labelled(
    rows: Sequence[tuple[str, Sequence[tuple[str, Tensor | None]]]], *, notes: Sequence[str] = ()
) -> Tensor:
    """Rows of pictures with a label below each.

    Args:
        rows: a line of text that stands above the row, none where it is empty, and labels with pictures (3,H,W) in
            [0,1], all of one size; None leaves the place free. Labels are cut at the picture's width, lines at the
            sheet's.
        notes: small lines above everything, for which the sheet is wide enough.

    Returns:
        (3,H',W') in [0,1].
    """
    shapes = {tuple(picture.shape[1:]) for _, row in rows for _, picture in row if picture is not None}
    if len(shapes) != 1:
        raise ValueError(f"a sheet needs pictures of one size, got {sorted(shapes)}")
    ((height, width),) = shapes
    step = width + _GAP + 2
    longest = max((_font(13, note).getlength(note) for note in notes), default=0)
    wide = 2 * _MARGIN + max(step * max(len(row) for _, row in rows) - 8, math.ceil(longest))
    tall = 2 * _MARGIN + 19 * len(notes) + sum((34 if line else 0) + height + 22 for line, _ in rows)
    canvas = Image.new("RGB", (wide, tall), "white")
    draw = ImageDraw.Draw(canvas)
    y = _MARGIN - 4
    for note in notes:
        _draw_line(draw, note, (_MARGIN, y), wide - 2 * _MARGIN, 13, _QUIET)
        y += 19
    for line, row in rows:
        if line:
            draw.line((_MARGIN, y + 4, wide - _MARGIN, y + 4), fill=_LINE)
            _draw_line(draw, line, (_MARGIN, y + 9), wide - 2 * _MARGIN, 15, _INK)
            y += 34
        for column, (label, picture) in enumerate(row):
            if picture is not None:
                left = _MARGIN + column * step
                canvas.paste(_to_pil(picture), (left, y))
                _draw_line(draw, label, (left, y + height + 2), width, 12, _INK)
        y += height + 22
    return _from_pil(canvas)


def _draw_line(
    draw: ImageDraw.ImageDraw, text: str, corner: tuple[int, int], width: int, size: int, ink: tuple[int, int, int]
) -> None:
    """One line of text below and right of a corner, cut with an ellipsis where it is wider."""
    text = _drawable(text)[:300]
    font, shown = _font(size, text), text
    while shown and draw.textlength(shown, font=font) > width:
        text = text[:-1]
        shown = text.rstrip() + "…" if text else ""
    draw.text(corner, shown, fill=ink, font=font)


def _font(size: int, text: str = "") -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, which knows ASCII only; for other scripts DejaVu, where the machine has it."""
    if not text.isascii():
        with contextlib.suppress(OSError):
            return ImageFont.truetype("DejaVuSans.ttf", size)
    return ImageFont.load_default(size)


def _drawable(text: str) -> str:
    """One line without control characters, Latin letters without their accents: what Pillow's font can show."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def _draw_caption(draw: ImageDraw.ImageDraw, caption: str, middle: tuple[int, int], width: int, height: int) -> None:
    """Wraps a caption into its box, in the largest of a few sizes that fits, and cuts it when none does."""
    caption = _drawable(caption)
    for size in (17, 15, 13):
        font, line_height = _font(size, caption), size + 5
        characters = max(4, int(width / (draw.textlength("n" * 20, font=font) / 20) * 1.1))
        lines = textwrap.wrap(caption, characters) or [""]
        if len(lines) * line_height <= height and all(draw.textlength(line, font=font) <= width for line in lines):
            break
    fitting = max(1, height // line_height)
    if len(lines) > fitting:
        lines = [*lines[: fitting - 1], textwrap.shorten(" ".join(lines[fitting - 1 :]), characters, placeholder=" …")]
    y = middle[1] - len(lines) * line_height / 2
    for line in lines:
        draw.text((middle[0], y), line, fill=_INK, font=font)
        y += line_height
