"""A file is read as a film and as nothing else; what comes from the network reaches no file of this machine."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from footage import write_video

from eventful.errors import VideoError
from eventful.video import read_frames

PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Address of the test's folder."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.mark.parametrize("name", ["a.m3u8", "a.mp4"])
@pytest.mark.parametrize(
    "text", [PLAYLIST.format("secret.ts"), "ffconcat version 1.0\nfile secret.ts\n", "just a text\n" * 50]
)
def test_lists_and_texts_are_no_films(name: str, text: str, tmp_path: Path) -> None:
    write_video(tmp_path / "secret.ts", 3)
    (tmp_path / name).write_text(text)
    for source in (tmp_path / name, f"file://{tmp_path / name}"):
        with pytest.raises(VideoError, match=f"{name} cannot be opened"):
            list(read_frames(source))


def test_text_files_are_no_films(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("just a text\n" * 50)
    with pytest.raises(VideoError, match=r"notes\.txt cannot be opened"):
        read_frames(tmp_path / "notes.txt")


def test_films_of_the_network_are_read(server: str, tmp_path: Path) -> None:
    write_video(tmp_path / "a.ts", 3)
    (tmp_path / "list.m3u8").write_text(PLAYLIST.format("a.ts"))
    for name in ("a.ts", "list.m3u8"):
        assert len(list(read_frames(f"{server}/{name}"))) == 3


def test_a_list_of_the_network_does_not_reach_files(server: str, tmp_path: Path) -> None:
    write_video(tmp_path / "secret.ts", 3)
    (tmp_path / "list.m3u8").write_text(PLAYLIST.format(f"file://{tmp_path / 'secret.ts'}"))
    with pytest.raises(VideoError):
        list(read_frames(f"{server}/list.m3u8"))


def test_addresses(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a film.mp4", 3)
    assert len(list(read_frames(f"file://{str(path).replace(' ', '%20')}"))) == 3
    for address in (f"subfile,,start,0,end,0,,://{path}", f"cache://{path}", "gopher://x/a.mp4"):
        with pytest.raises(VideoError, match="addresses begin with one of"):
            read_frames(address)
