"""Where a page finds what belongs to a result."""


class Addresses:
    """Addresses of the parts of a result, empty where there are none: a page in a file of its own has thumbnails alone."""

    scrubs = False
    """Whether the page shows a frame large while somebody moves over the small ones."""

    def thumbnail(self, video_id: str, frame: int) -> str:
        """The thumbnail of a frame."""
        raise NotImplementedError

    def video(self, video_id: str) -> str:
        """The file."""
        return ""

    def captions(self, video_id: str) -> str:
        """The captions that fit the video best."""
        return ""

    def like(self, video_id: str, seconds: float | None = None) -> str:
        """Results like the video, or like its frame at this time."""
        return ""
