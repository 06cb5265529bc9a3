"""A site as a folder of files, which works without a server and without network."""

from __future__ import annotations

from pathlib import Path

from bench.view.pages import Pages

MARK = ".bench-view"  # lies in a folder that this program wrote, so that nobody's files are overwritten


def write_bundle(pages: Pages, folder: Path) -> int:
    """Write every page.

    Args:
        pages: the site.
        folder: made where it does not exist; one that holds other files is refused.

    Returns:
        The number of files.

    Raises:
        ValueError: the folder holds files that this program did not write.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise ValueError(f"{folder} holds other files. Give --bundle a new folder, or an earlier bundle.")
    for name in ("", "cell", "data", "assets"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text("Written by bench view --bundle.\n", encoding="utf-8")
    for path in (fixed := pages.fixed()):
        (folder / path).write_bytes(pages.content(path) or b"")
    count = len(fixed)
    for key, data in pages.site.read(list(pages.by_key)):
        (folder / "cell" / f"{key}.html").write_bytes(pages.cell_page(key, data))
        (folder / "data" / f"{key}.js").write_bytes(pages.cell_data(key, data))
        count += 2
        for picture in pages.site.pictures(key):
            (folder / "pictures" / key).mkdir(parents=True, exist_ok=True)
            (folder / "pictures" / key / picture.name).write_bytes(picture.read_bytes())
            count += 1
    return count
