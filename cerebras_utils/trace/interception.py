"""The Cerebras backend, stopped where a cluster would begin.

Up to the compile request a run for the CS-3 works on the user's machine alone. Here the request, and the
tensors that would follow it, are kept instead of sent; every way to a cluster is closed meanwhile, so that a
trace on a login node starts no job there. Leaving the context puts everything back.

Imports Cerebras software: import this module inside functions only.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

from cerebras.appliance.pb.framework.appliance_service_pb2 import CompileResponse
from cerebras.pytorch.backend.ltc_backend import ClusterManager
from cerebras.pytorch.core.appliance import ApplianceMode


class ReachedEndError(BaseException):
    """Everything is known: unwinds the run. Not an ``Exception``, so that nothing takes it for a failure."""


class Caught:
    """``cirh`` is set when the compiler would be called; ``on_send`` is called with what would be sent."""

    def __init__(self, on_send: Callable[[Mapping[str, Any]], None]) -> None:
        self.on_send = on_send
        self.cirh: str | None = None


@contextmanager
def intercepted(caught: Caught) -> Iterator[None]:
    """Within it the run of a CSX backend ends in ``ReachedEndError`` before anything leaves the machine."""

    def compile(self: Any, batch_size: int, cirh_str: str, *rest: Any, **named: Any) -> CompileResponse:
        if not cirh_str:  # the lowering failed; the backend itself would notice on the cluster
            raise RuntimeError("the graph could not be lowered to CIRH")
        caught.cirh = cirh_str
        return CompileResponse()

    def execute(self: Any, request: Any, stack: Any, initial: Any = None, *rest: Any, **named: Any) -> None:
        caught.on_send(initial or {})
        raise ReachedEndError

    replaced: list[tuple[type, str, Any]] = [
        (ApplianceMode, "compile", compile),
        (ApplianceMode, "execute", execute),
        (ApplianceMode, "build_worker_image", _no_image),
        (ApplianceMode, "get_sidecar_image", lambda self: None),
        (ApplianceMode, "set_sidecar_image", lambda self, image: None),
        (ApplianceMode, "compute_compile_hash", lambda self, *what: "traced"),
        (ClusterManager, "start_workflow", lambda self, **named: False),
        (ClusterManager, "client", None),  # as where no cluster is configured
    ]
    with ExitStack() as stack:
        for owner, name, stand_in in replaced:
            stack.enter_context(mock.patch.object(owner, name, stand_in))
        yield


def _no_image(self: Any, *how: Any, **named: Any) -> AbstractContextManager[None]:
    return nullcontext()
