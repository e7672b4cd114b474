"""``SCHEDULER`` or ``local:N`` as a Dask client, for as long as it is needed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pruning.problems import fail

_SECONDS = 30  # to reach a scheduler


@contextmanager
def dask_client(where: str) -> Iterator[Any]:
    """``local:N`` starts N workers on this machine; anything else is the address of a scheduler."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        fix = "pip install 'wafersparse[dask]'"
        raise fail(f"--dask {where}", "dask.distributed is not installed here", fix) from None
    if where == "local" or where.startswith("local:"):
        if not re.fullmatch(r"local:[1-9]\d{0,3}", where):
            raise fail(f"--dask {where}", "names no number of workers", "write it as in --dask local:2")
        workers = int(where.removeprefix("local:"))
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(where, timeout=_SECONDS)
    except (OSError, ValueError) as error:
        what = f"the scheduler cannot be reached: {error}"
        raise fail(f"--dask {where}", what, "start `dask scheduler`, or use local:2") from None
    with client:
        yield client
