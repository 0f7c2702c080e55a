"""Read raw pictures from ffmpeg's output. The log gives the size of each, since sizes may change within a stream."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from PIL import Image

from extract.decode.frames import DecodeFailed
from extract.ffmpeg.input import MAX_PIXELS
from extract.ffmpeg.log import PictureInfo
from extract.ffmpeg.run import Running


@dataclass(frozen=True)
class Frame:
    """A picture, its info from the log, and the sampling tick from which on it is on the screen."""

    tick: int
    pixels: bytes
    info: PictureInfo

    def image(self, display: bool) -> Image.Image:
        """The picture in RGB; for display with square pixels. Alpha is composited over black."""
        size = (self.info.width, self.info.height)
        if len(self.pixels) == 3 * size[0] * size[1]:
            image = Image.frombytes("RGB", size, self.pixels)
        else:
            colours = Image.frombytes("RGBA", size, self.pixels)
            image = Image.new("RGB", size)
            image.paste(colours, mask=colours.getchannel("A"))
        wide = max(1, round(size[0] * self.info.aspect))
        if display and wide != size[0] and wide * size[1] <= MAX_PIXELS:
            image = image.resize((wide, size[1]), Image.Resampling.BICUBIC)
        return image


def has_alpha(pixel_format: str) -> bool:
    """True if an ffmpeg pixel format has an alpha channel, or a palette that may have one."""
    return pixel_format.startswith(("yuva", "rgba", "bgra", "argb", "abgr", "gbrap", "ya8", "ya16", "pal8", "vuya", "ayuv"))


def read_frames(running: Running, channels: int) -> Iterator[Frame]:
    """Yield pictures of `channels` bytes per pixel as they arrive. Raises DecodeFailed if the log lacks one."""
    # showinfo logs a picture before passing it on, so every picture that can be read is in the log already.
    while first := running.stdout.read(1):
        info = running.log.next_picture()
        if info is None:
            raise DecodeFailed("ffmpeg did not log its pictures")
        if info.width * info.height > MAX_PIXELS:
            return
        rest = running.stdout.read(channels * info.width * info.height - 1)
        if len(rest) < channels * info.width * info.height - 1:
            return
        yield Frame(info.pts, first + rest, info)


def on_every_tick(frames: Iterable[Frame], longest: int) -> Iterator[Frame]:
    """The picture on the screen at each tick 0, 1, 2, …: each stays until the next, and the first is there from the start.

    Pictures at ticks 0, 2, 3 give the pictures 0, 0, 2, 3. Ticks that were emitted already are dropped: a filter that
    restarts repeats them. A picture more than `longest` ticks after the previous one follows one tick after it.
    """
    tick = shift = 0
    before: Frame | None = None
    for picture in frames:
        begins = picture.tick - shift
        if begins < tick:
            continue
        if begins - tick > longest:
            shift += begins - tick
            begins = tick
        for _ in range(tick, begins):
            yield before or picture
        yield picture
        before, tick = picture, begins + 1
