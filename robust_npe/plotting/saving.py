"""Figures as files that are complete: fonts embedded, caption inside, equal data equal bytes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from robust_npe.files import write_atomically
from robust_npe.plotting.style import CAPTION, style

__all__ = ["caption_of", "compress_png", "save_figure"]

COLORS = 256


def caption_of(figure: Figure) -> str:
    """Return all captions that `add_caption` wrote into a figure, on one line."""
    texts = [text for text in figure.findobj(Text) if text.get_gid() == CAPTION]
    return " ".join(" ".join(text.get_text().split()) for text in texts if isinstance(text, Text))


def save_figure(figure: Figure, path: Path, title: str | None = None) -> None:
    """Write a figure atomically; the format follows the file's suffix.

    The caption stands in the metadata: `Subject` of a PDF, `Description` of a PNG. PDFs embed their
    fonts as TrueType. The same figure gives the same bytes.

    Args:
        figure: The figure.
        path: With the suffix `.pdf`, `.png` or that of another format of matplotlib.
        title: For the metadata; None for the file's name.
    """
    name, caption = title or path.stem, caption_of(figure)
    metadata: dict[str, dict[str, Any]] = {
        "pdf": {"Title": name, "Subject": caption, "CreationDate": None},
        "png": {"Title": name, "Description": caption, "Software": None},
    }
    form = path.suffix[1:]
    settings: dict[str, Any] = {"format": form, "metadata": metadata.get(form)}
    with style():
        write_atomically(path, lambda file: figure.savefig(file, **settings))


def compress_png(path: Path) -> None:
    """Reduce a PNG to 256 colours, a third of its size; its metadata stay."""
    with Image.open(path) as image:
        texts, resolution = PngInfo(), image.info.get("dpi")
        for key, text in image.info.items():
            if isinstance(key, str) and isinstance(text, str):
                texts.add_text(key, text)
        reduced = image.convert("RGB").quantize(
            COLORS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        )
    settings: dict[str, Any] = {"dpi": resolution} if resolution else {}
    buffer = io.BytesIO()
    reduced.save(buffer, "PNG", optimize=True, pnginfo=texts, **settings)
    write_atomically(path, buffer.getvalue())
