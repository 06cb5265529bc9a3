"""Weight files from their public origins into the cache folder: resumed, checked, and never a web page in disguise."""

from __future__ import annotations

import json
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import Any

from defenses.models.contents import disguise, quota
from defenses.models.sources import Source, lock, pipeline_file
from defenses.models.weights import MissingWeights, cache_folder

Tell = Callable[[int, int | None], None]  # bytes here, bytes in all (None while unknown)
CHUNK = 1 << 20
TRIES = 4
TIMEOUT = 30  # seconds without a byte


def fetch(source: Source, tell: Tell = lambda done, total: None) -> Path:
    """The weight file of a source, downloaded into the cache folder unless it is on this machine already.

    What a broken download has left is continued where the server still offers the same file. Several processes may
    fetch the same file: one does, the others wait for it.

    Args:
        source: of `SOURCES`, or another.
        tell: is told of progress: bytes here, bytes in all (None while unknown).

    Raises:
        MissingWeights: the file cannot be had; the message says what to do by hand.
        ValueError: the file is not what it must be.
    """
    if (here := _here(source)) is not None:
        return here
    path = cache_folder() / "weights" / source.file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(source.file):
            return _here(source) or _download(source, path, tell)
    except OSError as error:
        raise _by_hand(
            source, f"the cache folder cannot be written ({error}); BENCH_CACHE_DIR names another"
        ) from error


def _here(source: Source) -> Path | None:
    """The file on this machine, checked; None where there is none."""
    try:
        path = source.find()
    except MissingWeights:
        return None
    source.check(path)
    return path


def _download(source: Source, path: Path, tell: Tell) -> Path:
    scheme, _, rest = source.at.partition(":")
    if scheme == "pipeline":
        _through(source, lambda: _pipeline(rest, path))
        return _checked(source, source.find())
    part = path.with_name(path.name + ".part")
    if scheme in ("http", "https"):
        _http(source, part, tell)
    elif scheme in TRANSPORTS:
        _through(source, lambda: TRANSPORTS[scheme](rest, part))
    else:
        raise _by_hand(source, "there is no public origin")
    return _checked(source, part).replace(path)


def _checked(source: Source, path: Path) -> Path:
    """A file that was fetched just now; what cannot be it is thrown away, and its sha256 is not recorded."""
    if (found := disguise(path)) is not None:
        path.unlink()
        raise _by_hand(source, f"the server answered with {found} instead of the file")
    try:
        source.check(path)
    except ValueError:
        path.unlink()
        raise
    return path


def _by_hand(source: Source, why: str) -> MissingWeights:
    place = cache_folder() / "weights" / source.file
    return MissingWeights(f"Could not fetch {source.file}: {why}. By hand: put it at {place}; origin: {source.where}.")


def _http(source: Source, part: Path, tell: Tell) -> None:
    """Plain HTTP(S): continue from what is in `part`; a dropped connection is taken up again."""
    why = ""
    for _ in range(TRIES):
        try:
            return _http_once(source.at, part, tell)
        except urllib.error.HTTPError as error:
            if error.code == 416 and part.exists():  # what is here is no beginning of what is there
                part.unlink()
            elif error.code < 500 and error.code not in (408, 429):
                raise _by_hand(source, f"{source.at} answered {error.code} {error.reason}") from error
            why = f"{source.at} answered {error.code} {error.reason}"
        except (OSError, HTTPException) as error:
            if not isinstance(
                error, (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
            ):
                raise  # of this machine's disk
            why = f"{source.at}: {getattr(error, 'reason', None) or error or type(error).__name__}"
    here = f"; {part.stat().st_size} bytes are here, and the same command continues" if part.exists() else ""
    raise _by_hand(source, why + here)


def _http_once(url: str, part: Path, tell: Tell) -> None:
    known = _offer_of(part)
    have = part.stat().st_size if known else 0
    headers = {"User-Agent": "purification-bench"} | ({"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
        if answer.status != 206:  # the server sends all of it
            have = 0
        offer = _offer(answer.headers, have)
        if have and not _is_same(known, offer):
            part.unlink()
            raise ConnectionError("the server offers another file than the one that was begun, which is thrown away")
        _note(part).write_text(json.dumps(offer), encoding="utf-8")
        total = offer["length"]
        with part.open("ab" if have else "wb") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                have += len(chunk)
                tell(have, total)
    if total is not None and have != total:
        raise ConnectionError(f"the connection ended after {have} of {total} bytes")
    _note(part).unlink()


def _offer(headers: Message, have: int) -> dict[str, Any]:
    """What a server says of the whole file: its ETag and its length; None for what it does not say."""
    length = headers.get("Content-Length")
    whole = (headers.get("Content-Range") or "").rpartition("/")[2]
    total = int(whole) if whole.isdigit() else have + int(length) if length is not None else None
    return {"etag": headers.get("ETag"), "length": total}


def _is_same(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether two offers are of one file: no part differs, and one at least is known and equal."""
    pairs = [(before.get(name), now[name]) for name in ("etag", "length")]
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    return bool(both) and all(a == b for a, b in both)


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _offer_of(part: Path) -> dict[str, Any]:
    """The offer that a part file is the beginning of; empty where there is none that says anything."""
    try:
        found = json.loads(_note(part).read_text(encoding="utf-8"))
        return found if part.exists() and any(found.values()) else {}
    except (OSError, ValueError, AttributeError):
        return {}


def _drive(file_id: str, part: Path) -> None:
    import gdown

    if gdown.download(id=file_id, output=str(part), resume=True) is None:
        raise LookupError("the download ended without a file")


def _drive_folder(place: str, part: Path) -> None:
    """One file of a Drive folder, found by the end of its path."""
    import gdown

    folder, _, name = place.partition("/")
    files = gdown.download_folder(id=folder, output=str(part.parent), skip_download=True, quiet=True) or []
    found = [file.id for file in files if f"/{file.path}".endswith(f"/{name}")]
    if len(found) != 1:
        listed = ", ".join(str(file.path) for file in files) or "nothing"
        raise LookupError(f"expected one file {name} in the folder, found {listed}")
    _drive(found[0], part)


def _hub(place: str, part: Path) -> None:
    from huggingface_hub import hf_hub_download

    owner, name, file = place.split("/", 2)
    shutil.copyfile(hf_hub_download(f"{owner}/{name}", file, cache_dir=cache_folder() / "hub"), part)


def _pipeline(repository: str, folder: Path) -> None:
    """The U-Net and the scheduler's settings of a pipeline; the hub's library resumes and checks its files itself."""
    from huggingface_hub import snapshot_download

    wanted = ["config.json", "scheduler_config.json", "diffusion_pytorch_model.*", "unet/*", "scheduler/*"]
    snapshot_download(repository, local_dir=folder, allow_patterns=wanted)
    if pipeline_file(folder) is None:
        raise LookupError(f"expected a UNet2DModel in {repository}, found none")


TRANSPORTS: dict[str, Callable[[str, Path], None]] = {"drive": _drive, "drive-folder": _drive_folder, "hub": _hub}


def _through(source: Source, transport: Callable[[], None]) -> None:
    """Run a library's download; its many kinds of error become MissingWeights."""
    try:
        transport()
    except Exception as error:  # the libraries' own classes
        text = " ".join(str(error).split())[:300]
        raise _by_hand(source, f"{type(error).__name__}: {text}{quota(text)}") from error
