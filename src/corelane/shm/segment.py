"""Segments: memory that processes share, with a name or without.

A Segment owns its mapping, its descriptor and its lease (the proof to others that somebody holds it). Views of its data
keep the mapping alive, whatever becomes of the Segment: what numpy reads is never unmapped under it.
"""

from __future__ import annotations

import atexit
import errno
import os
import sys
import weakref

from corelane._ffi import PLATFORM, fast, ffi, lib
from corelane._values import flag, integer
from corelane.errors import Corrupted, NotSupported, ShmError, ShmFailed, shm_failed
from corelane.shm.names import DIRECTORY, path_of

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Protocol

    from corelane.shm.streams import SegmentInput, SegmentOutput

    class HasFileno(Protocol):
        def fileno(self) -> int: ...


__all__ = ["KINDS", "Handle", "Passed", "Segment", "create_options", "passed_on", "started", "to_child", "use_makers"]

# What segments hold, as people call it.
KINDS = {
    lib.CL_SEGMENT_BYTES: "bytes",
    lib.CL_SEGMENT_ARRAY: "array",
    lib.CL_SEGMENT_RING: "ring",
    lib.CL_SEGMENT_QUEUE: "queue",
    lib.CL_SEGMENT_BROADCAST: "broadcast",
    lib.CL_SEGMENT_MUTEX: "lock",
    lib.CL_SEGMENT_SEMAPHORE: "semaphore",
    lib.CL_SEGMENT_EVENT: "event",
    lib.CL_SEGMENT_BARRIER: "barrier",
    lib.CL_SEGMENT_DEQUE: "deque",
    lib.CL_SEGMENT_BUFFERS: "buffers",
}
_HUGE = {"2M": 21, "1G": 30, "64K": 16, "32M": 25, "512M": 29, "16M": 24}
_NUMA_MODES = {"preferred": 1, "bind": 2, "interleave": 3}
_LARGEST = 2**62


class Handle:
    """What another process attaches a segment by: small, hashable, picklable.

    That of a segment without a name leads through the process that made the handle, which must live, and be one whose
    descriptors we may open (the same user's), until the other one has attached. Who cannot promise that passes the
    descriptor: `Command(fds={3: segment})`, `socket.send_fds`. On macOS it leads only into the process that made it,
    and, as an argument of a process that multiprocessing starts, into that one.
    """

    __slots__ = ("_passed", "device", "fd", "inode", "name", "pid")

    def __init__(self, name: str | None, pid: int, fd: int, device: int, inode: int) -> None:
        self.name, self.pid, self.fd, self.device, self.inode = name, pid, fd, device, inode
        self._passed = -1  # a descriptor of our own, of one that was passed to us

    def _key(self) -> tuple[Any, ...]:
        return self.name, self.pid, self.fd, self.device, self.inode

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple[Any, ...]:
        passed = to_child(self.fd) if PLATFORM != "linux" and self.name is None and self.pid == os.getpid() else None
        return (Handle, self._key()) if passed is None else (_passed, (passed, self.device, self.inode))

    def __del__(self) -> None:
        if self._passed >= 0:
            os.close(self._passed)

    def __repr__(self) -> str:
        return f"<Handle of {self.name or f'descriptor {self.fd} of process {self.pid}'}>"


class Passed:
    """What a child that multiprocessing is starting attaches a segment by: a descriptor of its own.

    So the maker may close it, or end, before the child is up; by a Handle it would have to wait for that.
    """

    __slots__ = ("dup", "name")

    def __init__(self, dup: Any, name: str | None) -> None:
        self.dup, self.name = dup, name


def use_makers(kind: type) -> TypeError:
    """Why a class was called in vain."""
    return TypeError(f"{kind.__name__} is made by {kind.__name__}.create() or {kind.__name__}.attach(), not by a call")


def started() -> Any:
    """The child of multiprocessing that is being started here, if what is pickled now is for one."""
    context = sys.modules.get("multiprocessing.context")
    return None if context is None else context.get_spawning_popen()


def to_child(fd: int) -> Any:
    """What a descriptor is pickled as for a child of multiprocessing; None: none is being started."""
    popen = started()
    if popen is None:
        return None
    from multiprocessing.reduction import DupFd

    if fd in getattr(popen, "_fds", ()):  # no number can be passed twice: an object, and its segment
        fd = os.dup(fd)
        weakref.finalize(popen, os.close, fd).atexit = False  # it is passed on by then, and a forked child has it, too
    return DupFd(fd)


def passed_on(segment: Segment) -> Handle | Passed:
    """What an object in a segment is pickled as: for a child that is being started a descriptor, else a Handle."""
    handle, dup = segment.handle, to_child(segment.fileno())
    return handle if dup is None else Passed(dup, handle.name)


def _passed(passed: Any, device: int, inode: int) -> Handle:
    fd = passed.detach()
    handle = Handle(None, os.getpid(), fd, device, inode)
    handle._passed = fd
    return handle


class Segment:
    """A piece of shared memory. Made by `create`, `attach` or `from_file`, never by calling the class.

    A context manager: leaving the block closes it. `buf` is a memoryview of its data.
    """

    __slots__ = ("__weakref__", "_core", "_identity", "_kept", "_maker", "_name", "_path", "_report", "_view")

    def __init__(self, *unused: object, **options: object) -> None:
        if unused or options:
            raise use_makers(type(self))
        out = ffi.new("cl_segment **")
        if lib.cl_segment_new(out) < 0:
            raise MemoryError("no memory for a segment")
        self._core = ffi.gc(out[0], lib.cl_segment_free)
        self._kept = fast.Kept(self._core)
        self._report = ffi.new("cl_segment_report *")
        self._report.fd = -1
        self._name: str | None = None
        self._path: str | None = None
        self._maker = 0
        self._identity = (0, 0)  # of the file: its device and its number
        self._view: memoryview | None = None

    # ---- making and attaching ----

    @classmethod
    def create(cls, size: int, name: str | None = None, **options: Any) -> Segment:
        """Make one, all zeros.

        Args:
            size: bytes of data, at least 1. The memory is reserved now, so that no later touch of it can fail.
            name: what another program attaches it by. None: it has none, and is passed on.
            mode: permission bits of a named one (0o600).
            owner, group: numbers of its user and group; changing the owner needs CAP_CHOWN.
            keep: a named one stays when the one who made it closes it (False: then its name is removed).
            huge_pages: "2M", "1G": the size of its pages (see /proc/sys/vm/nr_hugepages). Only without a name.
            populate: all pages are in this process's page table when this returns.
            lock: never swapped out (RLIMIT_MEMLOCK).
            numa: ("bind", nodes), ("interleave", nodes) or ("preferred", node): where its memory comes from.

        Returns:
            The segment; it is held by this process until `close`, or its end.

        Raises:
            ShmFailed: the system refused: the name is taken (also a FileExistsError), no room, no permission.
            ValueError, TypeError: an argument is wrong. NotSupported: the platform has no such thing.
        """
        for private in ("about", "layout"):
            if private in options:
                raise TypeError(f"{private}: no such option; there are {', '.join(create_options)}")
        segment = cls()
        segment._create(size, name, lib.CL_SEGMENT_BYTES, **options)
        return segment

    def _create(
        self,
        size: int,
        name: str | None,
        kind: int,
        *,
        about: bytes = b"",
        layout: int = 0,
        mode: int = 0o600,
        owner: int | None = None,
        group: int | None = None,
        keep: bool = False,
        huge_pages: str | None = None,
        populate: bool = False,
        lock: bool = False,
        numa: tuple[str, Any] | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise TypeError(f"{', '.join(unknown)}: no such option; there are {', '.join(create_options)}")
        path = None if name is None else path_of(name)
        plan = ffi.new("cl_segment_plan *")
        plan.size = integer(1, _LARGEST)("size", size)
        plan.data_offset = max(lib.CL_SEGMENT_HEADER, (lib.CL_SEGMENT_ABOUT + len(about) + 63) // 64 * 64)
        plan.kind, plan.layout = kind, layout
        plan.mode = integer(0, 0o777)("mode", mode)
        plan.owner = -1 if owner is None else integer(0, 2**32 - 2)("owner", owner)
        plan.group = -1 if group is None else integer(0, 2**32 - 2)("group", group)
        plan.flags = _flags(populate=populate, lock=lock)
        if huge_pages is not None:
            if huge_pages not in _HUGE:
                raise ValueError(f"huge_pages must be one of {', '.join(_HUGE)}, not {huge_pages!r}")
            if name is not None:
                raise ValueError(f"huge_pages cannot be given for the named {name!r}: its file system has none")
            plan.huge_shift = _HUGE[huge_pages]
        for option, value in (("owner", owner), ("group", group)):
            if value is not None and name is None:
                raise ValueError(f"{option} is for a segment with a name: one without is reached by its descriptor")
        keeps = [about]
        if about:
            keeps.append(ffi.from_buffer(about))
            plan.about, plan.about_size = keeps[-1], len(about)
        if numa is not None:
            plan.node_mode, mask = _nodes(numa)
            keeps.append(ffi.new("uint64_t[]", mask))
            plan.nodes, plan.node_words = keeps[-1], len(mask)
        kept = flag("keep", keep)
        what = f"a segment of {size} bytes" + (f" named {name!r}" if name is not None else "")
        _check_room(what, plan.size)
        target = ffi.NULL if path is None else os.fsencode(path)
        self._name, self._path = name, path
        if name is not None and not kept:
            # Before there is one: a signal's exception may come as soon as there is, and its name is to go with us.
            self._maker = os.getpid()  # a forked child has this object, too
            _made.add(self)
        while (rc := lib.cl_segment_create(self._core, target, plan)) == -errno.EINTR:
            continue  # whatever handler there is for that signal has run by now
        if rc < 0:
            raise _failed(-rc, f"cannot make {what}", path, huge_pages, numa, {"owner": owner, "group": group})
        self._look()

    @classmethod
    def attach(cls, target: str | int | HasFileno | Handle, *, readonly: bool = False) -> Segment:
        """Attach one that there is already.

        Args:
            target: its name; its Handle; or a descriptor of it that was passed here (a duplicate is made).
            readonly: it can only be read through this. A file's permissions can hold a whole program to that.

        Returns:
            The segment; what is written there is seen by all who hold it.

        Raises:
            ShmFailed: there is none of that name (also a FileNotFoundError), no permission.
            Corrupted: it is no segment, truncated, of another version, or not whole. ValueError, TypeError.
        """
        segment = cls()
        segment._attach(target, lib.CL_SEGMENT_ANY, readonly)
        return segment

    def _attach(self, target: Any, kind: int, readonly: bool) -> None:
        flags = _flags(readonly=readonly)
        from corelane.shm.shared import Shared

        if isinstance(target, Shared):
            target = target.segment  # its own descriptor is that of a bell
        if isinstance(target, Handle):
            self._attach_handle(target, kind, flags)
        elif isinstance(target, Passed):
            self._attach_passed(target, kind, flags)
        elif isinstance(target, str):
            self._open(target, path_of(target), kind, flags)
        else:
            fd = target if isinstance(target, int) else target.fileno() if hasattr(target, "fileno") else None
            if not isinstance(fd, int) or isinstance(fd, bool) or not 0 <= fd < 2**31:
                raise TypeError(f"target must be a name, a Handle or a descriptor, not {target!r:.80}")
            self._take(fd, ffi.NULL, kind, flags, f"{_AT_DESCRIPTOR}{fd}")

    def _attach_handle(self, handle: Handle, kind: int, flags: int) -> None:
        if handle.name is not None:
            self._open(handle.name, path_of(handle.name), kind, flags)
        else:
            what = f"the segment that process {handle.pid} has as its descriptor {handle.fd}"
            if PLATFORM != "linux":
                self._attach_own(handle, kind, flags, what)
                return
            path = f"/proc/{handle.pid}/fd/{handle.fd}"
            try:
                fd = os.open(path, (os.O_RDONLY if flags & lib.CL_SEGMENT_READ_ONLY else os.O_RDWR) | os.O_CLOEXEC)
            except OSError as error:
                gone = error.errno in (errno.ENOENT, errno.ESRCH)
                why = "it has closed it, or has ended" if gone else f"{path} cannot be opened"
                raise shm_failed(
                    error.errno or errno.EIO,
                    f"cannot attach {what}: {os.strerror(error.errno or errno.EIO)}: {why}; "
                    "a descriptor that is passed needs nobody to stay",
                ) from None
            try:
                self._take(fd, ffi.NULL, kind, flags, what)
            finally:
                os.close(fd)
        there = os.fstat(self.fileno())
        if (there.st_dev, there.st_ino) != (handle.device, handle.inode):
            self.close()
            raise _replaced(handle)

    def _attach_own(self, handle: Handle, kind: int, flags: int, what: str) -> None:
        """Where no descriptor of another process can be opened. Looked at first: ours may be anything by now."""
        if handle.pid != os.getpid():
            raise NotSupported(
                f"cannot attach {what}: this platform opens no descriptor of another process: give the segment a name, "
                "pass the descriptor (Command(fds={3: segment}), socket.send_fds), or pass it as an argument of a "
                "process that multiprocessing starts"
            )
        try:
            there = os.fstat(handle.fd)
        except OSError:
            raise shm_failed(errno.ENOENT, f"cannot attach {what}: it has closed it") from None
        if (there.st_dev, there.st_ino) != (handle.device, handle.inode):
            raise _replaced(handle)
        self._take(handle.fd, ffi.NULL, kind, flags, what)

    def _attach_passed(self, passed: Passed, kind: int, flags: int) -> None:
        fd = passed.dup.detach()
        try:
            self._take(fd, ffi.NULL, kind, flags, f"{_AT_DESCRIPTOR}{fd}")
        finally:
            os.close(fd)
        if passed.name is not None:
            self._name, self._path = passed.name, path_of(passed.name)

    def _open(self, name: str, path: str, kind: int, flags: int) -> None:
        self._take(-1, os.fsencode(path), kind, flags, f"the segment {name!r}", path)
        self._name, self._path = name, path

    def _take(self, fd: int, path: Any, kind: int, flags: int, what: str, told: str | None = None) -> None:
        while (rc := lib.cl_segment_attach(self._core, fd, path, kind, 0, flags)) == -errno.EINTR:
            continue
        if rc == -errno.EBADMSG:
            lib.cl_segment_report_of(self._core, self._report)
            raise _corrupted(what, self._report)
        if rc < 0:
            raise _failed(-rc, f"cannot attach {what}", told, None)
        self._look()

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, readonly: bool = True, populate: bool = False) -> Segment:
        """Map an ordinary file: its bytes are the data.

        Args:
            path: the file, of at least one byte. Whoever makes it shorter meanwhile ends us with SIGBUS at the next
                touch of what is gone: that is so for any mapped file.
            readonly: without this, what is written goes to the file.
            populate: read all of it now.

        Raises:
            ShmFailed: it cannot be opened or mapped. Corrupted: it is empty, or no regular file.
        """
        segment = cls()
        flags = _flags(readonly=readonly, populate=populate) | lib.CL_SEGMENT_BORROWED
        name = os.fspath(path)
        segment._take(-1, os.fsencode(name), lib.CL_SEGMENT_ANY, flags, f"the file {name!r}", name)
        return segment

    def _look(self) -> None:
        lib.cl_segment_report_of(self._core, self._report)
        if self._report.fd >= 0:
            there = os.fstat(self._report.fd)
            self._identity = there.st_dev, there.st_ino

    # ---- what it is ----

    @property
    def name(self) -> str | None:
        return self._name

    @property
    def size(self) -> int:
        """Bytes of data."""
        return int(self._report.size)

    @property
    def readonly(self) -> bool:
        return bool(self._report.read_only)

    @property
    def closed(self) -> bool:
        return int(self._report.fd) < 0

    def fileno(self) -> int:
        """The descriptor to pass on. It begins with a header: who maps it himself finds the data at `data_offset`."""
        self._check_open()
        return int(self._report.fd)

    @property
    def data_offset(self) -> int:
        """Where the data begin in what `fileno` names, in bytes."""
        return int(self._report.data_offset)

    def stdin(self, offset: int = 0, size: int | None = None, *, copy: bool = False) -> SegmentInput:
        """A child's stdin that is a part of the data, and then its end. Python touches none of it.

            with segment.stdin(0, 1000) as source:
                cl.run(["sha256sum"], stdin=source)

        `stdin=segment` is all of it, for any number of children: each has an offset of its own. What this returns has
        one, which goes on from child to child, as a file's does.

        Args:
            offset, size: bytes; the default is all, or the rest. What ends where the data end is read where it is, and
                what is written there meanwhile may be seen; of any other part the kernel makes a copy now.
            copy: make one in any case: for a program that seeks to a place of its own, maps its stdin, or opens
                /dev/stdin by that name, and would meet the segment's header.

        Raises:
            ShmFailed: too many descriptors, no memory. ValueError, TypeError.
        """
        from corelane.shm.streams import SegmentInput

        return SegmentInput(self, offset, size, copy)

    def stdout(self, offset: int = 0, size: int | None = None, *, copy: bool = False) -> SegmentOutput:
        """A child's stdout (or stderr) that is a part of the data. Python touches none of it.

            with segment.stdout() as target:
                cl.run(["producer"], stdout=target)
            use(segment.buf[:target.written])       # it is there when the block has ended

        All of a segment without a name is written where it is, and can be seen meanwhile: then `stdout=segment` does,
        too, for a child whose output says itself how long it is. Any other part is written beside it, and copied by
        `close`: nobody can write beyond it, nor make a file longer that others have attached.

        Args:
            offset, size: bytes; the default is all, or the rest. A write beyond the end fails with EPERM in the child;
                what of it would have fitted is written only up to a multiple of the page size.
            copy: never in place: for a program that seeks to the start of its output to write something there, which
                would be the segment's header.

        Raises:
            ValueError: the segment is read-only, or closed; TypeError. ShmFailed: too many descriptors.
        """
        from corelane.shm.streams import SegmentOutput

        return SegmentOutput(self, offset, size, copy)

    def _open_stream(self, which: int) -> Any:
        """For a Command: the owner of a descriptor that one child has as its stdin (0), stdout (1) or stderr (2)."""
        from corelane.shm.streams import whole

        return whole(self, which)

    @property
    def buf(self) -> memoryview:
        """The data. A view of it keeps the memory mapped, also when the segment is closed."""
        self._check_open()
        if self._view is None:
            self._view = self._map(self._report.data, self.size)
        return self._view

    @property
    def _about(self) -> memoryview:
        start, size = lib.CL_SEGMENT_ABOUT, self.data_offset - lib.CL_SEGMENT_ABOUT
        return self._map(self._report.data - self.data_offset + start, size)

    def _map(self, address: Any, size: int) -> memoryview:
        return memoryview(fast.Kept(self._core, int(ffi.cast("uintptr_t", address)), size, self.readonly))

    @property
    def handle(self) -> Handle:
        """What another process attaches it by; picklable."""
        there = os.fstat(self.fileno())
        pid, fd = (0, -1) if self._name is not None else (os.getpid(), self.fileno())
        return Handle(self._name, pid, fd, there.st_dev, there.st_ino)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (type(self), passed_on(self), self.readonly)

    def __repr__(self) -> str:
        what = repr(self._name) if self._name is not None else "without a name"
        return f"<{type(self).__name__} {what}, {self.size} bytes{', closed' if self.closed else ''}>"

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"{self!r} cannot be used any more")

    # ---- the end ----

    def close(self) -> None:
        """Let go of it: its lease and descriptor now, its memory when the last view is gone. Whoever made a named one
        without keep=True removes its name, too. Does nothing the second time."""
        if self.closed:
            return
        if self._maker == os.getpid():
            self._unlink()
        self._view = None
        lib.cl_segment_let_go(self._core)
        self._look()

    def unlink(self) -> None:
        """Remove its name, if that is still its own: those who hold it keep it, nobody finds it any more."""
        self._check_open()
        self._unlink()

    def _unlink(self) -> None:
        """By what is known of the file: another thread that closes us, too, may have closed its descriptor by now.

        A signal's exception may come before any step: then it is done again, by whoever closes us or by `__del__`.
        """
        if self._path is None:
            return
        try:
            there = os.lstat(self._path)
            if (there.st_dev, there.st_ino) == self._identity:
                os.unlink(self._path)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._maker = 0  # it cannot, and need not be told so again
            raise shm_failed(
                error.errno or errno.EIO, f"cannot remove the name of {self!r}: {error.strerror}"
            ) from None
        self._maker = 0

    def __enter__(self) -> Segment:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_maker", 0) and not sys.is_finalizing():
            self._look()  # a signal's exception has come before it was looked at: it may be there even so
            self.close()


create_options = ("mode", "owner", "group", "keep", "huge_pages", "populate", "lock", "numa")


_AT_DESCRIPTOR = "the segment at descriptor "

# Those whose names are ours to remove: what is alive at the interpreter's end is not finalised.
_made: weakref.WeakSet[Segment] = weakref.WeakSet()


@atexit.register
def _remove_names() -> None:
    failed: BaseException | None = None
    for segment in list(_made):
        try:
            segment.close()
        except Exception as error:  # the names of the others go all the same
            failed = error
    if failed is not None:
        raise failed


def _attached(cls: type[Segment], passed: Handle | Passed, readonly: bool) -> Segment:
    segment = cls()
    segment._attach(passed, lib.CL_SEGMENT_ANY, readonly)
    return segment


def _replaced(handle: Handle) -> ShmError:
    return shm_failed(errno.ENOENT, f"{handle!r} is of a segment that is gone: another one is there now")


def _flags(*, readonly: bool = False, populate: bool = False, lock: bool = False) -> int:
    bits = lib.CL_SEGMENT_READ_ONLY if flag("readonly", readonly) else 0
    bits |= lib.CL_SEGMENT_POPULATE if flag("populate", populate) else 0
    return int(bits | (lib.CL_SEGMENT_LOCK if flag("lock", lock) else 0))


def _nodes(numa: tuple[str, Any]) -> tuple[int, list[int]]:
    from corelane.cpu.lists import cpu_list

    if not isinstance(numa, tuple) or len(numa) != 2 or numa[0] not in _NUMA_MODES:
        raise ValueError(f"numa must be a pair like ('bind', '0-1'), of {', '.join(_NUMA_MODES)}; not {numa!r}")
    nodes: Iterable[int] = cpu_list("numa", numa[1])
    bits = sum(1 << node for node in nodes)
    return _NUMA_MODES[numa[0]], [bits >> 64 * i & 2**64 - 1 for i in range((bits.bit_length() + 63) // 64)]


def _check_room(what: str, size: int) -> None:
    """A memfd has no size limit but memory's own, and reserving more than there is ends in the out-of-memory killer."""
    try:
        with open("/proc/meminfo", "rb") as file:
            rows = dict(line.split(b":", 1) for line in file)
        room = sum(int(rows[key].split()[0]) * 1024 for key in (b"MemAvailable", b"SwapFree"))
    except (OSError, KeyError, ValueError, IndexError):
        return  # it is only a kindness
    if size > room:
        raise shm_failed(errno.ENOMEM, f"cannot make {what}: only {room} bytes of memory and swap are available")


def _failed(
    number: int,
    what: str,
    path: str | None,
    huge_pages: str | None,
    numa: tuple[str, Any] | None = None,
    given: dict[str, int | None] | None = None,
) -> ShmFailed | NotSupported:
    if number in (errno.ENOSYS, errno.ENOTSUP):
        if PLATFORM != "linux" and (huge_pages or numa):
            return NotSupported(f"{what}: this platform has neither huge pages nor NUMA nodes for it")
        return NotSupported(
            f"{what}: it needs /proc, a file system in memory with O_TMPFILE, and locks of descriptions"
        )
    hint = ""
    if number == errno.EEXIST:
        hint = (
            f"; the name is taken ({path}): attach it, or see who has it with `corelane shm list`; if nobody has, "
            "because its maker was killed, `corelane shm clean` removes it"
        )
    elif number == errno.ENOENT:
        hint = f"; there is no {path}" if os.path.isdir(DIRECTORY) else f"; there is no {DIRECTORY} here"
    elif number == errno.ENOSPC:
        hint = f"; {DIRECTORY} is full (df {DIRECTORY}); `corelane shm clean` removes what nobody holds"
    elif huge_pages and number in (errno.ENOMEM, errno.ENOENT):
        hint = f"; too few pages of {huge_pages} are free: ask for more in /sys/kernel/mm/hugepages"
    elif number == errno.ENOLCK:
        hint = (
            f"; the file of its lease was removed from {DIRECTORY} (by what cleans up old files?): nobody could tell "
            "whether you live, so those who have it go on with it, and nobody else can attach it"
        )
    elif number == errno.EACCES:
        hint = (
            f"; its permissions do not let us ({path})"
            if path
            else "; we may not open its file for that: see its permissions, or try readonly=True"
        )
    elif number == errno.EPERM:
        asked = ", ".join(f"{key}={value}" for key, value in (given or {}).items() if value is not None)
        hint = f"; {asked}: only CAP_CHOWN may give files away, or to a group that we are not in" if asked else ""
        hint = hint or "; see the limit on locked memory (ulimit -l)"
    elif number == errno.ELOOP and path:
        hint = f"; {path} is a symbolic link, which is not followed: anybody may put one there"
    elif number == errno.EINVAL and numa is not None:
        hint = f"; numa={numa!r}: are all of these nodes there, with memory (/sys/devices/system/node/has_memory)?"
    return shm_failed(number, f"{what}: {os.strerror(number)}{hint}")


def _corrupted(what: str, report: Any) -> ShmError:
    found, expected = int(report.found), int(report.expected)
    why = {
        lib.CL_SEGMENT_NO_FILE: "it is no regular file",
        lib.CL_SEGMENT_SHORT: f"it has {found} bytes, and would need at least {expected}",
        lib.CL_SEGMENT_FOREIGN: "it does not begin as a segment does (or is of a machine with another byte order)",
        lib.CL_SEGMENT_VERSION: f"its layout is of version {found}, and this corelane's of {expected}",
        lib.CL_SEGMENT_NOT_READY: "whoever makes it has not finished, or died over it; see `corelane shm clean`",
        lib.CL_SEGMENT_RESIZED: f"it has {found} bytes, and was made with {expected}: somebody has resized it",
        lib.CL_SEGMENT_BOUNDS: f"its data would end at byte {found} of {expected}",
        lib.CL_SEGMENT_KIND: f"it is of kind {KINDS.get(found, found)}, not {KINDS.get(expected, expected)}",
        lib.CL_SEGMENT_LAYOUT: f"its layout is {found:#x}, not {expected:#x}",
    }.get(report.fault, f"fault {report.fault}")
    if report.fault == lib.CL_SEGMENT_NO_FILE and what.startswith(_AT_DESCRIPTOR):
        why += " (of a ring or a queue pass on the segment: fds={3: ring.segment})"
    return Corrupted(f"cannot attach {what}: {why}")
