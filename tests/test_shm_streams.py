"""Segments as the stdin and stdout of children: all of one, a part, large, odd; in place and beside; nothing left."""

import asyncio
import contextlib
import errno
import fcntl
import gc
import hashlib
import os
import random
import signal
import subprocess
import sys
import warnings

import pytest
from faults_child import fresh, nothing_left
from helpers import IN_PLACE, PATIENCE, every_strategy, needs_in_place, needs_linux, wait_until

import corelane as cl
from corelane import shm
from corelane._ffi import lib
from corelane.shm import streams

pytestmark = needs_linux

PAGE = os.sysconf("SC_PAGESIZE")
# Writes as many bytes as its argument says, and then what it could write of them, to stderr.
WRITER = r"""
import os, sys
left, done = int(sys.argv[1]), 0
try:
    while left:
        put = os.write(1, bytes([65 + done // 4096 % 26]) * min(left, 4096))
        left, done = left - put, done + put
except OSError as error:
    os.write(2, b"%d %s" % (done, error.strerror.encode()))
    sys.exit(3)
"""


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


def noise(size):
    return random.Random(size).randbytes(size)


def segment_of(data, name=None, **options):
    made = shm.Segment.create(len(data), name, **options)
    made.buf[:] = data
    return made


def written(size):
    return b"".join(bytes([65 + at // 4096 % 26]) * min(4096, size - at) for at in range(0, size, 4096))


def writer(size, **options):
    return cl.Command(sys.executable, "-I", "-S", "-c", WRITER, str(size), timeout=PATIENCE, **options)


@contextlib.contextmanager
def as_stdout(segment):
    """All of it, as a child's stdout: itself, where that can be."""
    if IN_PLACE:
        yield segment
    else:
        with pytest.raises(ValueError, match=r"give segment.stdout\(\)"):
            cl.run(["true"], stdout=segment)
        with segment.stdout() as target:
            yield target


def cat(source, **options):
    return cl.run(["cat"], stdin=source, stdout=cl.PIPE, timeout=PATIENCE, **options).stdout


# ---- stdin ----


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE + 7, 1 << 20])
def test_a_child_reads_exactly_the_data(size):
    data = noise(size)
    with segment_of(data) as segment:
        assert cat(segment) == data
        assert cat(segment) == data  # from the start each time
        with segment.stdin() as source:
            assert source.in_place == IN_PLACE
            assert cat(source) == data
            assert cat(source) == b""  # it goes on where the child has left it, as a file does
        with segment.stdin(copy=True) as source:
            assert not source.in_place
            assert cat(source) == data


@pytest.mark.slow
def test_64_mib_are_read_without_passing_through_here():
    data = noise(64 << 20)
    with segment_of(data) as segment:
        for start, end in ((0, len(data)), (12345, len(data)), (1, len(data) - 1)):
            with segment.stdin(start, end - start) as source:
                assert source.in_place == (IN_PLACE and end == len(data))
                said = cl.read(["sha256sum"], stdin=source, timeout=60)
            assert said.split()[0] == hashlib.sha256(data[start:end]).hexdigest()


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 0), (0, 5), (3, PAGE), (PAGE, 1), (PAGE + 5, None), (9999, None), (10_000, 0)]
)
def test_a_part_of_the_data(offset, size):
    data = noise(10_000)
    with segment_of(data) as segment, segment.stdin(offset, size) as source:
        end = len(data) if size is None else offset + size
        assert (source.offset, source.size) == (offset, end - offset)
        assert source.in_place == (IN_PLACE and end == len(data))
        assert cat(source) == data[offset:end]


@every_strategy
def test_every_strategy_has_both_streams(strategy):
    data = noise(2 * PAGE + 1)
    with segment_of(data) as source, shm.Segment.create(len(data)) as target:
        with as_stdout(target) as out:
            cl.run(["cat"], stdin=source, stdout=out, strategy=strategy, timeout=PATIENCE, die_with_parent=False)
        assert target.buf == data


def test_two_children_at_once_have_offsets_of_their_own():
    """Each reads half, waits for the other to have done so too, and then reads the rest."""
    code = (
        "import sys; f = sys.stdin.buffer.raw; a = f.read(1000); sys.stdout.write('.'); sys.stdout.flush()\n"
        "import os; os.read(3, 1); sys.stdout.write((a + f.read()).hex())"
    )
    data = noise(2000)
    held, release = os.pipe()
    with segment_of(data) as segment:
        command = cl.Command(sys.executable, "-I", "-S", "-c", code, stdin=segment, stdout=cl.PIPE, fds={3: held})
        with command.spawn() as one, command.spawn() as two:
            os.close(held)
            assert [process.stdout.read(1) for process in (one, two)] == [b".", b"."]
            os.close(release)
            for process in (one, two):
                assert bytes.fromhex(process.stdout.read().decode()) == data
                assert process.wait(PATIENCE) == 0


def test_many_children_of_one_command_read_the_same():
    data = noise(5000)
    with segment_of(data) as segment:
        sums = [done.text for done in cl.run_many([["md5sum"]] * 9, concurrency=3, stdin=segment, stdout=cl.PIPE)]
    assert sums == [f"{hashlib.md5(data).hexdigest()}  -\n"] * 9


def test_a_named_one_a_file_and_a_read_only_one(name, tmp_path):
    data = noise(PAGE + 100)
    (tmp_path / "file").write_bytes(data)
    with segment_of(data, name), shm.Segment.attach(name, readonly=True) as seen:
        assert cat(seen) == data
        with seen.stdin() as source:
            assert source.in_place == IN_PLACE
        with seen.stdin(1, 10) as source:
            assert cat(source) == data[1:11]
    with shm.Segment.from_file(tmp_path / "file") as mapped:
        assert cat(mapped) == data
        with mapped.stdin() as source:
            assert source.in_place == IN_PLACE


@needs_in_place
def test_a_segment_whose_file_is_longer_than_its_data_is_copied():
    """As segments of huge pages are, and those of an earlier version."""
    with segment_of(noise(100)) as segment:
        out = os.memfd_create("longer")
        try:
            head = bytearray(os.pread(segment.fileno(), 1 << 20, 0))
            assert head[16:24] == len(head).to_bytes(8, sys.byteorder), "the header's file_size has moved"
            head[16:24] = (2 * PAGE).to_bytes(8, sys.byteorder)
            os.pwrite(out, head, 0)
            os.ftruncate(out, 2 * PAGE)
            with shm.Segment.attach(out) as longer:
                assert cat(longer) == noise(100)
                with longer.stdin() as source, longer.stdout() as target:
                    assert (source.in_place, target.in_place) == (False, False)
        finally:
            os.close(out)


def test_huge_pages():
    try:
        segment = shm.Segment.create(3 << 20, huge_pages="2M")
    except (cl.ShmError, cl.NotSupported) as error:
        pytest.skip(f"no huge pages are free here: {error}")
    with segment:
        segment.buf[:] = noise(3 << 20)
        assert hashlib.sha256(cat(segment)).digest() == hashlib.sha256(noise(3 << 20)).digest()
        with segment.stdout() as target:
            assert not target.in_place
            writer(3 << 20, stdout=target).run()
        assert bytes(segment.buf) == written(3 << 20)
        # All of its pages: its data end where the file does, and still write(2) is refused for such a file.
        with segment.stdout(0) as target:
            assert not target.in_place


def test_without_proc_it_is_copied(monkeypatch):
    """The call that opens it anew says what it says where /proc is not mounted."""

    class Without:
        def __getattr__(self, name):
            return getattr(lib, name)

        def cl_segment_stream(self, *unused):
            return -errno.ENOENT

    monkeypatch.setattr(streams, "lib", Without())
    data = noise(3000)
    with segment_of(data) as segment:
        assert cat(segment) == data
        with segment.stdout(10) as target:
            cl.run(["echo", "beside"], stdout=target)
            assert (target.in_place, target.written) == (False, 7)
        assert bytes(segment.buf) == data[:10] + b"beside\n" + data[17:]
        with pytest.raises(ValueError, match=r"give segment.stdout\(\)"):
            cl.run(["echo"], stdout=segment)


def test_a_copy_has_no_header_for_those_who_open_dev_stdin():
    data = noise(3000)
    with segment_of(data) as segment, segment.stdin(copy=True) as source:
        assert cl.run(["cat", "/dev/stdin"], stdin=source, capture=True).stdout == data


def test_under_an_event_loop_and_in_pipelines():
    data = b"".join(b"%06d\n" % i for i in range(2000))

    async def main(segment):
        done = await asyncio.gather(*[cl.run_async(["md5sum"], stdin=segment, stdout=cl.PIPE) for _ in range(3)])
        return {each.text.split()[0] for each in done}

    with segment_of(data) as segment, shm.Segment.create(len(data)) as target:
        assert asyncio.run(main(segment)) == {hashlib.md5(data).hexdigest()}
        with as_stdout(target) as out:
            (cl.Command("cat") | cl.Command("tac")).with_options(stdin=segment, stdout=out).run()
        assert bytes(target.buf) == b"".join(reversed(data.splitlines(keepends=True)))
        upper = cl.over_lines(lambda lines: [line.replace("0", "o") for line in lines])
        assert cl.Pipeline(upper, ["cat"], stdin=segment).read() == data.decode().replace("0", "o")
        with as_stdout(target) as out:
            cl.Pipeline(["cat"], upper, stdin=segment, stdout=out).run()
        assert bytes(target.buf) == data.replace(b"0", b"o")


def test_other_programs_that_start_children_take_a_stream_too():
    with segment_of(b"for subprocess") as segment, segment.stdin(4) as source:
        assert subprocess.run(["cat"], stdin=source, capture_output=True, check=True).stdout == b"subprocess"


# ---- stdout ----


@pytest.mark.parametrize("name_given", [False, True])
@pytest.mark.parametrize("size", [1, PAGE, 2 * PAGE + 5])
def test_what_a_child_writes_is_in_the_segment(size, name_given, name):
    with shm.Segment.create(2 * PAGE + 5, name if name_given else None) as segment:
        with segment.stdout() as target:
            assert target.in_place == (IN_PLACE and not name_given)
            writer(size, stdout=target).run()
            assert target.written == size
        assert target.written == size
        assert bytes(segment.buf[:size]) == written(size)
        assert bytes(segment.buf[size:]) == bytes(segment.size - size)
        with shm.Segment.attach(segment):  # it is as long as it was, and begins as it did
            pass


@pytest.mark.slow
def test_64_mib_are_written_without_passing_through_here():
    size = (64 << 20) - 3
    with segment_of(noise(1000)) as given, shm.Segment.create(size) as segment:
        for target in (segment.stdout(), segment.stdout(copy=True)):
            segment.buf[:] = bytes(size)
            with target:
                cl.run(["head", "-c", str(size), "/dev/zero"], stdout=target, timeout=60)
                cl.run(["true"], stdin=given, stdout=target)
            assert target.written == size
        with segment.stdout(7, size - 8) as target:
            cl.Pipeline(["yes"], ["head", "-c", str(size - 8)], stdout=target, timeout=60).run()
        assert bytes(segment.buf[:12]) == bytes(7) + b"y\ny\ny"
        assert segment.buf[-2:].tolist()[1] == 0


def test_a_part_is_written_and_its_neighbours_are_not():
    with segment_of(b"#" * 300) as segment, segment.stdout(100, 50) as target:
        assert not target.in_place
        writer(60, stdout=target, stderr=cl.PIPE, check=False).run()
        assert target.written in range(51)
        cl.run(["printf", "abc"], stdout=target, check=False)
        with (
            contextlib.nullcontext() if IN_PLACE else pytest.raises(cl.ShmError, match="room for 50 bytes, and 13 more")
        ):
            target.close()
        assert bytes(segment.buf[:100]) == b"#" * 100
        assert bytes(segment.buf[150:]) == b"#" * 150


@needs_in_place
@pytest.mark.parametrize("copy", [False, True])
def test_a_child_that_writes_too_much_is_told(copy):
    """The part that would still have fitted into the last page is not written either."""
    size = 2 * PAGE + 10
    with shm.Segment.create(size) as segment, segment.stdout(copy=copy) as target:
        done = writer(3 * PAGE, stdout=target, stderr=cl.PIPE, check=False).run()
        assert (done.returncode, done.stderr) == (3, b"%d %s" % (2 * PAGE, os.strerror(errno.EPERM).encode()))
        assert target.written == 2 * PAGE
        target.close()
        assert bytes(segment.buf) == written(2 * PAGE) + bytes(10)


@pytest.mark.skipif(IN_PLACE, reason="here its child is told")
def test_whoever_closes_what_a_child_wrote_too_much_to_is_told():
    with shm.Segment.create(10) as segment:
        target = segment.stdout()
        writer(15, stdout=target).run()
        assert target.written == 10
        with pytest.raises(cl.ShmError, match="room for 10 bytes, and 5 more were written: they are lost") as caught:
            target.close()
        assert caught.value.errno == errno.EFBIG
        assert (bytes(segment.buf), target.closed) == (written(10), True)
        target.close()


@pytest.mark.skipif(IN_PLACE, reason="here its size is sealed")
def test_a_child_that_makes_its_output_shorter_ends_nothing():
    """No loop for ever over what is not there any more."""
    with segment_of(b"#" * 10) as segment:
        with segment.stdout() as target:
            cl.run([sys.executable, "-c", "import os; os.write(1, b'abcdef'); os.ftruncate(1, 2)"], stdout=target)
            assert target.written == 6
        assert bytes(segment.buf) == b"ab" + b"#" * 8


def test_one_target_for_one_child_after_another():
    with shm.Segment.create(100) as segment:
        with segment.stdout() as target:
            for word in ("one ", "two ", "three"):
                cl.run(["printf", word], stdout=target)
            assert target.written == 13
        assert bytes(segment.buf[:13]) == b"one two three"


@needs_in_place
def test_a_segment_itself_as_stdout_and_stderr_and_tee():
    with shm.Segment.create(100) as segment:
        cl.run(["printf", "out"], stdout=segment)
        assert bytes(segment.buf[:3]) == b"out"
        cl.Command.shell("printf err >&2", stderr=segment).run()
        assert bytes(segment.buf[:3]) == b"err"
        assert cl.run(["printf", "tee"], stdout=cl.PIPE, tee_stdout=segment).stdout == b"tee"
        assert bytes(segment.buf[:3]) == b"tee"
        cl.Command.shell("printf one; printf two >&2", stdout=segment, stderr=cl.STDOUT).run()
        assert bytes(segment.buf[:6]) == b"onetwo"
        with cl.Command("printf", "spawned", stdout=segment).spawn() as process:
            process.wait(PATIENCE)
        assert bytes(segment.buf[:7]) == b"spawned"
        with shm.Segment.attach(segment):
            pass


@needs_in_place
def test_what_is_written_in_place_can_be_seen_meanwhile():
    command = cl.Command("sh", "-c", "printf x; read line", stdin=cl.PIPE)
    with shm.Segment.create(100) as segment, segment.stdout() as target, command.spawn(stdout=target) as process:
        wait_until(lambda: segment.buf[0] == ord("x"), "what was written")
        assert target.written == 1
        process.stdin.close()
        process.wait(PATIENCE)


def test_a_program_that_seeks_in_its_output_may_do_so_in_a_copy():
    code = "import os; os.write(1, b'....data'); os.lseek(1, 0, 0); os.write(1, b'head'); os.lseek(1, 0, 2)"
    with shm.Segment.create(8) as segment, segment.stdout(copy=True) as target:
        cl.run([sys.executable, "-c", code], stdout=target)
        target.close()
        assert bytes(segment.buf) == b"headdata"


def test_the_segment_may_be_closed_before_its_target(name):
    segment = shm.Segment.create(100, name)
    view = segment.buf
    with segment.stdout() as target:
        segment.close()
        cl.run(["printf", "late"], stdout=target)
    assert bytes(view[:4]) == b"late"


# ---- bad input ----


@pytest.mark.parametrize("stream", ["stdin", "stdout"])
def test_parts_that_there_are_not(stream):
    with shm.Segment.create(100) as segment:
        make = getattr(segment, stream)
        for bad in ((-1,), (101,), (0, 101), (100, 1), (0, -1)):
            with pytest.raises(ValueError, match=r"must be from 0 to"):
                make(*bad)
        for bad in (("0",), (1.0,), (0, "1"), (True,)):
            with pytest.raises(TypeError, match="must be an integer"):
                make(*bad)
        with pytest.raises(TypeError, match="copy must be True or False"):
            make(copy=1)
    with pytest.raises(ValueError, match="cannot be used any more"):
        make()


def test_what_cannot_be_written_is_refused_in_words(name):
    with shm.Segment.create(100, name) as segment:
        with pytest.raises(ValueError, match=r"cannot be a child's stdout itself .* give segment.stdout\(\)"):
            cl.run(["echo"], stdout=segment)
        with shm.Segment.attach(name, readonly=True) as seen:
            with pytest.raises(ValueError, match="read-only: nothing can be written"):
                seen.stdout()
            with pytest.raises(ValueError, match="read-only: nothing can be written"):
                cl.run(["echo"], stdout=seen)
    with pytest.raises(ValueError, match="cannot be used any more"):
        cl.run(["cat"], stdin=segment)


def test_a_closed_stream_is_refused():
    with segment_of(b"x") as segment:
        for stream in (segment.stdin(), segment.stdout()):
            stream.close()
            stream.close()
            assert stream.closed
            assert "closed" in repr(stream)
            with pytest.raises(ValueError, match="cannot be used any more"):
                cl.run(["true"], stdin=stream)


def test_one_that_is_dropped_with_its_bytes_warns(name):
    with shm.Segment.create(100, name) as segment:
        target = segment.stdout()
        cl.run(["printf", "lost"], stdout=target)
        with pytest.warns(ResourceWarning, match="what was written to it is lost"):
            del target
        assert bytes(segment.buf[:4]) == bytes(4)
    if not IN_PLACE:
        return
    with shm.Segment.create(100) as segment, warnings.catch_warnings():
        warnings.simplefilter("error")
        target = segment.stdout()
        cl.run(["printf", "kept"], stdout=target)
        del target
        assert bytes(segment.buf[:4]) == b"kept"


def no_more_descriptors():
    import errno
    import resource

    import pytest

    from corelane import shm
    from corelane.shm import streams  # noqa: F401 - now: later there is no descriptor to read it by

    with shm.Segment.create(100) as segment:
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        filling = []
        with contextlib.suppress(OSError):
            while True:
                filling.append(os.dup(0))
        for attempt in (segment.stdin, lambda: segment.stdin(0, 5), segment.stdout, lambda: segment.stdout(0, 5)):
            with pytest.raises(cl.ShmError, match="Too many open files") as info:
                attempt()
            assert info.value.errno == errno.EMFILE
        with pytest.raises(cl.ResourceExhausted, match=r"its stdin <Segment .*> cannot be opened: Too many open files"):
            cl.run(["cat"], stdin=segment)
        for fd in filling:
            os.close(fd)


def test_without_descriptors_it_is_an_error_that_says_so():
    fresh(no_more_descriptors)


def test_a_file_of_huge_pages_is_not_written_in_place():
    """write(2) refuses it, whatever its seals. It has no pages here, so none need be free."""
    fd = os.memfd_create("huge", os.MFD_ALLOW_SEALING | os.MFD_HUGETLB | os.MFD_HUGE_2MB)
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        assert not streams._is_fixed(fd)
    finally:
        os.close(fd)


# ---- a signal anywhere ----


def interrupted_everywhere():
    import warnings

    from corelane import shm
    from corelane.shm import streams

    segment = shm.Segment.create(20_000)

    def scenario():
        for copy in (False, True):
            with segment.stdin(copy=copy) as source, segment.stdout(copy=copy) as target:
                os.write(target.fileno(), b"12345")
                assert os.read(source.fileno(), 1) in (b"1", b"\0")
        opened = streams.whole(segment, 0)
        os.read(opened.fd, 1)

    def raise_at(count):
        def trace(frame, event, argument):
            nonlocal count
            frame.f_trace_opcodes = True
            count -= frame.f_code.co_filename == streams.__file__
            if count < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
            return trace

        return trace

    scenario()
    warnings.simplefilter("ignore", ResourceWarning)
    sys.unraisablehook = lambda what: None  # where it comes in a finalizer
    before, count, interrupted = len(os.listdir("/proc/self/fd")), 0, True
    while interrupted:
        interrupted = False
        try:
            sys.settrace(raise_at(count))
            scenario()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.settrace(None)
        gc.collect(0)
        assert len(os.listdir("/proc/self/fd")) == before, f"at point {count}"
        count += 1
    assert count > 100


def test_ctrl_c_anywhere_leaves_no_descriptor():
    fresh(interrupted_everywhere)


def test_a_child_that_is_killed_leaves_what_it_had_written():
    with shm.Segment.create(100) as segment, segment.stdout() as target:
        command = cl.Command("sh", "-c", "printf half; kill -9 $$", stdout=target, check=False)
        assert command.run().returncode == -signal.SIGKILL
        assert target.written == 4
        target.close()
        assert bytes(segment.buf[:4]) == b"half"
