"""Picture files in folders as people have them: which files are pictures, and what is in one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's ImageFolder's
SYSTEM = {
    "__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db", "desktop.ini",
    "#recycle",
}  # fmt: skip
"""Lower-case names of what systems leave in folders, besides the names that begin with a dot."""
DEEP = ("PNG", "PPM", "TIFF", "JPEG2000")  # formats whose 16-bit grey Pillow gives as integers of 0..65535


def is_hidden(path: Path, root: Path) -> bool:
    """Whether a name on the way from `root` to `path` is a hidden or a system file's or folder's."""
    return any(part.startswith(".") or part.lower() in SYSTEM for part in path.relative_to(root).parts)


def pictures_below(root: Path, deep: bool = True) -> list[Path]:
    """The picture files in a folder, in the order of their paths; hidden and system ones are none.

    Args:
        root: the folder.
        deep: whether those in folders below it count.
    """
    files = root.rglob("*") if deep else root.iterdir()
    return sorted(
        path for path in files if path.suffix.lower() in SUFFIXES and not is_hidden(path, root) and path.is_file()
    )


def folders_in(root: Path) -> list[Path]:
    """The folders in a folder by name, hidden and system ones left out: the classes of class folders."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not is_hidden(path, root))


def say_what_is_in(folder: Path, most: int = 8) -> str:
    """The names in a folder for a message, at most so many; "nothing" for an empty one, "no such folder" for none."""
    if not folder.is_dir():
        return "no such folder"
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "nothing"


def open_picture(file: Path | BinaryIO, name: str | Path = "", *, size: int | None = None, turn: bool = False) -> Image:
    """A picture as RGB, 8 bits a channel. 16-bit grey is scaled, not clipped as Pillow's own conversion does.

    Args:
        file: path or open file.
        name: for messages; the path where nothing is given.
        size: a JPEG may be decoded at a lower resolution of at least so many pixels.
        turn: whether to turn it as its Exif data say.

    Raises:
        ValueError: the file is no picture, broken, or of 32 bits a channel.
    """
    from PIL import Image, ImageOps

    name = name or str(file)
    try:
        with Image.open(file) as picture:
            if size is not None:
                picture.draft("RGB", (size, size))
            picture.load()
            shown = _to_8_bits(picture, name)
            return (ImageOps.exif_transpose(shown) if turn else shown).convert("RGB")
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        said = str(error) if "BytesIO" not in str(error) else "no format that Pillow knows"
        raise ValueError(f"Expected a picture in {name}, could not read it ({said}). Remove or replace it.") from error


def _to_8_bits(picture: Image, name: str | Path) -> Image:
    """8 bits a channel; what has so many already is returned as it is."""
    import numpy as np
    from PIL import Image

    sixteen = picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in DEEP)
    if not sixteen:
        if picture.mode.startswith(("I", "F")):
            raise ValueError(f"Expected 8 or 16 bits a channel in {name}, found mode {picture.mode}. Convert it.")
        return picture
    levels = np.asarray(picture).astype(np.float64)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError(f"Expected 8 or 16 bits a channel in {name}, found mode {picture.mode}. Convert it.")
    found = Image.fromarray(np.round(levels / 257).astype(np.uint8))
    found.info = {key: value for key, value in picture.info.items() if key == "exif"}
    return found
