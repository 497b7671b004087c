"""Measure a camera: its rate, the CPU time of an image, and the age of the newest image.

    python tools/camerabench.py [SOURCE] [--size N] [--rgb] [--seconds N]

SOURCE is a number, a device, a video file or "picamera2". Without it, a simulated camera sends 30 images of 640x480
pixels a second. The CPU time of an image is that of the whole process while nobody reads the camera: decoding,
cropping, resizing and conversion. For the age, the newest image is read at random times.
"""

import sys
import time

import numpy as np
from commandline import BadInputError, Parser, count, render, run_tool

from seer_edge.envs.camera import Camera, CameraFailedError


class Noise:
    """A simulated camera, whose images cost no time."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._images = [rng.integers(0, 256, (480, 640, 3), np.uint8) for _ in range(8)]
        self._due, self._reads = time.monotonic(), 0

    def read(self) -> tuple[bool, object]:
        """Wait until the next image is due and return it."""
        now = time.monotonic()
        self._due = max(self._due + 1 / 30, now)
        time.sleep(self._due - now)
        self._reads += 1
        return True, self._images[self._reads % len(self._images)]


def figures(camera: Camera, seconds: int) -> list[tuple[str, str]]:
    """Return what was measured, as rows of a table, in three parts of `seconds` each."""
    first, cpu = camera.wait_for_next(), time.process_time()
    time.sleep(seconds)
    images = camera.newest(1).number - first.number
    cpu_ms = 1e3 * (time.process_time() - cpu) / max(images, 1)
    rng = np.random.default_rng(0)
    ages, calls, next_ages = [], [], []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(rng.uniform(0, 0.03))
        begin = time.perf_counter()
        frame = camera.newest(1)
        calls.append(time.perf_counter() - begin)
        ages.append(frame.age_seconds)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        next_ages.append(camera.wait_for_next(1).age_seconds)
    return [
        ("images a second", f"{camera.frames_per_second:.1f}"),
        ("CPU time of an image, ms", f"{cpu_ms:.2f}"),
        ("age of the newest image, ms", _percentiles(1e3, ages)),
        ("newest(), us", _percentiles(1e6, calls)),
        ("age after wait_for_next(), ms", _percentiles(1e3, next_ages)),
    ]


def _percentiles(unit: float, values: list[float]) -> str:
    p50, p99 = unit * np.percentile(values, (50, 99))
    return f"p50 {p50:.2f}, p99 {p99:.2f}"


def main() -> int:
    """Measure the camera and print a table."""

    def run() -> int:
        import cv2

        parser = Parser(prog="camerabench.py", description=(__doc__ or "").splitlines()[0])
        parser.add_argument("source", nargs="?", metavar="SOURCE", help="number, path or picamera2 (simulated)")
        parser.add_argument("--size", type=count, default=84, metavar="N", help="width and height, in pixels (84)")
        parser.add_argument("--rgb", action="store_true", help="RGB images instead of gray ones")
        parser.add_argument("--seconds", type=count, default=10, metavar="N", help="of each of three parts (10)")
        flags = parser.parse_args()
        cv2.setNumThreads(1)  # as in a run with one thread
        name = flags.source
        source = Noise() if name is None else int(name) if name.isdecimal() else name
        try:
            with Camera(source, size=(flags.size, flags.size), gray=not flags.rgb) as camera:
                print(render(("figure", camera.name), figures(camera, flags.seconds)))
        except CameraFailedError as error:
            raise BadInputError(str(error)) from error
        return 0

    return run_tool("camerabench.py", run)


if __name__ == "__main__":
    sys.exit(main())
