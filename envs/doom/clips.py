"""The cache of recorded clips: generated on first use, checksummed, repaired when damaged, safe to interrupt.

A clip is one safetensors file (read by memory mapping). `manifest.json` beside the files holds the SHA-256 of
each. A file is written under a temporary name and renamed, so a file with its final name is complete; one
that does not match the manifest is reported and recorded anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from envs.doom.record import TICS_PER_SECOND, record
from envs.doom.scenes import Scene, split_named
from envs.task import Clip
from eventful.console.output import progress

GENERATOR_VERSION = 1
"""Part of the folder's name; raised when the same seed no longer gives the same bytes."""

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """`$EVENTFUL_CACHE`, or `~/.cache/eventful-policies/doom`."""
    return Path(os.environ.get("EVENTFUL_CACHE") or Path.home() / ".cache" / "eventful-policies" / "doom")


def load_split(
    split: str,
    count: int | None = None,
    frames: int = 64,
    step: int = 2,
    folder: Path | None = None,
    workers: int = 2,
) -> list[Clip]:
    """Clips of a split, generating those that the cache lacks.

    Args:
        split: Name of the split: `train`, `val`, `test`, `test_maps` or `detector`.
        count: Number of clips; the split's default if None.
        frames: Number of frames of each clip.
        step: Tics (1/35 s) from frame to frame.
        folder: Folder of the cache; `cache_folder()` if None.
        workers: Number of games that run at the same time while generating.

    Raises:
        ValueError: If there is no such split or a number is not positive.
        OSError: If the cache cannot be written.
    """
    chosen = split_named(split)
    count = chosen.size if count is None else count
    if min(count, frames, step, workers) < 1:
        raise ValueError(f"count, frames, step and workers must be positive, got {count}, {frames}, {step}, {workers}")
    place = (folder or cache_folder()) / f"v{GENERATOR_VERSION}-{frames}x{step}" / split
    place.mkdir(parents=True, exist_ok=True)
    manifest = _read_manifest(place)
    wanted = {}
    for k in range(count):
        scene = chosen.scenes[k % len(chosen.scenes)]
        wanted[f"{split}-{k:04d}-{scene.name}"] = (scene, chosen.first_seed + k)
    missing = [name for name in wanted if not _is_sound(place / f"{name}.safetensors", manifest.get(name))]
    if missing:
        _generate(place, {name: wanted[name] for name in missing}, frames, step, workers)
    return [_open(place / f"{name}.safetensors", name) for name in wanted]


def _is_sound(path: Path, digest: str | None) -> bool:
    if not path.exists():
        return False
    if digest is None:
        _log.warning("%s is not in the manifest; recording it anew", path)
        return False
    if _sha256(path) != digest:
        _log.warning("%s is damaged (SHA-256 differs from the manifest); recording it anew", path)
        return False
    return True


def _generate(place: Path, wanted: dict[str, tuple[Scene, int]], frames: int, step: int, workers: int) -> None:
    # Threads are enough: each game is a process of its own.
    with (
        ThreadPoolExecutor(workers) as pool,
        progress(what=f"recording {place.name}", shown=True, total=len(wanted), unit="clip") as bar,
    ):
        jobs = {
            name: pool.submit(_write, place / f"{name}.safetensors", scene, seed, frames, step)
            for name, (scene, seed) in wanted.items()
        }
        try:
            for name, job in jobs.items():
                digest = job.result()
                manifest = _read_manifest(place)
                manifest[name] = digest
                _replace(place / "manifest.json", json.dumps(manifest, indent=0, sort_keys=True).encode())
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _write(path: Path, scene: Scene, seed: int, frames: int, step: int) -> str:
    """Records one clip into a file; returns the file's SHA-256."""
    recording = record(scene, seed, frames, step)
    tensors: dict[str, NDArray] = {
        "frames": recording.frames,
        "boxes": recording.boxes,
        "classes": recording.classes,
        "counts": recording.counts,
    }
    facts = {
        "map": scene.name,
        "camera": recording.camera,
        "style": recording.style,
        "seed": str(seed),
        "fps": str(TICS_PER_SECOND / step),
    }
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    # The header is one JSON string, because safetensors does not keep the order of several entries.
    save_file(tensors, temporary, metadata={"facts": json.dumps(facts)})
    digest = _sha256(temporary)
    os.replace(temporary, path)
    return digest


def _open(path: Path, name: str) -> Clip:
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
        frames_THWC = file.get_tensor("frames")
        counts = file.get_tensor("counts").tolist()
        boxes = file.get_tensor("boxes").split(counts)
        classes = file.get_tensor("classes").split(counts)
    targets = [{"boxes": b, "labels": c} for b, c in zip(boxes, classes, strict=True)]
    tags = {key: facts[key] for key in ("map", "camera", "style")}
    return Clip(name, frames_THWC, targets, float(facts["fps"]), tags)


def _read_manifest(place: Path) -> dict[str, str]:
    path = place / "manifest.json"
    if not path.exists():
        return {}
    try:
        manifest = json.loads(path.read_text())
    except ValueError:
        _log.warning("%s is damaged; recording its clips anew", path)
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
