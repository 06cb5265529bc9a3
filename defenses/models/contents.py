"""What a file really is, told from its content: a page, an error message or a pointer is no weight file."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

BEGIN = 1 << 16  # bytes read
POINTER = b"version https://git-lfs.github.com/spec"
FOREIGN = {
    b"\x89HDF\r\n": "an HDF5 file (Keras, TensorFlow)",
    b"\x1f\x8b": "a gzip archive: unpack it",
    b"BZh": "a bzip2 archive: unpack it",
    b"\xfd7zXZ": "an xz archive: unpack it",
    b"\x93NUMPY": "a NumPy array",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"Rar!": "a RAR archive: unpack it",
    b"7z\xbc\xaf": "a 7-zip archive: unpack it",
    b"GGUF": "a GGUF file",
}
"""First bytes -> what has them and is no file of torch.save or safetensors."""


def web_page(path: Path) -> str | None:
    """A file that is a web page in words, with its title and what to do about it; None for any other file."""
    begin = _begin(path)
    if not begin.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return None
    text = begin.decode("utf-8", "replace")
    match = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    title = f" titled {' '.join(match[1].split())!r}" if match else ""
    return f"a web page{title}{quota(text)}"


def quota(text: str) -> str:
    """What to do about Google Drive's daily limit, where `text` speaks of it."""
    if re.search(r"quota|too many users", text, re.IGNORECASE) is None:
        return ""
    return (
        " (Google Drive's download quota of this file is used up: try again tomorrow, or open the address while signed "
        "in, make a copy of the file in your own Drive and download that)"
    )


def disguise(path: Path) -> str | None:
    """What a file is that holds no weights, in words, with what to do about it; None where it may hold some."""
    begin = _begin(path)
    if not begin:
        return "an empty file"
    if begin.startswith(POINTER):
        return "a Git LFS pointer, a line of text in place of the file (`git lfs pull` in its repository gets the file)"
    if (page := web_page(path)) is not None:
        return page
    if (text := _text(begin)) is not None:
        return f"a text that begins with {text!r}{quota(text)}"
    return next((kind for magic, kind in FOREIGN.items() if begin.startswith(magic)), None)


def is_safetensors(path: Path) -> bool:
    """Whether a file has the format of safetensors, whatever its name: a length of 8 bytes, then a JSON object."""
    with path.open("rb") as file:
        begin = file.read(9)
    return len(begin) == 9 and begin[8:] == b"{" and int.from_bytes(begin[:8], "little") <= path.stat().st_size - 8


def pickled_classes(path: Path) -> list[str]:
    """Names of what a file of torch.save holds beside tensors and plain containers, without running any of it."""
    import torch

    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # the old format without an archive, or no such file at all
        return []


def is_program(path: Path) -> bool:
    """Whether a file is a TorchScript program (torch.jit.save)."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _begin(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(BEGIN)


def _text(begin: bytes) -> str | None:
    """The first words of a text; None for bytes that are none."""
    head = begin[:512]
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # a letter that the cut parted is no fault
            return None
        text = head[: error.start].decode("utf-8")
    plain = all(letter.isprintable() or letter.isspace() for letter in text)
    return " ".join(text.split())[:60] if plain and text.strip() else None
