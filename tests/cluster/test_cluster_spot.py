"""Spot interruption notices, from a local replacement of AWS's metadata service; fingerprints."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from studies.harness.cluster import spot as cluster_spot
from trainables import fingerprint


class Metadata(BaseHTTPRequestHandler):
    """AWS's metadata service IMDSv2: PUT creates a session; GET without a session returns 401."""

    notice = False

    def do_PUT(self):
        lifetime = self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        valid = self.path == "/latest/api/token" and lifetime
        self._answer(200 if valid else 400, b"session")

    def do_GET(self):
        if self.headers["X-aws-ec2-metadata-token"] != "session":
            self._answer(401, b"")
        elif self.path == "/latest/meta-data/spot/instance-action" and type(self).notice:
            self._answer(200, b'{"action": "terminate", "time": "2026-01-01T00:00:00Z"}')
        else:
            self._answer(404, b"")

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def metadata() -> Iterator[str]:
    Metadata.notice = False
    with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/latest"
        server.shutdown()
        thread.join()


def test_spot_notice_is_detected_and_no_proxy_is_used(
    metadata: str, monkeypatch: pytest.MonkeyPatch
):
    assert not cluster_spot.has_notice(metadata)
    Metadata.notice = True
    assert cluster_spot.has_notice(metadata)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # this proxy must not be used
    assert cluster_spot.has_notice(metadata)


def test_unreachable_metadata_service_is_no_notice():
    assert not cluster_spot.has_notice("http://127.0.0.1:9/latest")


@pytest.mark.parametrize(("workers", "text"), [(1, "1 process"), (2, "2 processes")])
def test_main_polls_until_the_notice_and_then_stops_the_workers(
    metadata: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    workers: int,
    text: str,
):
    sleeps = []

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        Metadata.notice = len(sleeps) == 3

    monkeypatch.setattr(cluster_spot.time, "sleep", sleep)
    monkeypatch.setattr(cluster_spot, "leave", lambda: workers)
    cluster_spot.main(metadata)
    assert sleeps == [cluster_spot.POLL_SECONDS] * 3
    assert f"sent SIGTERM to {text}\n" in capsys.readouterr().out


def test_fingerprint_depends_on_names_and_contents_of_sources(
    monkeypatch: pytest.MonkeyPatch, tmp_path
):
    """`difference` names the values that differ."""
    actual = fingerprint.fingerprint()
    assert fingerprint.difference(actual) == ""
    difference = fingerprint.difference({**actual, "torch": "1.0"})
    assert difference == f"torch {actual['torch']} instead of 1.0"
    digests = set()
    files = [("a.py", "x = 1"), ("a.py", "x = 2"), ("b.py", "x = 1"), ("a.yaml", "x = 1")]
    for name, content in [*files, ("a.txt", "")]:
        folder = tmp_path / f"{len(digests)}"
        (folder / "precond").mkdir(parents=True)
        (folder / "precond" / name).write_text(content)
        monkeypatch.setattr(fingerprint, "__file__", str(folder / "trainables" / "fingerprint.py"))
        fingerprint.fingerprint.cache_clear()
        digests.add(fingerprint.fingerprint()["code"])
    fingerprint.fingerprint.cache_clear()
    assert len(digests) == 5  # the last folder has no source file
