"""A cache of compiled code in a folder of the user's, shared by all processes.

Compiled code is run as it is found, so the folder must belong to the user and be closed to everybody else. A file is named after what it
was compiled from and begins with a checksum of its name and content: one that is damaged or misplaced is ignored. Where nothing can
be stored, nothing is.
"""

import contextlib
import hashlib
import os
import secrets
import stat
import time
import warnings

# Beyond that the older half is deleted.
MOST_FILES = 1000
_MOST_BYTES = 64 << 20
_PRIVATE = os.O_CLOEXEC | os.O_NOFOLLOW
_VERSION = b"fastloss object code 2"
_UNFINISHED = "."
_A_DAY = 86400


def place():
    """The folder's path, or None: `FASTLOSS_CACHE_DIR` (none if empty), or a folder in the user's cache folder."""
    wanted = os.environ.get("FASTLOSS_CACHE_DIR")
    if wanted is not None:
        return wanted or None
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # as the XDG specification has it
        base = os.path.expanduser(os.path.join("~", ".cache"))
    return os.path.join(base, "fastloss") if os.path.isabs(base) else None


def read(key):
    """The bytes stored under the key, or None."""
    with contextlib.suppress(OSError), _folder() as folder:
        # Opening a FIFO would block.
        file = os.open(key, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | _PRIVATE, dir_fd=folder)
        with open(file, "rb") as opened:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_size > _MOST_BYTES:
                return None
            checksum, data = opened.read(32), opened.read(_MOST_BYTES)
            return data if _checksum(key, data) == checksum else None
    return None


def keep(key, data):
    """Store the bytes under the key. Concurrent writers each write a file of their own, and the last one stays."""
    with contextlib.suppress(OSError), _folder(create=True) as folder:
        beside = f"{_UNFINISHED}{os.getpid()}-{secrets.token_hex(8)}"
        file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _PRIVATE, 0o600, dir_fd=folder)
        try:
            with open(file, "wb") as opened:
                opened.write(_checksum(key, data) + data)
            os.replace(beside, key, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(beside, dir_fd=folder)
            raise
        _thin_out(folder)


def _checksum(key, data):
    """The checksum of a file's content, name and format."""
    return hashlib.sha256(b"\n".join([_VERSION, key.encode(), data])).digest()


@contextlib.contextmanager
def _folder(create=False):
    """The open folder, checked after it was opened, for what its path leads to may change. OSError if there is none to trust."""
    path = place()
    if path is None:
        raise OSError
    if create:
        os.makedirs(path, mode=0o700, exist_ok=True)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _PRIVATE)
    try:
        found = os.fstat(folder)
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            if "FASTLOSS_CACHE_DIR" in os.environ:
                warnings.warn(
                    f"fastloss: FASTLOSS_CACHE_DIR must be a folder of the user's own that is open to nobody else (mode 700), "
                    f"got {path!r} of mode {stat.S_IMODE(found.st_mode):o}; nothing is kept there",
                    RuntimeWarning,
                    stacklevel=2,
                )
            raise PermissionError(path)
        yield folder
    finally:
        os.close(folder)


def _thin_out(folder):
    """Delete the older half of too many files, and unfinished ones of writers that died. Anything but a file stays."""
    files = []
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode):
                files.append((found.st_mtime, name))
    long_ago = time.time() - _A_DAY
    old = [name for changed, name in files if name.startswith(_UNFINISHED) and changed < long_ago]
    finished = sorted(file for file in files if not file[1].startswith(_UNFINISHED))
    if len(finished) > MOST_FILES:
        old += [name for _, name in finished[: len(finished) // 2]]
    for name in old:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)
