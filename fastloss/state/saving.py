"""State in a file, of an optimizer or of what stands around one: whole or not at all, on the way out and on the way in."""

import contextlib
import errno
import json
import os
import stat

import numpy as np

from ..api import Optimizer
from ..optimizers import LossScaler, WeightAverage
from ..optimizers.wrapping import Wrapper
from .structure import apart, check_saveable, kind, like_of, plain, together
from .tensors import FormatError, Reader, parse, write

FORMAT = "fastloss.optimizer"
VERSION = "1"


def save_state(path: str | os.PathLike[str], opt: Optimizer | Wrapper | WeightAverage | LossScaler) -> None:
    """Write an optimizer's state, or that of what stands around one, into a safetensors file, in the place of what was there.

    The parameters are not in it; save them yourself. The new file is written beside the old one, forced onto the disk, and only
    then renamed: after a full disk, an interruption or a power cut there is the old file or the new one. A symbolic link stays,
    its target is replaced; permissions stay as well. (A process that is killed may leave a file ``.….tmp`` behind.) `opt` must
    not step meanwhile.

    Parameters
    ----------
    path : str or os.PathLike
        The file; any ending, by custom ``.safetensors``.
    opt : Optimizer, Lookahead, SAM, WeightAverage or LossScaler
        Any optimizer of fastloss; of those around another one the state includes that one's. Averages and scales go into files of
        their own.

    Raises
    ------
    ValueError
        If `path` is there and no file, or a hyperparameter is not finite.
    RuntimeError
        If a `SAM` is between `ascend` and `step`.
    OSError
        What the system says: a full disk, no such folder, no permission.

    Examples
    --------
    >>> import os, tempfile
    >>> import fastloss as fl
    >>> optimizer = fl.Adam(np.zeros(3), lr=0.5)
    >>> _ = optimizer.step(np.ones(3))
    >>> path = os.path.join(tempfile.mkdtemp(), "optimizer.safetensors")
    >>> fl.save_state(path, optimizer)
    >>> again = fl.Adam(np.zeros(3))
    >>> fl.load_state(path, again)
    >>> again.steps, again.param_groups[0]["lr"]
    (1, 0.5)
    """
    who = "save_state"
    check_saveable(who, opt)
    path, mode = _target(who, path)
    rest, tensors = apart(_named(opt))
    arrays: dict[str, np.ndarray] = {}
    names: dict[str, dict[str, str]] = {}
    for name, states in tensors.items():
        names[name] = {}
        for state, array in states.items():
            key = f"{name}.{state}"
            while key in arrays:  # "a.b" and "c" may meet "a" and "b.c"
                key += "'"
            arrays[key] = array
            names[name][state] = key
    rest = {key: plain(who, key, value) for key, value in rest.items()}
    metadata = {"format": FORMAT, "version": VERSION, "optimizer": json.dumps(rest), "names": json.dumps(names)}
    with _replacing(path, mode) as file:
        write(who, file, arrays, metadata)


def load_state(path: str | os.PathLike[str], opt: Optimizer | Wrapper | WeightAverage | LossScaler) -> None:
    """Take over the state that `save_state` wrote: all of it or, on an error, nothing.

    Nothing in the file is run. Sizes that it states are held against its own and against the parameters before memory is taken for
    them.

    Parameters
    ----------
    path : str or os.PathLike
        The file.
    opt : Optimizer, Lookahead, SAM, WeightAverage or LossScaler
        Of the kind that was saved, for parameters of the same names and shapes. Its hyperparameters become those of the file.

    Raises
    ------
    ValueError
        If the file is cut short, changed, of another format or version, or does not fit `opt`.
    RuntimeError
        If a `SAM` is between `ascend` and `step`.
    ImportError
        If it holds bfloat16 and `ml_dtypes`, of the extra ``state``, is not installed.
    OSError
        What the system says: no such file, no permission.

    Examples
    --------
    >>> import os, tempfile
    >>> import fastloss as fl
    >>> path = os.path.join(tempfile.mkdtemp(), "optimizer.safetensors")
    >>> fl.save_state(path, fl.SGD(np.zeros(3), lr=0.25))
    >>> optimizer = fl.SGD(np.zeros(3))
    >>> fl.load_state(path, optimizer)
    >>> optimizer.param_groups[0]["lr"]
    0.25
    >>> fl.load_state(path, fl.SGD({"w": np.zeros(3)}))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: load_state: '...' must be a file of fastloss.optimizer 1 for this optimizer, got an unknown tensor params
    """
    who = "load_state"
    check_saveable(who, opt)
    shown = repr(path := _path(who, path))
    _check_regular(who, path, os.stat(path))
    try:
        with open(path, "rb") as file:
            state_dict = _read(Reader(file, os.fstat(file.fileno()).st_size), opt)
    except FormatError as error:
        raise ValueError(f"{who}: {shown} must be a file of {FORMAT} {VERSION} for this optimizer, got {error}") from error
    except ImportError as error:
        raise ImportError(f"{who}: {shown}: {error}") from error
    if not isinstance(opt, Optimizer | Wrapper):
        del state_dict["rule"]
    try:
        opt.load_state_dict(state_dict)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{who}: {shown} must hold a state of this optimizer: {error}") from error


def _read(reader, opt):
    """The file's state dictionary. What does not fit `opt` is found before its arrays take memory."""
    if reader.metadata.get("format") != FORMAT:
        raise FormatError(f"format {reader.metadata.get('format')!r:.40}")
    if reader.metadata.get("version") != VERSION:
        raise FormatError(f"version {reader.metadata.get('version')!r:.40}")
    rest = parse(reader.metadata.get("optimizer", ""), "state")
    names = parse(reader.metadata.get("names", ""), "table of names")
    own = _named(opt)
    if kind(rest) != kind(own):
        raise FormatError(f"a state of {kind(rest):.200}, not of {kind(own)}")
    ours = like_of(opt, own)
    if set(names) != set(ours):
        wrong = min(set(names) ^ set(ours))
        raise FormatError(f"{'no' if wrong in ours else 'an unknown'} tensor {wrong:.200}")
    unused = dict(reader.places)
    for name, states in names.items():
        if not isinstance(states, dict):
            raise FormatError(f"no table of the states of {name:.200}")
        for state, key in states.items():
            place = unused.pop(key, None) if isinstance(key, str) else None
            if place is None:
                raise FormatError(f"no array for {state:.200} of {name:.200}")
            if place.size > ours[name].size:
                raise FormatError(f"{state:.200} of shape {place.shape} for {name:.200} of shape {ours[name].shape}")
    if unused:
        raise FormatError(f"an array {next(iter(unused)):.200} that belongs to no tensor")
    arrays = reader.read()
    tensors = {name: {state: arrays[key] for state, key in states.items()} for name, states in names.items()}
    return together(rest, tensors, own)


def _named(opt):
    """The state dictionary; those of averages and scales do not say what they are of."""
    return {"rule": type(opt).__name__} | opt.state_dict()


def _path(who, path):
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{who}: path must be a text or an os.PathLike, got {type(path).__name__}")
    return os.fsdecode(path)


def _check_regular(who, path, status):
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a device, pipe or socket"
        raise ValueError(f"{who}: path must be a file, got {what}, {path!r}")


def _target(who, path):
    """The file to replace, behind all links, and its permissions, None where it is not there."""
    path = os.path.realpath(_path(who, path))
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return path, None
    _check_regular(who, path, status)
    return path, stat.S_IMODE(status.st_mode)


@contextlib.contextmanager
def _replacing(path, mode):
    """A new file to write into, which takes the place of `path` once all is on the disk, or is gone."""
    folder = os.path.dirname(path)
    beside = os.path.join(folder, f".{os.urandom(8).hex()}.tmp")
    try:
        with open(beside, "xb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
    _sync_folder(folder)


def _sync_folder(folder):
    """The new name is on the disk when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot
            raise
    finally:
        os.close(handle)
