"""Pictures that anybody may send: an answer or one line, whatever the bytes, and no more memory than a large picture needs."""

import io
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.base.errors import Unavailable, UserError
from search.query import pictures
from search.query.pictures import FORMATS, MAX_BYTES, MAX_PIXELS, MOST_WAITING, decode_picture
from tests.conftest import ROOT
from tests.waiting import wait_until

# Pillow's warnings about metadata. A picture may be shown in spite of them.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
UNREADABLE = "no picture that can be read: use JPEG, PNG or WebP"
TOO_LARGE = "the picture has more than 80,000,000 pixels"


def picture(kind: str, **how: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind, **how)
    return file.getvalue()


WHOLE = {kind: picture(kind) for kind in FORMATS}


def refusal(content: bytes) -> str:
    with pytest.raises(UserError) as raised:
        decode_picture(content, "picture.png", "this search")
    assert "\n" not in str(raised.value)
    return str(raised.value)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, *chunks: bytes, depth: int = 1, colour: int = 0) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def white(width: int, height: int) -> bytes:
    """The pixels of a white picture with a bit each: a thousandth of their size."""
    return chunk(b"IDAT", zlib.compress((b"\x00" + b"\xff" * -(-width // 8)) * height, 9))


def bmp(width: int, height: int, depth: int = 24, compression: int = 0, content: bytes = b"") -> bytes:
    """`content`: a palette of 256 colours for 8 bits, and pixels."""
    colours = 256 if depth == 8 else 0
    start = 54 + 4 * colours
    sizes = (54 + len(content), 0, 0, start, 40, width, height, 1, depth, compression, 0, 0, 0, colours, 0)
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", *sizes) + content


def tiff(*entries: tuple[int, int, int, int]) -> bytes:
    """A file of these entries: tag, type, count, value."""
    listed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\x00" + struct.pack("<IH", 8, len(entries)) + listed + b"\x00" * 4


SIDES = [(256, 4, 1, 32), (257, 4, 1, 32), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
BROKEN: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "a byte": lambda: b"\xff",
    "text": lambda: b"<svg onload=alert(1)>" * 100,
    "zeros": lambda: bytes(100_000),
    "a page of PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
    "a film": lambda: b"\x00\x00\x00\x20ftypisom" + bytes(100),
    "the head of a PNG": lambda: WHOLE["PNG"][:40],
    "a PNG without pixels": lambda: png(8, 8),
    "a PNG of no width": lambda: png(0, 8, white(8, 8)),
    "a PNG with a text of 100 MB": lambda: png(8, 8, chunk(b"zTXt", b"a\x00\x00" + zlib.compress(bytes(10**8), 9)), white(8, 8)),
    "a PNG with a profile of 100 MB": lambda: png(8, 8, chunk(b"iCCP", b"a\x00\x00" + zlib.compress(bytes(10**8), 9)), white(8, 8)),
    "a TIFF without entries": tiff,
    "a TIFF that is its own next page": lambda: b"II*\x00" + struct.pack("<IHI", 8, 0, 8),
    "a TIFF with two billion strips": lambda: tiff(*SIDES, (273, 4, 2**31 - 1, 8), (279, 4, 2**31 - 1, 8)),
    "a TIFF whose strips lie elsewhere": lambda: tiff(*SIDES, (273, 4, 1, 2**32 - 1), (279, 4, 1, 2**32 - 1)),
    "a TIFF with a tag of four billion bytes": lambda: tiff(*SIDES, (270, 2, 2**32 - 1, 8), (273, 4, 1, 8), (279, 4, 1, 1024)),
    "a PPM of endless digits": lambda: b"P6\n" + b"9" * 10**6,
    "a PPM of negative size": lambda: b"P6\n-8 -8\n255\n" + bytes(100),
    # These are whole, and Pillow reads them in Python: larger ones would take it minutes.
    "a BMP of runs": lambda: bmp(8, 2, 8, 1, bytes(1024) + b"\x08\x00\x00\x00\x08\x00\x00\x01"),
    "a PPM of written numbers": lambda: b"P3\n1 1\n255\n1 2 3\n",
}
TOO_MANY_PIXELS: dict[str, Callable[[], bytes]] = {
    "a PNG of 100 KB": lambda: png(30_000, 30_000, white(30_000, 30_000)),
    "a PNG just above": lambda: png(MAX_PIXELS + 1, 1, white(MAX_PIXELS + 1, 1)),
    "a PNG of the largest size": lambda: png(2**31 - 1, 2**31 - 1),
    "a BMP": lambda: bmp(100_000, 100_000),
    "a PPM": lambda: b"P6\n100000 100000\n255\n",
    "a TIFF": lambda: tiff((256, 4, 1, 10**5), (257, 4, 1, 10**5), *SIDES[2:], (273, 4, 1, 8), (279, 4, 1, 8)),
    "a GIF": lambda: b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\x00\x00\x00\x00\xff\xff\xff\xff\x00\x02\x00;",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_picture_is_refused_in_one_line(kind: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert UNREADABLE in refusal(BROKEN[kind]())
    # Beyond the 100 MB that the test itself makes.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024


@pytest.mark.parametrize("kind", TOO_MANY_PIXELS)
def test_a_bomb_is_refused_by_its_header(kind: str) -> None:
    content = TOO_MANY_PIXELS[kind]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert TOO_LARGE in refusal(content)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024


def test_pictures_that_find_too_many_others_waiting_are_refused_for_now() -> None:
    places, go = 1 + MOST_WAITING, Event()
    with ThreadPoolExecutor(places) as pool:
        held = pictures._DECODER.submit(go.wait, 60)
        wait_until(held.running, "the picture that is decoded")
        waiting = [pool.submit(decode_picture, WHOLE["PNG"], "a", "image") for _ in range(places)]
        wait_until(lambda: pictures._DECODER._work_queue.qsize() == places, "the pictures that wait")
        with pytest.raises(Unavailable, match="pictures are waiting"):
            decode_picture(WHOLE["PNG"], "a", "image")
        go.set()
        assert all(one.result().image.size == (32, 24) for one in waiting)
    assert decode_picture(WHOLE["PNG"], "a", "image").image.size == (32, 24)


@pytest.mark.long
def test_a_large_transparent_picture_takes_no_more_memory_than_said() -> None:
    side = 8_900
    content = png(side, side, chunk(b"IDAT", zlib.compress(bytes((4 * side + 1) * side), 1)), depth=8, colour=6)
    script = "import sys; from search.query.pictures import decode_picture; decode_picture(sys.stdin.buffer.read(), 'a', 'a'); "
    # Not ru_maxrss, which a process has from the one that started it.
    script += "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    used = subprocess.run([sys.executable, "-c", script], input=content, capture_output=True, check=True, cwd=ROOT).stdout
    assert int(used) < 1_000 * 1024


def test_bytes_beyond_the_limit_are_not_looked_at() -> None:
    assert f"the picture has more than {MAX_BYTES // 2**20} MiB" in refusal(WHOLE["PNG"] + bytes(MAX_BYTES))


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_pictures_are_refused_or_whole(kind: str) -> None:
    content = WHOLE[kind]
    assert decode_picture(content, "a", "a").image.size == (32, 24)
    for length in range(0, len(content), max(1, len(content) // 50)):
        survive(content[:length])


def test_a_film_of_many_frames_gives_its_first() -> None:
    frames = [Image.new("L", (8, 8), 10 * i) for i in range(1, 20)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {}))
        found = decode_picture(file.getvalue(), "a", "a").image
        assert (found.mode, found.getpixel((0, 0))) == ("RGB", (10, 10, 10))


def survive(content: bytes) -> None:
    try:
        image = decode_picture(content, "a", "this search").image
    except UserError as error:
        said = str(error)
    else:
        said = UNREADABLE
        assert image.mode == "RGB"
        assert 0 < len(image.tobytes()) <= 3 * MAX_PIXELS
    assert UNREADABLE in said or TOO_LARGE in said


def damage(kind: str, places: list[tuple[int, int]], rest: bytes) -> None:
    content = bytearray(WHOLE[kind])
    for place, value in places:
        content[place % len(content)] = value
    survive(bytes(content) + rest)


KIND, PLACES = (
    st.sampled_from(FORMATS),
    st.lists(st.tuples(st.integers(0, 120) | st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=6),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(kind=KIND, places=PLACES, rest=st.binary(max_size=20))
def test_damaged_pictures_are_refused_or_shown(kind: str, places: list[tuple[int, int]], rest: bytes) -> None:
    damage(kind, places, rest)


@pytest.mark.long
@settings(max_examples=5000, deadline=None)
@given(kind=KIND, places=PLACES, rest=st.binary(max_size=20))
def test_damaged_pictures_are_refused_or_shown_however_many(kind: str, places: list[tuple[int, int]], rest: bytes) -> None:
    damage(kind, places, rest)
