"""Which files of a folder are videos, and which file a name means."""

import json
import unicodedata
from pathlib import Path

import ffmpeg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import extract
from data.base.errors import UserError
from data.cache import FeatureCache
from data.datasets import Dataset, find_preset, read_dataset
from data.datasets.accounting import report, require_complete, summary_line
from data.datasets.containers import CONTAINERS, FORMATS, is_still
from data.datasets.folders import spelling
from extract import ExtractOptions
from extract.failures import read_failures
from tests.annotation_files import WRITERS, read
from tests.conftest import DEMO_CLIP
from tests.videos import convert, numbered_video, pattern

MUXERS = {
    "vob": "mpeg2video",
    "mxf": "mpeg2video",
    "f4v": "libx264",
    "rm": "rv10",
    "m2t": "mpeg2video",
    "insv": "libx264",
    "gif": "gif",
    "rmvb": "rv20",
    "mod": "mpeg2video",
    "tod": "libx264",
    "m2v": "mpeg2video",
    "mpv": "mpeg1video",
    "wtv": "mpeg2video",
    "dv": "dvvideo",
    "amv": "amv",
}
"""Suffixes that cameras, discs and recorders give, and a codec that goes into such a file."""

FORMAT_OF = {"m2t": "mpegts", "insv": "mp4", "rmvb": "rm", "mod": "vob", "tod": "mpegts", "m2v": "mpeg2video", "mpv": "mpeg1video"}


def video_of(path: Path) -> Path:
    """Two seconds in the container that the suffix names."""
    suffix = path.suffix[1:]
    settings: dict[str, str | int] = {"vcodec": MUXERS[suffix], "format": FORMAT_OF.get(suffix, suffix)}
    size = "720x576" if suffix == "dv" else "176x144"
    sources = [pattern(size=size, rate=25, duration=2)]
    if suffix == "amv":  # frames in turn with sound
        sources.append(ffmpeg.input("sine=frequency=440:sample_rate=22050:duration=2", f="lavfi"))
        settings |= {"block_size": 882, "ac": 1, "strict": -1, "acodec": "adpcm_ima_amv"}
    convert(
        ffmpeg.output(
            *sources, f"file:{path}", pix_fmt="yuvj420p" if suffix == "amv" else "rgb8" if suffix == "gif" else "yuv420p", **settings
        )
    )
    return path


def options_for(tmp_path: Path, table: Path | None = None) -> ExtractOptions:
    return ExtractOptions(
        videos=tmp_path / "videos", annotations=table, cache=tmp_path / "cache", model=DEMO_CLIP, device="cpu", quiet=True, json=True
    )


@pytest.mark.parametrize("decoder", ["ffmpeg", "pyav"])
def test_a_folder_and_a_table_take_the_same_files(tmp_path: Path, decoder: str, capsys: pytest.CaptureFixture[str]) -> None:
    if decoder == "pyav":
        pytest.importorskip("av")
    videos = tmp_path / "videos"
    videos.mkdir()
    for suffix in MUXERS:
        video_of(videos / f"v.{suffix}")
    numbered_video(videos / "v.mp4", 10, 5)
    Image.new("RGB", (64, 48), "red").save(videos / "still.gif")
    for name in ("a.jpg", "b.JPG", "c.txt", "README"):
        (videos / name).write_text("other")
    names = sorted(f"v.{suffix}" for suffix in [*MUXERS, "mp4"])
    extract.main(ExtractOptions(**(vars(options_for(tmp_path)) | {"decoder": decoder})))
    summary = json.loads(capsys.readouterr().out)
    assert read_failures(tmp_path / "cache") == {}
    cache = FeatureCache(tmp_path / "cache")
    assert sorted(cache.names("videos")) == names
    assert cache.videos(names, 10**9).frames.length_N.tolist() == [2] * len(names)
    assert summary["left_alone"] == {".jpg": 2, ".gif": 1, ".txt": 1, "without suffix": 1}
    assert summary["notes"] == ["1 GIFs with a single picture are left alone: they are not videos"]
    table = tmp_path / "table.csv"
    table.write_text("video,caption,split\n" + "".join(f"{name},words,test\n" for name in [*names, "still.gif"]))
    listed = read_dataset("table", find_preset("table", None, table), table, videos)
    assert [file.name for file in listed.videos["file"]] == [*names, "still.gif"]


def test_containers_that_point_to_other_files_are_not_taken() -> None:
    pointing = {"hls", "concat", "dash", "image2", "image2pipe", "imf", "sdp", "rtsp", "avisynth", "lavfi", "webm_dash_manifest", "vobsub"}
    assert not pointing & set(FORMATS.split(","))
    suffixes = [suffix for own in CONTAINERS.values() for suffix in own.split()]
    assert len(suffixes) == len(set(suffixes))


@pytest.mark.parametrize("pictures", [1, 2, 5])
@pytest.mark.parametrize("mode", ["P", "RGB"])
def test_a_gif_of_one_picture_is_a_still(tmp_path: Path, pictures: int, mode: str) -> None:
    frames = [Image.effect_noise((20 + 7 * pictures, 16), 50 + i).convert(mode) for i in range(pictures)]
    frames[0].save(tmp_path / "v.gif", save_all=True, append_images=frames[1:], duration=100, comment=b"words", loop=0)
    assert is_still(tmp_path / "v.gif") == (pictures == 1)
    content = (tmp_path / "v.gif").read_bytes()
    for end in (0, 5, 12, 30, len(content) - 1):
        (tmp_path / "cut.gif").write_bytes(content[:end])
        assert not is_still(tmp_path / "cut.gif")


HIDDEN = [
    ".Trashes/501/old.mp4",
    ".trashed-1700000000-clip.mp4",
    "._plain.mp4",
    ".Trash-1000/files/a.mp4",
    "$RECYCLE.BIN/S-1-5/$R1.mp4",
    "sub/$Recycle.Bin/b.mp4",
    ".git/c.mp4",
    "sub/@eaDir/plain.mp4/SYNOVIDEO.mp4",
    "lost+found/d.mp4",
    "System Volume Information/e.mp4",
    "#recycle/f.mp4",
    ".DS_Store",
    "__MACOSX/._plain.mp4",
    "g.mp4.download/g.mp4",
    ".pending-1700000000-h.mp4",
]


def test_hidden_and_deleted_files_are_left_alone_and_counted(tmp_path: Path) -> None:
    for name in ["plain.mp4", "sub/own.mkv", *HIDDEN, "i.mp4.part", "Unconfirmed 1.crdownload"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("content")
    preset = find_preset("table", None, None)
    dataset = read_dataset("table", preset, None, tmp_path)
    assert dataset.videos["video_id"].tolist() == ["plain.mp4", "sub/own.mkv"]
    expected = {".crdownload": 1, ".part": 1, "hidden files": 4, "hidden folders": 11}
    assert report("table", dataset, preset, tmp_path)["left_alone"] == expected
    said = "left alone: 1 .crdownload, 1 .part, 4 hidden files, 11 hidden folders"
    assert summary_line(dataset, preset, tmp_path) == f"folder: search 2 of 2 videos are there; {said}"
    # A name that the user wrote counts, and nothing else finds a hidden file.
    table = tmp_path / "table.csv"
    table.write_text("video,caption,split\n" + "".join(f"{name},words,test\n" for name in [*HIDDEN[:4], "Old.mp4"]))
    written = read_dataset("table", find_preset("table", None, table), table, tmp_path)
    assert written.videos["file"].tolist() == [*(tmp_path / name for name in HIDDEN[:4]), None]


def test_a_folder_that_is_itself_hidden_is_searched(tmp_path: Path) -> None:
    numbered = tmp_path / ".cache" / "videos"
    numbered.mkdir(parents=True)
    (numbered / "a.mp4").touch()
    assert len(read_dataset("table", find_preset("table", None, None), None, numbered).videos) == 1


def test_many_kinds_are_put_together(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    for i in range(12):
        (tmp_path / f"x.{i:02}").touch()
    preset = find_preset("table", None, None)
    line = summary_line(read_dataset("table", preset, None, tmp_path), preset, tmp_path)
    assert line.endswith("left alone: 1 .00, 1 .01, 1 .02, 1 .03, 1 .04, 1 .05, 1 .06, 5 of 5 other kinds")


NFC, NFD = unicodedata.normalize("NFC", "naïve é.mp4"), unicodedata.normalize("NFD", "naïve é.mp4")

SPELLINGS = [
    (NFD, NFC),
    (NFC, NFD),
    ("Holiday.MP4", "holiday.mp4"),
    ("holiday.mp4", "HOLIDAY.MP4"),
    ("sub/deep/a.mp4", "sub\\deep\\a.mp4"),
    ("sub/a.mp4", "C:\\Users\\me\\videos\\sub\\a.mp4"),
    ("a.mp4", "\\\\server\\share\\videos\\A.mp4"),
    ("Straße.mp4", "STRASSE.mp4"),
    ("a b.mp4", "a  b.mp4"),
    ("a  b.mp4", " a b.mp4 "),
    ("Screenshot 9.41\u202fAM.mov", "Screenshot 9.41 AM.mov"),
    ("talk.part1.mp4", "talk.part1"),
    ("sub/talk.webm", "sub/talk"),
    ("talk.webm", "talk.mp4"),
    ("talk.mkv", "TALK.avi"),
]


def table_of(folder: Path, *names: str) -> Dataset:
    """A table beside the folder that names these videos."""
    path = folder.with_name("table.csv")
    path.write_text("video,caption,split\n" + "".join(f'"{name}",words,test\n' for name in names), encoding="utf-8")
    return read_dataset("table", find_preset("table", None, path), path, folder)


@pytest.mark.parametrize(("there", "written"), SPELLINGS)
def test_another_spelling_of_a_name_is_found_and_said(tmp_path: Path, there: str, written: str) -> None:
    folder = tmp_path / "videos"
    for name in (there, "other.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    dataset = table_of(folder, written, "other.mp4")
    assert dataset.videos["file"].tolist() == [folder / there, folder / "other.mp4"]
    assert dataset.videos["video_id"].tolist() == [written, "other.mp4"]
    (note,) = dataset.notes
    assert note.startswith("1 videos are found under another spelling of their names, such as")


@pytest.mark.parametrize("written", ["./a.mp4", "sub/../a.mp4", "sub/./..//a.mp4"])
def test_a_roundabout_path_is_the_file(tmp_path: Path, written: str) -> None:
    (tmp_path / "videos" / "sub").mkdir(parents=True)
    (tmp_path / "videos" / "a.mp4").touch()
    dataset = table_of(tmp_path / "videos", written)
    assert dataset.videos["file"].tolist() == [tmp_path / "videos" / "a.mp4"]
    assert dataset.notes == ()


def test_absolute_paths_inside_the_folder_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "real" / "videos"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.mp4").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(folder.parent)
    linked = tmp_path / "link" / "videos"
    for videos in (folder, Path("videos"), linked):
        for written in (folder / "sub" / "a.mp4", linked / "sub" / "a.mp4"):
            assert table_of(videos, str(written)).videos["file"].tolist() == [videos / "sub" / "a.mp4"]
    for outside in (tmp_path / "a.mp4", tmp_path / "real" / "videos2" / "a.mp4"):
        with pytest.raises(UserError, match="lies outside of --videos"):
            table_of(folder, str(outside))


@pytest.mark.parametrize(
    ("there", "written"), [(("A.mp4", "a.MP4"), "a.mp4"), (("talk.mp4", "talk.webm"), "talk"), (("x/a.mp4", "X/a.mp4"), "X\\A.mp4")]
)
def test_a_name_that_two_files_fit_is_refused_with_both(tmp_path: Path, there: tuple[str, str], written: str) -> None:
    for name in there:
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).touch()
    with pytest.raises(UserError) as refusal:
        table_of(tmp_path / "videos", written)
    assert all(str(tmp_path / "videos" / name) in str(refusal.value) for name in there)
    # The exact name of one of them is no question.
    assert table_of(tmp_path / "videos", there[1]).videos["file"].tolist() == [tmp_path / "videos" / there[1]]


def test_a_file_that_belongs_to_another_name_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "talk.mov").touch()
    file = tmp_path / "videos" / "talk.mov"
    assert table_of(tmp_path / "videos", "talk.mp4", "talk.mov").videos["file"].tolist() == [None, file]
    assert table_of(tmp_path / "videos", "talk.mp4", "talk.avi").videos["file"].tolist() == [None, None]
    assert table_of(tmp_path / "videos", "talk.mp4", "Talk.mp4").videos["file"].tolist() == [file, file]


def test_the_nearest_names_are_said(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("naive.mp4", "nave (1).mp4", "unlike.mp4"):
        (folder / name).touch()
    (folder / "folder.mp4").mkdir()
    preset = find_preset("table", None, tmp_path)
    with pytest.raises(
        UserError, match=r"none of the 1 videos has a file in .*, such as naïve\.mp4; near it: naive\.mp4, nave \(1\)\.mp4: "
    ):
        require_complete(table_of(folder, "naïve.mp4"), preset, folder)
    with pytest.raises(UserError, match=r"such as folder\.mp4, which is a folder: "):
        require_complete(table_of(folder, "folder.mp4"), preset, folder)
    with pytest.raises(
        UserError, match=r"1 of 2 videos have no file in .*, such as naïve\.mp4; near it: naive\.mp4, nave \(1\)\.mp4: add them"
    ):
        require_complete(table_of(folder, "naïve.mp4", "naive.mp4"), preset, folder)


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_data_sets_find_other_spellings_too(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path)
    videos = tmp_path / "videos"
    videos.mkdir()
    ids = read(name, tmp_path).videos["video_id"].tolist()
    first, second = ids[0], ids[1]
    files = [f"{video_id}.mp4".swapcase() for video_id in (first, second)]
    for file in files:
        (videos / file).touch()
    found = read_dataset(name, find_preset(name, None, tmp_path), tmp_path, videos)
    assert found.videos["file"].tolist()[:2] == [videos / file for file in files]
    assert found.notes[-1].startswith("2 videos are found under another spelling")
    (videos / f"{first.swapcase()}.mp4").touch()
    with pytest.raises(UserError, match="could be"):
        read_dataset(name, find_preset(name, None, tmp_path), tmp_path, videos)


@given(st.text(st.characters(exclude_characters="/\0", categories=None, exclude_categories=["Cs"]), min_size=1))
def test_spellings_of_a_name_are_equal(name: str) -> None:
    expected = spelling(name)
    for form in ("NFC", "NFD"):
        assert spelling(unicodedata.normalize(form, name)) == expected
    assert spelling(f" {name}\t") == expected
    assert spelling(f"./{name}") == expected
    assert spelling(expected) == expected
