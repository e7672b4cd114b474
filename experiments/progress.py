"""How far a long read is: a bar on a terminal, one plain line at the end elsewhere. Always on stderr."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from tqdm import tqdm

from pruning.engine.stream import Progress


@contextmanager
def reading(total: int, what: str) -> Iterator[Progress]:
    """``with reading(total_bytes, "masks") as progress: ...`` gives a callable for bytes just read."""
    begun, lock = time.monotonic(), Lock()
    bar = tqdm(
        total=total,
        desc=what,
        unit="B",
        unit_scale=True,
        file=sys.stderr,
        disable=None,
        leave=False,
        mininterval=0.2,
    )

    def progress(nbytes: int) -> None:
        if not bar.disable:
            with lock:
                bar.update(nbytes)

    with bar:
        yield progress
    seconds = max(time.monotonic() - begun, 1e-9)
    print(f"{what}: read {size(total)} in {seconds:.1f} s ({size(total / seconds)}/s)", file=sys.stderr)


def size(nbytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"
