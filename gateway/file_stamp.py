"""Which contents a file's name stands for, as far as a look at the folder tells: cheap enough for every second."""

from __future__ import annotations

from pathlib import Path

#: When a file was last written, and which one a name stands for: a mounted secret is a link that is moved.
Stamp = tuple[int, int]


def stamp_of(path: Path) -> Stamp | None:
    """The file's stamp, or None while it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


class WatchedFile:
    """A file as it was looked at last."""

    def __init__(self, path: Path | None) -> None:
        """None: there is no file, and it never changes."""
        self._path = path
        self._seen = self._look()

    def changed(self) -> bool:
        """Whether it has changed since the last look that found it so; a file that is gone has not."""
        stamp = self._look()
        if stamp is None or stamp == self._seen:
            return False
        self._seen = stamp
        return True

    def _look(self) -> Stamp | None:
        return None if self._path is None else stamp_of(self._path)
