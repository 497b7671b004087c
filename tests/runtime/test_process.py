"""RSS figures, against what the system says of a process."""

import subprocess
import sys

PEAK_OF_A_CHILD = """
import subprocess, sys
ballast = bytearray(200_000_000)
for i in range(0, len(ballast), 4096):
    ballast[i] = 1
child = "from seer_runtime.process import rss_peak_bytes; print(rss_peak_bytes())"
print(subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True).stdout)
"""


def test_the_peak_is_not_inherited_from_a_large_parent() -> None:
    done = subprocess.run([sys.executable, "-c", PEAK_OF_A_CHILD], capture_output=True, text=True, check=True)
    assert 5_000_000 < int(done.stdout) < 150_000_000


# In a process of its own: a large one may hand out memory that it already holds, or lose idle pages meanwhile.
WATCHED = """
import numpy as np
from seer_runtime.process import RssWatch, rss_bytes, rss_peak_bytes
with RssWatch() as watch:
    held = np.ones(50_000_000, np.uint8)
    for _ in range(20):
        held += 1
    del held
print(watch.before_bytes, watch.peak_bytes, watch.after_bytes, rss_bytes(), rss_peak_bytes())
"""


def test_a_watch_sees_what_came_and_went() -> None:
    done = subprocess.run([sys.executable, "-c", WATCHED], capture_output=True, text=True, check=True)
    before, peak, after, now, highest = map(int, done.stdout.split())
    assert peak >= before + 45_000_000
    assert after <= before + 10_000_000
    assert highest >= 0.98 * peak  # the kernel counts pages in batches, a thread each
    assert 0.98 * now <= highest
