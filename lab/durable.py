"""Writing so that a kill at any moment leaves the old file or the new one, whole, and never a half.

Content reaches the disk (fsync) before its name does (rename), and the name is made durable by an fsync of the folder;
rename alone is not portable across crashes (Pillai et al. 2014). Nothing here knows what a run or a checkpoint is.
"""

import contextlib
import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """Create `path` (mode 0600, never through a link, never over a file) with `data`, on disk when this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Give `path` the content `data`: readers see the old content or the new one, nothing between."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        write_file(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)
