"""Tensors that are shared out: one process here, which shares with itself; two are in test_distributed.py."""

import pytest
import torch
import torch.distributed as dist

from cerebras_utils.fallback.shards import as_shard, count, is_sharded, local, whole

FSDP = pytest.importorskip("torch.distributed.tensor", reason="torch has no public DTensor before 2.5")
if not hasattr(FSDP, "Shard"):  # torch 2.4 has the module, and not what is in it
    pytest.skip("torch has no public DTensor before 2.5", allow_module_level=True)


class Mesh:
    """Of four processes, of which this one is some."""

    def __init__(self, rank):
        self.rank = rank

    def size(self):
        return 4

    def get_local_rank(self):
        return self.rank


class Rows:
    """As much of a DTensor as ``as_shard`` asks for: rows of a (9, 2) tensor, three for each process."""

    placements = (FSDP.Shard(0),)
    shape = torch.Size([9, 2])

    def __init__(self, rank):
        self.device_mesh, self._rows = Mesh(rank), torch.empty(max(0, min(3, 9 - 3 * rank)), 2)

    def to_local(self):
        return self._rows

    def detach(self):
        return self

    def stride(self):
        return (2, 1)

    @staticmethod
    def from_local(rows, mesh, placements, **about):
        return rows


def test_every_row_is_in_one_process_also_where_they_do_not_divide():
    tensor = torch.arange(18).view(9, 2)
    parts = [as_shard(tensor, Rows(rank)) for rank in range(4)]
    assert [len(part) for part in parts] == [3, 3, 3, 0]
    assert torch.equal(torch.cat(parts), tensor)


@pytest.fixture
def shared(tmp_path):
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    yield FSDP.distribute_tensor(torch.arange(12.0).view(6, 2), mesh, [FSDP.Shard(0)])
    dist.destroy_process_group()


def test_a_shared_tensor_is_what_it_was_shared_from(shared):
    plain = torch.arange(12.0).view(6, 2)
    local(shared).mul_(2)  # in the memory of the whole
    again = as_shard(plain * 2, shared)
    assert is_sharded(again)
    assert as_shard(again, shared) is again
    tree = whole({"a": [again, shared], "b": (1, plain)})
    assert torch.equal(tree["a"][0], plain * 2)
    assert torch.equal(tree["a"][1], plain * 2)
    assert tree["b"][1] is plain
    assert whole([shared], keep=False)[0].device.type == "meta"
    assert count(shared > 4) == int((plain * 2 > 4).sum())


def test_a_plain_tensor_is_whole():
    plain = torch.arange(4)
    assert local(plain) is plain
    assert as_shard(plain, plain) is plain
    assert whole(plain) is plain
    assert count(plain > 1) == 2
