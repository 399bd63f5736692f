"""TLS towards clients and backends, with certificates that are renewed while the process runs.

Files are looked at again and loaded into the same contexts, so every handshake after that uses the new ones and no
connection is lost. A certificate and a key that do not fit, as while one of two files has been written, change nothing.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from gateway.file_stamp import Stamp, stamp_of

if TYPE_CHECKING:
    from gateway.config.server import ServerTls
    from gateway.config.upstreams import BackendTls


class TlsFiles:
    """The files of one side's TLS, and the context they are loaded into: `ca` whom to trust, `cert` and `key` its own.

    Raises OSError when a file cannot be read or used.
    """

    def __init__(self, purpose: ssl.Purpose, ca: str | None, cert: str | None, key: str | None) -> None:
        with _naming(ca):
            self.context = ssl.create_default_context(purpose, cafile=ca)
        self._purpose = purpose
        self._ca, self._cert, self._key = ca, cert, key
        self.names = [name for name in (ca, cert, key) if name is not None]
        self._seen = self._stamps()
        if cert is not None:
            with _naming(cert, key):
                self.context.load_cert_chain(cert, key)

    def renew(self) -> bool:
        """Loads the files anew if they have changed; what is loaded stays if they cannot be used, and they are not
        tried again before they change again. An authority that is taken away is trusted until the process ends.

        Returns whether they were loaded. Raises OSError.
        """
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        self._seen = stamps
        # First into a context that nobody uses: one that has taken half of a pair would be of no use to anyone.
        TlsFiles(self._purpose, self._ca, self._cert, self._key)
        if self._ca is not None:
            self.context.load_verify_locations(self._ca)
        if self._cert is not None:
            self.context.load_cert_chain(self._cert, self._key)
        return True

    def _stamps(self) -> list[Stamp | None]:
        return [stamp_of(Path(name)) for name in self.names]


@contextlib.contextmanager
def _naming(*files: str | None) -> Iterator[None]:
    """Puts the files into an error about them, which ssl leaves out. Raises OSError."""
    try:
        yield
    except OSError as error:
        named = " or ".join(name for name in files if name is not None)
        raise OSError(error.errno or 0, error.strerror or str(error), named or None) from None


def server_files(tls: ServerTls) -> TlsFiles:
    """What a listener presents. Raises OSError."""
    return TlsFiles(ssl.Purpose.CLIENT_AUTH, None, tls.cert, tls.key)


#: By their settings, for as long as an endpoint uses them: a context holds all of the system's authorities, half a
#: megabyte that a thousand endpoints need not have a thousand times.
_backends: WeakValueDictionary[tuple[bool, str | None, str | None, str | None], TlsFiles] = WeakValueDictionary()


def backend_files(tls: BackendTls) -> TlsFiles:
    """What is used towards https backends with these settings; the same for all of them. Raises OSError."""
    settings = (tls.verify, tls.ca, tls.cert, tls.key)
    found = _backends.get(settings)
    if found is None:
        found = TlsFiles(ssl.Purpose.SERVER_AUTH, tls.ca, tls.cert, tls.key)
        if not tls.verify:
            found.context.check_hostname = False
            found.context.verify_mode = ssl.CERT_NONE
        _backends[settings] = found
    return found


def in_use() -> Iterator[TlsFiles]:
    """Those of all backends."""
    yield from list(_backends.values())
