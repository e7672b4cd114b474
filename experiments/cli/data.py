"""``wafersparse data``: data sets to train on, made on the spot."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click


@click.group("data", epilog="Example:  wafersparse data stdlib --out data/stdlib")
def command() -> None:
    """Make data sets in ModelZoo's HDF5 layout."""


@command.command(
    "stdlib",
    epilog="Examples:\n\n"
    "\b\n"
    "  wafersparse data stdlib --out data/stdlib\n"
    "  wafersparse data stdlib --out data/long --sequence-length 512 --dry-run\n"
    "  wafersparse data stdlib --out data/small --limit 50 --validation 0.2",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, metavar="DIR", help="To write."
)
@click.option(
    "--sequence-length", type=click.IntRange(1), default=128, show_default=True, help="Tokens of a sample."
)
@click.option(
    "--validation",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.05,
    show_default=True,
    metavar="FRACTION",
    help="Of the source files, chosen by a hash of their path.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N source files.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order of the samples.")
@click.option("--dry-run", is_flag=True, help="Say what would be written, then stop.")
@click.option("--json", "as_json", is_flag=True, help="Results as JSON on stdout.")
def stdlib(out: Path, dry_run: bool, as_json: bool, **asked: Any) -> None:
    """A byte-level set from the sources of this Python's standard library.

    A token is a byte, and 256 ends a file: vocab_size 257. DIR/train and DIR/valid are directories for
    data_dir of a GptHDF5MapDataProcessor; DIR/manifest.json says what they were made from. A directory that
    holds this very set already is kept.
    """
    from experiments.stdlib_text import MANIFEST, VOCABULARY, TextSet, TextSpec

    texts = TextSet(TextSpec(**asked))
    kept = texts.finished(out) is not None
    if not kept and not dry_run:
        with _writing(sum(map(texts.samples, texts.splits))) as progress:
            texts.write(out, progress)
    result = {
        "state": "kept" if kept else "would be written" if dry_run else "written",
        "path": str(out),
        "manifest": str(out / MANIFEST),
        "vocab_size": VOCABULARY,
        "sequence_length": texts.spec.sequence_length,
    } | {split: {"data_dir": str(out / split), **texts.counts(split)} for split in texts.splits}
    click.echo(json.dumps(result, indent=1) if as_json else _text(result, texts.splits))


def _text(result: dict[str, Any], splits: tuple[str, ...]) -> str:
    from experiments.tables import table

    counts = [result[split] for split in splits]
    rows = [(c["data_dir"], *(f"{c[key]:,}" for key in ("sources", "samples", "tokens"))) for c in counts]
    return "\n".join(
        [
            f"{result['state']}  {result['path']}",
            table(("data_dir", "files", "samples", "tokens"), rows, right=(1, 2, 3)),
            f"vocab_size: {result['vocab_size']}, max_position_embeddings: {result['sequence_length']}",
        ]
    )


@contextmanager
def _writing(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, one plain line at the end elsewhere."""
    from tqdm import tqdm

    begun = time.monotonic()
    with tqdm(total=total, desc="stdlib", unit=" samples", file=sys.stderr, disable=None, leave=False) as bar:

        def progress(samples: int) -> None:
            bar.update(samples)

        yield progress
    print(f"stdlib: {total:,} samples in {time.monotonic() - begun:.1f} s", file=sys.stderr)
