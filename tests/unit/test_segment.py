"""A file of the spool: what is whole in it comes back, whatever happened to the rest; and it has one owner."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import support.values
from klime_mp import _segment
from klime_mp._ranges import Ranges
from klime_mp._segment import Record, Segment, line, records
from support.collector import environment
from support.program import PRELUDE
from support.spool import descriptors, files, forget_files, is_locked, lines, plant

DONE = line(0, b'{"done":[[2,2]]}')


@pytest.fixture(autouse=True)
def nothing_is_left_open(tmp_path):
    yield
    forget_files(tmp_path)


def read_all(segment, max_events=3, max_bytes=10**6):
    """All that waits, and comes."""
    found = []
    while segment.has_waiting():
        some = segment.read(max_events, max_bytes)
        if not some:
            break
        assert len(some) <= max_events
        found += some
    return found


def take_over(folder, text, mark=0):
    path = plant(folder, text, mark=mark)
    return Segment.take_over(str(folder), path.name)


def delivered_from(folder, text, **how):
    """The numbers of the events that a process would find in such a file."""
    segment = take_over(folder, text)
    assert segment is not None
    try:
        return [record.number for record in read_all(segment, **how)]
    finally:
        segment.remove()


def contents(count=4):
    """A small file: its lines, each with the number of its event, 0 for a done-line."""
    made = [(number, line(number, b'{"type":"track","properties":{"text":"x y"}}')) for number in range(1, count + 1)]
    made.insert(2, (0, line(0, b'{"done":[[9,9]]}')))
    return made


# --- the format


def test_a_line():
    text = line(12, b'{"a":1}').decode()
    assert text.endswith('"\n')
    assert text.count("\n") == 1
    body, rest = json.JSONDecoder().raw_decode(text)
    assert body == {"a": 1}
    number, checksum = json.loads(text[rest:]).split()
    assert (number, len(checksum)) == ("12", 8)


@given(st.lists(support.values.json_values, max_size=6))
def test_whatever_json_there_is_comes_back(values):
    made = [
        Record(number, json.dumps(value, separators=(",", ":")).encode("utf-8", "surrogatepass"))
        for number, value in enumerate(values)
    ]
    assert list(records(b"".join(line(*record) for record in made))) == made


def test_an_event_that_looks_like_the_end_of_a_line():
    inside = line(7, b"{}").decode()
    made = [Record(number, json.dumps({"text": text}).encode()) for number, text in enumerate([inside, ' "1 0"', '" '])]
    assert list(records(b"".join(line(*record) for record in made))) == made


# --- damage


def spans():
    """(number, begin, end without the newline) of each line."""
    found, place = [], 0
    for number, text in contents():
        found.append((number, place, place + len(text) - 1))
        place += len(text)
    return found


TEXT = b"".join(text for _, text in contents())


def numbers(found):
    """Of what is whole; damage is reported with a number below 0."""
    return [record.number for record in found if record.number >= 0]


def test_each_bit_of_a_file():
    for place in range(len(TEXT)):
        for bit in range(8):
            damaged = bytearray(TEXT)
            damaged[place] ^= 1 << bit
            whole = [number for number, begin, end in spans() if not begin <= place < end]
            assert numbers(records(bytes(damaged))) == whole, (place, bit)


def test_a_bit_of_each_byte_of_a_file_on_disk(tmp_path):
    wrong = []
    for place in range(len(TEXT)):
        damaged = bytearray(TEXT)
        damaged[place] ^= 1 << place % 8
        whole = [number for number, begin, end in spans() if number and not begin <= place < end]
        if delivered_from(tmp_path, bytes(damaged)) != whole:
            wrong.append(place)
    assert not wrong


def test_a_file_cut_at_each_byte(tmp_path):
    """An event that lacks only its newline is whole."""
    wrong = []
    for place in range(len(TEXT)):
        whole = [number for number, _, end in spans() if number and end <= place]
        if delivered_from(tmp_path, TEXT[:place]) != whole:
            wrong.append(place)
    assert not wrong


@given(st.data())
def test_garbage_in_any_places(tmp_path_factory, data):
    """Between lines there may be anything, and any of them may be gone."""
    text, whole = b"", []
    for number, each in contents():
        garbage = data.draw(st.binary(max_size=30) | st.just(b"\0" * 5000) | st.just(each[3:]), "garbage")
        text += garbage + b"\n" if garbage else b""
        if data.draw(st.booleans(), "is whole"):
            text += each
            whole += [number] if number else []
    found = delivered_from(tmp_path_factory.mktemp("garbage"), text)
    assert found == whole


@given(st.lists(st.tuples(st.integers(0, len(TEXT) - 1), st.integers(0, 255)), max_size=12))
def test_several_bytes(changes):
    damaged = bytearray(TEXT)
    for place, value in changes:
        damaged[place] = value
    touched = [place for place, _ in changes if damaged[place] != TEXT[place]]
    found = numbers(records(bytes(damaged)))
    for number, begin, end in spans():
        if not any(begin <= place < end for place in touched):
            assert number in found
    assert all(record.number < 0 or record in list(records(TEXT)) for record in records(bytes(damaged))), "invented"


# --- reading and writing


def test_a_file_of_ones_own(tmp_path):
    segment = Segment.create(str(tmp_path))
    assert _segment.NAME.fullmatch(segment.name)
    assert segment.name.startswith(f"{os.getpid()}-")
    assert stat.S_IMODE(Path(segment.path).stat().st_mode) == 0o600
    segment.write(line(1, b"{}"))
    segment.write(line(2, b"[]"))
    assert segment.read(10, 100) == []
    segment.wait(Ranges([(2, 2)]))
    assert segment.has_waiting()
    assert segment.oldest() == b"[]"
    assert segment.read(10, 100) == [Record(2, b"[]")]
    assert not segment.has_waiting()
    segment.wait(Ranges([(1, 2)]))
    assert [record.number for record in read_all(segment)] == [1, 2]
    segment.wait(Ranges([(1, 2)]))
    assert len(segment.take_waiting()) == 2
    assert not segment.has_waiting()
    segment.remove()
    assert files(tmp_path) == []
    assert descriptors(tmp_path) == []
    segment.write(b"to nobody")  # given up: nothing is done, and no other file's number is used


@given(
    st.integers(1, 400),
    st.integers(1, 7),
    st.integers(0, 300),
    st.lists(st.integers(0, 90), min_size=1, max_size=12),
    st.data(),
)
def test_what_waits_comes_back_once_and_in_order(tmp_path_factory, chunk, max_events, max_bytes, sizes, data):
    folder = tmp_path_factory.mktemp("read")
    bodies = {number: b'"%b"' % (b"x" * size) for number, size in enumerate(sizes, 1)}
    segment = Segment.create(str(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_segment, "_CHUNK", chunk)
        for number, body in bodies.items():
            segment.write(line(number, body))
        for _ in range(3):
            wanted = data.draw(st.sets(st.sampled_from(sorted(bodies))), "wanted")
            segment.wait(Ranges((number, number) for number in wanted))
            found = []
            while segment.has_waiting():
                some = segment.read(max_events, max_bytes)
                assert 1 <= len(some) <= max_events
                assert len(some) == 1 or len(b",".join(record.body for record in some)) <= max_bytes
                found += some
            assert sorted(found) == [(number, bodies[number]) for number in sorted(wanted)]
    segment.remove()


def test_what_is_done_does_not_wait_in_the_next_process(tmp_path):
    segment = take_over(tmp_path, lines(1, 2, 3, 4) + DONE + line(0, b'{"done":[[4,9]]}'))
    assert segment.issued == 2
    assert segment.adopted
    assert [record.number for record in read_all(segment)] == [1, 3]


@pytest.mark.parametrize(
    "body", [b'{"done":7}', b'{"done":[[1]]}', b'{"other":1}', b"[]", b"null", b"{", b'{"done":[["a","b"]]}']
)
def test_a_done_line_that_says_nothing(tmp_path, body):
    assert delivered_from(tmp_path, lines(1) + line(0, body) + DONE) == [1]


@pytest.mark.parametrize("torn", [b"", b"{", line(3, b'{"a":1}')[:-1]])
def test_who_adopts_begins_a_new_line(tmp_path, torn):
    segment = take_over(tmp_path, lines(1, 2) + torn)
    segment.write_done(Ranges([(1, 1)]))
    segment.write_done(Ranges([(2, 2)]))
    text = (tmp_path / segment.name).read_bytes()
    segment.close()
    assert text.count(b"\n") == 4 + bool(torn)
    left = [3] if torn.startswith(b'{"a"') else []
    assert delivered_from(tmp_path, text) == left


@pytest.mark.parametrize("torn", [b"{", line(3, b'{"a":1}')[:-1]])
def test_who_adopts_writes_nothing(tmp_path, monkeypatch, torn):
    """The disk may be full; what is there is delivered all the same."""

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", no_space)
    segment = take_over(tmp_path, lines(1, 2) + torn)
    whole = [1, 2, 3] if torn.startswith(b'{"a"') else [1, 2]
    assert [record.number for record in read_all(segment)] == whole
    segment.wait(Ranges([(1, whole[-1])]))  # no endpoint took them
    assert [record.number for record in read_all(segment)] == whole
    with pytest.raises(OSError, match="No space"):
        segment.write_done(Ranges([(1, 1)]))


def test_after_a_short_write_the_next_one_begins_a_new_line(tmp_path):
    script = f"""
from klime_mp._segment import Segment, line
import resource
segment = Segment.create({str(tmp_path)!r})
segment.write(line(1, b"{{}}"))
resource.setrlimit(resource.RLIMIT_FSIZE, (40, resource.RLIM_INFINITY))
for _ in range(2):
    try:
        segment.write(line(2, b'"xxxxxxxxxxxxxxxxxxxxxxxxxxx"'))
    except OSError:
        pass
    else:
        sys.exit("it should have been full")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
segment.write(line(3, b"[]"))
"""
    subprocess.run([sys.executable, "-c", PRELUDE + script], check=True, env=environment())
    (path,) = files(tmp_path)
    assert delivered_from(tmp_path, path.read_bytes()) == [1, 3]


def test_garbage_without_an_end(tmp_path):
    """A hole, as a crashed file system leaves it."""
    text = lines(1) + b"\0" * 3_000_000 + b"\n" + lines(1, 2)[len(lines(1)) :]
    assert delivered_from(tmp_path, text) == [1, 2]


# --- who owns it


@pytest.fixture
def living_owner():
    """Start a process that makes a file in a folder, and owns it; its Popen, which is killed in the end."""
    started = []

    def start(folder):
        script = f"""
from klime_mp._segment import Segment, line
segment = Segment.create({str(folder)!r})
segment.write(line(1, b"{{}}"))
print(segment.name, flush=True)
sys.stdin.read()
"""
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", PRELUDE + script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment(),
            )
        )
        return started[-1], started[-1].stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_living_process_keeps_its_file(tmp_path, living_owner):
    process, name = living_owner(tmp_path)
    for _ in range(2):
        assert Segment.take_over(str(tmp_path), name) is None
    assert is_locked(tmp_path / name)
    process.kill()
    process.wait()
    segment = Segment.take_over(str(tmp_path), name)
    assert read_all(segment) == [Record(1, b"{}")]


def test_a_file_of_ones_own_process_is_not_opened_twice(tmp_path):
    segment = Segment.create(str(tmp_path))
    assert Segment.take_over(str(tmp_path), segment.name) is None
    assert is_locked(segment.path), "looking at it has dropped the lock"
    adopted = take_over(tmp_path, lines(1))
    assert Segment.take_over(str(tmp_path), adopted.name) is None
    assert is_locked(adopted.path)


def test_who_closes_lets_others_have_it(tmp_path):
    segment = Segment.create(str(tmp_path))
    segment.write(line(1, b"{}"))
    segment.close()
    segment.close()
    assert not is_locked(segment.path)
    assert read_all(Segment.take_over(str(tmp_path), segment.name)) == [Record(1, b"{}")]


def test_another_client_of_this_process_looks_while_a_file_is_made(tmp_path, monkeypatch):
    """Between the file's making and its lock; in one process the lock would be had twice."""
    found = []
    really_open = os.open

    def open_slowly(path, flags, *mode):
        number = really_open(path, flags, *mode)
        if flags & os.O_EXCL:
            found.append(Segment.take_over(str(tmp_path), Path(path).name))
        return number

    monkeypatch.setattr(os, "open", open_slowly)
    segment = Segment.create(str(tmp_path))
    monkeypatch.undo()
    assert found == [None]
    assert segment.is_there()
    assert is_locked(segment.path)


def test_another_process_takes_a_file_while_it_is_made(tmp_path, monkeypatch):
    """It finds it empty, and removes it: there has to be another one."""
    really_open = os.open
    made = []

    def open_slowly(path, flags, *mode):
        number = really_open(path, flags, *mode)
        if flags & os.O_EXCL and not made:
            made.append(path)
            Path(path).unlink()
        return number

    monkeypatch.setattr(os, "open", open_slowly)
    segment = Segment.create(str(tmp_path))
    monkeypatch.undo()
    assert files(tmp_path) == [Path(segment.path)]
    assert segment.path != made[0]
    assert is_locked(segment.path)
    assert len(descriptors(tmp_path)) == 1


def test_a_thread_that_uses_the_file_while_it_is_closed(tmp_path):
    """Its number is not closed under a reader or a writer: it would soon be another file's."""
    segment = Segment.create(str(tmp_path))
    assert segment._enter()
    segment.close()
    assert descriptors(tmp_path) == [segment.path]
    segment._leave()
    assert descriptors(tmp_path) == []


def test_a_name_is_free_when_the_descriptor_is_closed(tmp_path):
    """To close it later would cost the lock of the client that has opened the file meanwhile."""
    segment = Segment.create(str(tmp_path))
    segment.write(line(1, b"{}"))
    assert segment._enter()
    segment.close()
    assert Segment.take_over(str(tmp_path), segment.name) is None
    assert is_locked(segment.path)
    segment._leave()
    assert not is_locked(segment.path)
    assert read_all(Segment.take_over(str(tmp_path), segment.name)) == [Record(1, b"{}")]
    assert is_locked(segment.path)


def test_a_closed_file_is_not_there(tmp_path):
    """Whoever asks does not know: another thread may have closed it just now."""
    segment = Segment.create(str(tmp_path))
    assert segment.is_there()
    segment.close()
    assert Path(segment.path).exists()
    assert not segment.is_there()


def test_a_descriptor_that_the_program_closed(tmp_path):
    """Its number may be another file's."""
    segment = Segment.create(str(tmp_path))
    os.close(segment._file.number)
    own = os.open(tmp_path / "own", os.O_RDWR | os.O_CREAT)
    assert own == segment._file.number
    with pytest.raises(OSError, match="closed by the program"):
        segment.write(line(1, b"{}"))
    segment.wait(Ranges([(1, 1)]))
    with pytest.raises(OSError, match="closed by the program"):
        segment.read(1, 100)
    segment.close()
    assert os.fstat(own).st_size == 0
    os.close(own)


# --- what is no such file


def make_other(kind, path, elsewhere):
    if kind == "symbolic link":
        path.symlink_to(elsewhere)
    elif kind == "symbolic link to nothing":
        path.symlink_to(elsewhere.with_name("nothing"))
    elif kind == "hard link":
        path.hardlink_to(elsewhere)
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "another user's":
        path.write_bytes(lines(1))
        os.chown(path, 12345, 12345)


@pytest.mark.parametrize(
    "kind", ["symbolic link", "symbolic link to nothing", "hard link", "FIFO", "folder", "another user's"]
)
def test_what_is_no_file_of_ours_is_left_alone(tmp_path, kind):
    if kind == "another user's" and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(text := lines(1, 2))
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / f"7-{7:016x}{_segment.SUFFIX}"
    make_other(kind, path, elsewhere)
    before = path.lstat()
    assert Segment.take_over(str(folder), path.name) is None
    after = path.lstat()
    assert (after.st_ino, after.st_mode, after.st_size) == (before.st_ino, before.st_mode, before.st_size)
    assert elsewhere.read_bytes() == text
    assert descriptors(tmp_path) == []
    assert path.name not in _segment._open.here(), "it would be passed over for ever"


def test_a_second_name_of_ones_own_file_does_not_cost_its_lock(tmp_path):
    segment = Segment.create(str(tmp_path))
    name = f"7-{7:016x}{_segment.SUFFIX}"
    os.link(segment.path, tmp_path / name)
    assert Segment.take_over(str(tmp_path), name) is None
    assert is_locked(segment.path)


@pytest.fixture
def cannot_be_deleted(monkeypatch):
    """As in a folder that may only be read."""

    def unlink(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "unlink", unlink)


def test_a_file_that_cannot_be_deleted_is_emptied(tmp_path, cannot_be_deleted):
    """Or its next owner would deliver it again."""
    segment = take_over(tmp_path, lines(1, 2))
    assert segment.remove()
    assert not is_locked(segment.path)
    assert Path(segment.path).read_bytes() == b""
    assert not Segment.take_over(str(tmp_path), segment.name).has_waiting()


def test_a_file_that_cannot_even_be_emptied_stays_ours(tmp_path, cannot_be_deleted, monkeypatch):
    def ftruncate(_number, _size):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "ftruncate", ftruncate)
    segment = take_over(tmp_path, lines(1, 2))
    assert not segment.remove()
    assert is_locked(segment.path)
    assert Segment.take_over(str(tmp_path), segment.name) is None
    segment.close()
