"""Token ids while they are read: before a run only a part of large data is looked at."""

from collections.abc import Iterable, Iterator

from torch import Tensor

from pruning.problems import fail

IGNORED = -100  # labels of this value have no loss


def known_tokens(batches: Iterable[dict[str, Tensor]], vocabulary: int) -> Iterator[dict[str, Tensor]]:
    """The same batches. On a GPU an id beyond the table ends the process, and does not say which it was."""
    for batch in batches:
        for name in ("input_ids", "labels"):
            ids = batch[name]
            least, greatest = map(int, ids.aminmax())
            if least < 0 and name == "labels":
                ids = ids[ids != IGNORED]
                least, greatest = map(int, ids.aminmax()) if len(ids) else (0, 0)
            if least < 0 or greatest >= vocabulary:
                bad = least if least < 0 else greatest
                what = f"have the token id {bad} among the {name}, and the model has vocab_size: {vocabulary}"
                fix = "prepare the data with the model's tokenizer, or set model.vocab_size to what it has"
                raise fail("the data of this batch", what, fix)
        yield batch
