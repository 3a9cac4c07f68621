"""`kind: opencv` on a real video file, through OpenCV as a webcam would come."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from contracts.errors import ConfigError, DeviceError
from runtime.cameras.device_clock import DeviceClock
from runtime.cameras.examine import examine, webcam_lines
from runtime.cameras.opencv import OpenCVCamera, usb_of
from runtime.config import CameraSection, load_config
from runtime.run import Run, RunPlan

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))


def a_run(folder: Path, **keys: object) -> Run:
    camera = {"kind": "opencv", "width": 64, "height": 48, "rate_hz": 20.0, "depth": False} | keys
    cameras = {"front": msgspec.convert(camera, CameraSection)}
    config = msgspec.structs.replace(load_config(None, ["pace=realtime"]), cameras=cameras)
    return Run(config, RunPlan(), str(folder), str(folder), "test")


@pytest.fixture
def video(tmp_path: Path) -> str:
    path = str(tmp_path / "three.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    for red, green, blue in COLOURS:
        writer.write(np.full((48, 64, 3), (blue, green, red), np.uint8))
    writer.release()
    return path


def test_a_video_plays_in_rgb_at_its_pace_over_and_over(tmp_path: Path, video: str) -> None:
    camera = OpenCVCamera(a_run(tmp_path), "front", index_or_path=video)
    found = []
    while len(found) < 7:
        picture = camera.wait(0.2)
        if picture is not None:
            found.append((picture.received_s, picture.rgb.mean(axis=(0, 1))))
    camera.close()
    for at, (_, colour) in enumerate(found):
        assert colour == pytest.approx(COLOURS[at % 3], abs=8)
    assert found[-1][0] - found[0][0] >= 6 / 20 - 0.02


def test_a_video_that_stood_still_is_late_no_longer_when_it_goes_on(
    tmp_path: Path, video: str
) -> None:
    camera, clock = OpenCVCamera(a_run(tmp_path), "front", index_or_path=video), DeviceClock()
    late_s, numbers = list[float](), list[int]()
    while len(numbers) < 10:
        if (picture := camera.wait(0.2)) is None:
            continue
        captured_s = clock.captured_s(picture.device_s, picture.received_s)
        late_s.append(picture.received_s - captured_s)
        numbers.append(picture.number)
        if len(numbers) == 4:
            time.sleep(2.0)
    camera.close()
    assert max(late_s) < 1.0
    assert numbers == list(range(1, 11)), "nothing was dropped"


@pytest.fixture
def mjpeg() -> Iterator[str]:
    """The address of a stream of JPEGs, as cheap network cameras have one; five a second."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=part")
            self.end_headers()
            data = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
            head = f"--part\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            try:
                while not over.wait(0.2):
                    self.wfile.write(head.encode() + data + b"\r\n")
            except OSError:
                pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/video"
    over.set()
    server.shutdown()
    server.server_close()


def test_jpegs_over_http_carry_no_times_and_have_none(tmp_path: Path, mjpeg: str) -> None:
    """OpenCV counts them at 25 a second: a camera that gives fewer would be late by more and more."""
    camera, clock = OpenCVCamera(a_run(tmp_path, rate_hz=25.0), "front", mjpeg), DeviceClock()
    late_s = []
    for _ in range(6):
        picture = camera.wait(1.0)
        assert picture is not None
        late_s.append(picture.received_s - clock.captured_s(picture.device_s, picture.received_s))
    camera.close()
    assert max(late_s) == 0.0


@pytest.fixture
def jpegs() -> Iterator[str]:
    """The same without HTTP, as `rpicam-vid --codec mjpeg --listen -o tcp://` gives them."""
    over = threading.Event()
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    data = cv2.imencode(".jpg", noise)[1].tobytes()
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = server.accept()
            connection.sendall(data * 1000)  # OpenCV looks at many before it opens
            while not over.wait(0.2):
                connection.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
    over.set()
    server.close()


def test_nor_do_jpegs_over_tcp(tmp_path: Path, jpegs: str) -> None:
    camera = OpenCVCamera(a_run(tmp_path, rate_hz=25.0), "front", jpegs)
    pictures = [camera.wait(1.0) for _ in range(6)]
    camera.close()
    assert all(picture is not None and math.isnan(picture.device_s) for picture in pictures)


def test_what_is_wrong_is_one_clear_sentence(tmp_path: Path, video: str) -> None:
    with pytest.raises(DeviceError, match=r"'front' is not there.*opens at 93.*the index"):
        OpenCVCamera(a_run(tmp_path), "front", index_or_path=93)
    with pytest.raises(ConfigError, match=r"expected 64x48 at 30 Hz, found 64x48 at 20 Hz"):
        OpenCVCamera(a_run(tmp_path, rate_hz=30.0), "front", index_or_path=video)
    with pytest.raises(ConfigError, match=r"has no depth; set cameras.front.depth: false"):
        OpenCVCamera(a_run(tmp_path, depth=True), "front", index_or_path=video)
    with pytest.raises(ConfigError, match=r"no option 'exposur'.*'exposure'"):
        OpenCVCamera(a_run(tmp_path), "front", index_or_path=video, options={"exposur": 1.0})


def test_the_doctor_lists_webcams_by_name_and_says_which_may_not_be_opened(tmp_path: Path) -> None:
    for node, index, name in (("video77", "0", "C920"), ("video78", "1", "C920 metadata")):
        folder = tmp_path / "sys" / node
        folder.mkdir(parents=True)
        (folder / "index").write_text(index + "\n")
        (folder / "name").write_text(name + "\n")
    [line] = webcam_lines(tmp_path / "sys")
    assert line.what == "/dev/video77" and "C920, may not be opened" in line.found
    assert line.status == "warn" and "group video" in line.fix
    section = a_run(tmp_path, options={"index_or_path": 93}).config.cameras["front"]
    absent, *_ = examine("front", section)
    assert absent.status == "fail" and "no /dev/video93" in absent.found


def test_a_webcam_is_known_by_its_number_or_else_its_socket(tmp_path: Path) -> None:
    def attach(number: int, socket: str) -> Path:
        usb = tmp_path / "usb1" / "1-2" / socket
        (usb / f"{socket}:1.0").mkdir(parents=True)
        (tmp_path / f"video{number}").mkdir()
        (tmp_path / f"video{number}" / "device").symlink_to(usb / f"{socket}:1.0")
        return usb

    usb = attach(0, "1-2.4")
    assert usb_of(0, tmp_path) == ("", "1-2.4"), "a cheap one has no number"
    (usb / "serial").write_text("SN0001\n")
    assert usb_of(0, tmp_path) == usb_of("/dev/video0", tmp_path) == ("SN0001", "")
    assert usb_of(1, tmp_path) == ("", "")
    (attach(2, "1-2.1") / "serial").write_text("SN0001\n")
    assert usb_of(0, tmp_path) == ("SN0001", "1-2.4"), "another says the same"
