"""A byte-level language-modelling set from the Python standard library's own sources.

Real text that every machine has. A token is a byte, and 256 ends a file; the files are in ModelZoo's layout
for pre-training. The sources are divided into training and validation by a hash of their path, so that a
file stays on its side in whatever company. The same Python gives the same bytes.
"""

import hashlib
import json
import platform
import random
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from experiments.new_directory import new_directory
from pruning.masks.receipt import this_tool
from pruning.problems import fail

END_OF_TEXT = 256
VOCABULARY = 257
SPLITS = ("train", "valid")
MANIFEST = "manifest.json"
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_FILE_BYTES = 48 << 20  # of samples in an .h5 file, before compression
_SLAB = 4096  # samples between two moves of the progress bar

Progress = Callable[[int], None]  # samples just written


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """What is asked; equal specs of equal sources give equal files."""

    sequence_length: int = 128
    validation: float = 0.05
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation must be in [0, 1), got {self.validation!r}")
        if self.sequence_length < 1 or (self.limit is not None and self.limit < 1):
            raise ValueError("sequence_length and limit must be 1 or more")

    def split_of(self, path: str) -> str:
        drawn = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") / 2**64
        return "valid" if drawn < self.validation else "train"


class TextSet:
    """The sources, read and divided; nothing is written before ``write``."""

    def __init__(self, spec: TextSpec, root: Path | None = None) -> None:
        """``root`` instead of the standard library of this Python."""
        self.spec = spec
        self.root = root or Path(sysconfig.get_paths()["stdlib"])
        self.sources: list[dict[str, Any]] = []
        texts: dict[str, list[bytes]] = {split: [] for split in SPLITS}
        for path in _python_files(self.root)[: spec.limit]:
            text, name = _read(path), path.relative_to(self.root).as_posix()
            digest, split = hashlib.sha256(text).hexdigest(), spec.split_of(name)
            self.sources.append({"path": name, "bytes": len(text), "sha256": digest, "split": split})
            texts[split].append(text)
        self._tokens = {split: _tokens(texts[split]) for split in SPLITS if texts[split]}
        self._check()

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._tokens)

    def samples(self, split: str) -> int:
        return -(-self.tokens(split) // self.spec.sequence_length)

    def tokens(self, split: str) -> int:
        """Those to be predicted: all but the first."""
        return len(self._tokens[split]) - 1

    @property
    def made_from(self) -> dict[str, Any]:
        """What the files follow from."""
        python = f"{platform.python_implementation()} {platform.python_version()}"
        return {"python": python, **asdict(self.spec), "sources": self.sources}

    def write(self, directory: Path, progress: Progress) -> dict[str, Any]:
        """The directory, whole or not at all; gives its manifest."""
        manifest: dict[str, Any] = {
            "format": "wafersparse-text",
            "version": 1,
            "tool": f"{this_tool()}, h5py {h5py.__version__}, HDF5 {h5py.version.hdf5_version}",
            "vocab_size": VOCABULARY,
            "end_of_text": END_OF_TEXT,
        }
        with new_directory(directory) as part:
            for split in self.splits:
                (part / split).mkdir()
                files = []
                for number, samples in enumerate(self._files(split)):
                    name, image = f"{split}/{number:04}.h5", _image(samples, progress)
                    (part / name).write_bytes(image)
                    digests = {
                        "sha256": hashlib.sha256(image).hexdigest(),
                        "samples_sha256": hashlib.sha256(
                            samples.data
                        ).hexdigest(),  # whatever HDF5 made of them
                    }
                    files.append({"path": name, "bytes": len(image), "samples": len(samples), **digests})
                manifest[split] = self.counts(split) | {"files": files}
            manifest["made_from"] = self.made_from
            (part / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        return manifest

    def counts(self, split: str) -> dict[str, int]:
        sources = sum(source["split"] == split for source in self.sources)
        return {"sources": sources, "tokens": self.tokens(split), "samples": self.samples(split)}

    def finished(self, directory: Path) -> dict[str, Any] | None:
        """The manifest of the directory where it is this very set; None where it is not there."""
        if not directory.is_dir() or not any(directory.iterdir()):
            return None
        another = "choose another --out, or remove this one"
        try:
            manifest = json.loads((directory / MANIFEST).read_text())
            made_from, files = manifest["made_from"], [f for s in self.splits for f in manifest[s]["files"]]
            listed = {file["path"]: file["sha256"] for file in files}
        except (OSError, ValueError, KeyError, TypeError):
            what = f"is there already, without a {MANIFEST} of this command"
            raise fail(directory, what, another) from None
        for key, ours in self.made_from.items():
            if made_from.get(key) != ours:
                told = "other files" if key == "sources" else f"{key} {made_from.get(key)!r}, not {ours!r}"
                raise fail(directory, f"is there already, and was made from {told}", another)
        present = {path.relative_to(directory).as_posix() for path in directory.glob("*/*.h5")}
        for name in sorted(present | set(listed)):
            if name not in listed or name not in present or _digest(directory / name) != listed[name]:
                what = "is not what this command wrote there"
                raise fail(directory / name, what, f"remove {directory} and run the command again")
        return dict(manifest)

    def _files(self, split: str) -> Iterator[NDArray[np.int32]]:
        length, total = self.spec.sequence_length, self.samples(split)
        order = list(range(total))
        random.Random(self.spec.seed).shuffle(order)
        step = max(1, _FILE_BYTES // (3 * 4 * length))
        for start in range(0, total, step):
            yield _samples(self._tokens[split], length, np.array(order[start : start + step]))

    def _check(self) -> None:
        if not self.sources:
            fix = "use a Python that is installed with its library's sources"
            raise fail(self.root, "holds no .py files", fix)
        wanted = SPLITS if self.spec.validation else SPLITS[:1]
        for split in wanted:
            if split not in self._tokens:
                what = f"none of the {len(self.sources)} files fell to the {split} set"
                raise fail(self.root, what, "raise --limit, or choose another --validation")


def _python_files(root: Path) -> list[Path]:
    """Sorted by their path below ``root``. A link is not of the library: distributions place some there."""
    found = [
        path
        for path in root.rglob("*.py")
        if not _LEFT_OUT & set(path.relative_to(root).parts[:-1]) and path.is_file() and not path.is_symlink()
    ]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        fix = "allow reading it: every source counts"
        raise fail(path, f"cannot be read: {error.strerror}", fix) from None


def _tokens(texts: list[bytes]) -> NDArray[np.int16]:
    parts = [np.frombuffer(text, np.uint8).astype(np.int16) for text in texts]
    end = np.array([END_OF_TEXT], np.int16)
    return np.concatenate([piece for part in parts for piece in (part, end)])


def _samples(tokens: NDArray[np.int16], length: int, numbers: NDArray[np.int64]) -> NDArray[np.int32]:
    """Input ids, loss mask and labels. The last sample is filled up, and its mask says where."""
    places = numbers[:, None] * length + np.arange(length)
    last = len(tokens) - 1
    samples = np.empty((len(numbers), 3, length), np.int32)
    samples[:, 0] = tokens[np.minimum(places, last)]
    samples[:, 1] = places < last
    samples[:, 2] = tokens[np.minimum(places + 1, last)]
    return samples


def _image(samples: NDArray[np.int32], progress: Progress) -> bytes:
    """The bytes of an HDF5 file, with the chunks and the compression of ModelZoo's data preparation."""
    with h5py.File("image", "w", driver="core", backing_store=False) as file:
        file.attrs["n_examples"] = len(samples)
        chunks = (1, *samples.shape[1:])
        data = file.create_dataset("data", samples.shape, "i4", chunks=chunks, compression="gzip")
        for start in range(0, len(samples), _SLAB):
            data[start : start + _SLAB] = samples[start : start + _SLAB]
            progress(len(samples[start : start + _SLAB]))
        file.flush()
        return bytes(file.id.get_file_image())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
