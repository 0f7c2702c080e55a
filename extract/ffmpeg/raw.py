"""Pictures that ffmpeg writes as raw pixels, each of the size that its log tells: of one stream they need not have the same."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from PIL import Image

from extract.decode.frames import DecodeFailed
from extract.ffmpeg.input import MAX_PIXELS
from extract.ffmpeg.log import Pictured
from extract.ffmpeg.run import Running


@dataclass(frozen=True)
class Shown:
    """A picture, what ffmpeg says of it, and from which tick of the sampling on it is on the screen."""

    tick: int
    pixels: bytes
    said: Pictured

    def image(self, display: bool) -> Image.Image:
        """In RGB; for display over black and with square pixels."""
        size = (self.said.width, self.said.height)
        if len(self.pixels) == 3 * size[0] * size[1]:
            image = Image.frombytes("RGB", size, self.pixels)
        else:
            colours = Image.frombytes("RGBA", size, self.pixels)
            image = Image.new("RGB", size)
            image.paste(colours, mask=colours.getchannel("A"))
        wide = max(1, round(size[0] * self.said.aspect))
        if display and wide != size[0] and wide * size[1] <= MAX_PIXELS:
            image = image.resize((wide, size[1]), Image.Resampling.BICUBIC)
        return image


def has_alpha(pixel_format: str) -> bool:
    """Whether a pixel format of ffmpeg has an alpha channel, or a palette that may have."""
    return pixel_format.startswith(("yuva", "rgba", "bgra", "argb", "abgr", "gbrap", "ya8", "ya16", "pal8", "vuya", "ayuv"))


def read_shown(running: Running, channels: int) -> Iterator[Shown]:
    """The pictures as they come, of so many bytes a pixel. Raises DecodeFailed where the log does not tell of one."""
    # The filter that tells of a picture does so before it hands it on: what can be read has been told of.
    while first := running.stdout.read(1):
        said = running.log.next_picture()
        if said is None:
            raise DecodeFailed("ffmpeg does not tell of its pictures")
        if said.width * said.height > MAX_PIXELS:
            return
        rest = running.stdout.read(channels * said.width * said.height - 1)
        if len(rest) < channels * said.width * said.height - 1:
            return
        yield Shown(said.pts, first + rest, said)


def on_every_tick(shown: Iterable[Shown], longest: int) -> Iterator[Shown]:
    """What is on the screen at the ticks 0, 1, 2, …: each picture until the next one, the first from the beginning.

    Ticks that were there already, which filters give that begin anew, are left out. A picture more than `longest` ticks after the one
    before comes one tick after it.
    """
    tick = shift = 0
    before: Shown | None = None
    for picture in shown:
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
