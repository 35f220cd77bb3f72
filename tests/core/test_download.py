"""Downloads from a server on this machine that cuts, lies, moves and fails."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from inversion.core.download import download
from inversion.core.errors import InputError
from inversion.data import tiny_imagenet
from inversion.encoders import weights

CONTENT = bytes(range(256)) * 4096  # 1 MiB
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content`; sends only so many bytes a request while `cuts` last."""

    content = CONTENT
    cuts: list[int]
    ranges = True
    """Whether it can resume."""
    asked: list[str]
    """The ranges that it was asked for."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):  # noqa: N802
        server = self.server
        wanted = self.headers.get("Range", "")
        server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        if start and start >= len(server.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        sent = server.cuts.pop(0) if server.cuts else len(server.content)
        self.wfile.write(server.content[start : start + sent])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as httpd:
        httpd.cuts, httpd.asked = [], []
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield httpd
        httpd.shutdown()


def fetch(server, path, digest=MD5):
    download(server.url, path, "The file", "md5", digest, "give another")


def test_a_cut_download_resumes_at_once(server, tmp_path):
    server.cuts = [300_000, 300_000]
    fetch(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked == ["", "bytes=300000-", "bytes=600000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def test_a_cut_download_resumes_in_a_later_run(server, tmp_path, one_line):
    server.cuts = [300_000, 0]
    with pytest.raises(InputError, match="cut after 300000 of 1048576 bytes; the next attempt resumes at 0 MiB") as error:
        fetch(server, tmp_path / "file.bin")
    one_line(str(error.value))
    assert not (tmp_path / "file.bin").exists()
    fetch(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT and server.asked[-1] == "bytes=300000-"


def test_a_server_that_cannot_resume_sends_everything(server, tmp_path):
    (tmp_path / ".file.bin.partial").write_bytes(CONTENT[:100])
    server.ranges = False
    fetch(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("beginning", [b"of another file", CONTENT, CONTENT + b"more"])
def test_a_beginning_is_checked_with_the_rest(server, tmp_path, beginning):
    (tmp_path / ".file.bin.partial").write_bytes(beginning)
    fetch(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_another_file_is_refused(server, tmp_path, one_line):
    server.content = b"<html>moved</html>"
    with pytest.raises(InputError, match="is not The file .MD5") as error:
        fetch(server, tmp_path / "file.bin")
    assert server.url in one_line(str(error.value))
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_not_downloaded_again(server, tmp_path):
    for _ in range(2):
        fetch(server, tmp_path / "file.bin")
    assert server.asked == [""]


def test_tiny_imagenet_resumes_after_a_cut(archive, server, tmp_path):
    server.content = archive.read_bytes()
    server.cuts = [20_000, 0]
    arguments = (tmp_path, None, server.url, hashlib.md5(server.content).hexdigest())
    with pytest.raises(InputError, match="cut after"):
        tiny_imagenet.provide(*arguments)
    assert tiny_imagenet.find_root(tmp_path) is None
    assert (tiny_imagenet.provide(*arguments) / "wnids.txt").is_file()
    assert server.asked[-1] == "bytes=20000-"
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "tiny-imagenet-200"}


def test_imagenet_weights_resume_after_a_cut(server, tmp_path, monkeypatch, one_line):
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    url = f"{server.url.removesuffix('file.bin')}alexnet-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"
    monkeypatch.setattr(weights, "AlexNet_Weights", type("W", (), {"IMAGENET1K_V1": type("V", (), {"url": url})}))
    server.cuts = [20_000, 0]
    with pytest.raises(InputError, match="cut after") as error:
        weights.imagenet_weights()
    assert "encoder.weights=PATH" in one_line(str(error.value))
    assert weights.imagenet_weights().read_bytes() == CONTENT and server.asked[-1] == "bytes=20000-"
