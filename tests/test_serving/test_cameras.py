"""A server of many cameras: each is served as if it were alone, fairly, and every frame is accounted for."""

from __future__ import annotations

import threading
from time import sleep

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

import eventful
import policies
from eventful.errors import StreamError
from eventful.serving import CameraServer
from policies.protocol import GateObservation, Selection


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def preprocess(frames_BHWC: Tensor) -> Tensor:
    return frames_BHWC.permute(0, 3, 1, 2).float() / 255


def model(policy: policies.Policy | None = None) -> eventful.EventfulModel:
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=5, dynamic_img_size=True)
    return eventful.wrap(vit, policy or policies.Threshold(0.5), granularity="frame", on_resize="flush")


def film(seed: int, frames: int, side: int = 64) -> list[np.ndarray]:
    """A picture of which a quarter changes in every frame."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    out = []
    for k in range(frames):
        picture = picture.copy()
        picture[:32, 16 * (k % 2) : 16 * (k % 2) + 32] = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        out.append(picture)
    return out


def alone(frames: list[np.ndarray]) -> list[Tensor]:
    wrapped = model()
    with torch.inference_mode():
        return [wrapped(preprocess(torch.from_numpy(frame)[None])) for frame in frames]


@pytest.mark.parametrize("batch", [1, 3])
def test_each_camera_is_served_as_if_it_were_alone(batch: int) -> None:
    films = {name: film(seed, 6) for seed, name in enumerate(("door", "yard", "gate"))}
    server, found = CameraServer(model(), preprocess, batch=batch), {name: [] for name in films}
    for k in range(6):
        for name, frames in films.items():
            # The yard's camera is slower, and joins later.
            if name != "yard" or k in (1, 3, 5):
                server.hand_in(name, frames[k])
        while server.waiting:
            for served in server.serve():
                found[served.camera].append(served)
    for name, frames in films.items():
        shown = frames[1::2] if name == "yard" else frames
        assert [served.index for served in found[name]] == list(range(len(shown)))
        assert [served.flush for served in found[name]] == [True] + [False] * (len(shown) - 1)
        for served, expected in zip(found[name], alone(shown), strict=True):
            torch.testing.assert_close(served.outputs, expected, atol=1e-5, rtol=0)
    assert 0 < found["door"][3].macs_ratio < 1


def test_the_newest_frame_is_kept_and_the_others_are_counted() -> None:
    server = CameraServer(model(), preprocess, depth=2)
    for frame in film(0, 5):
        server.hand_in("door", frame)
    assert [served.index for _ in range(2) for served in server.serve()] == [3, 4]
    assert vars(server.counts) == {"received": 5, "served": 2, "dropped": 3}
    assert server.serve(timeout=0.01) == [] and server.waiting == 0


def test_whoever_waits_longest_is_served_first() -> None:
    server, frames = CameraServer(model(), preprocess), film(0, 4)
    for name in ("a", "b", "c"):
        server.hand_in(name, frames[0])
    # A fast camera does not push itself forward: its frame is replaced, and takes a new place.
    server.hand_in("a", frames[1])
    assert [served.camera for _ in range(3) for served in server.serve()] == ["b", "c", "a"]


def test_a_camera_that_has_left_begins_anew() -> None:
    server, frames = CameraServer(model(), preprocess), film(0, 4)
    for frame in frames[:2]:
        server.hand_in("door", frame)
        server.serve()
    server.hand_in("door", frames[2])
    server.leave("door")
    assert server.cameras == [] and server.counts.dropped == 1
    server.hand_in("door", frames[3])
    (served,) = server.serve()
    assert served.flush and served.index == 0
    with pytest.raises(KeyError, match="yard"):
        server.leave("yard")


@pytest.mark.parametrize("batch", [1, 4])
def test_frames_of_different_sizes_are_not_joined(batch: int) -> None:
    server = CameraServer(model(), preprocess, batch=batch)
    server.hand_in("small", film(0, 1)[0])
    server.hand_in("large", film(0, 1, side=96)[0])
    assert [len(server.serve()), len(server.serve())] == [1, 1]


def test_after_an_error_the_camera_begins_anew_and_the_others_go_on() -> None:
    class Moody(policies.Threshold):
        broken = False

        def select(self, observation: GateObservation) -> Selection:
            if self.broken:
                raise RuntimeError("moody")
            return super().select(observation)

    policy = Moody(0.5)
    server, frames = CameraServer(model(policy), preprocess), film(0, 3)
    for name in ("door", "yard"):
        server.hand_in(name, frames[0])
        server.serve()
    policy.broken = True
    server.hand_in("door", frames[1])
    with pytest.raises(RuntimeError, match="moody"):
        server.serve()
    policy.broken = False
    for name in ("door", "yard"):
        server.hand_in(name, frames[2])
    assert [served.flush for _ in range(2) for served in server.serve()] == [True, False]
    counts = server.counts
    assert (counts.received, counts.served, counts.dropped) == (5, 4, 1)


def test_frames_come_from_any_thread_and_none_is_lost() -> None:
    server, stopped, frames = CameraServer(model(), preprocess), threading.Event(), film(0, 2)

    def camera(name: int) -> None:
        for k in range(40):
            server.hand_in(name, frames[k % 2])
            sleep(0.002)
            if k % 13 == 12:
                server.leave(name)

    def all_cameras() -> None:
        threads = [threading.Thread(target=camera, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stopped.set()

    threading.Thread(target=all_cameras).start()
    served = sum(1 for _ in server.serve_until(stopped))
    while server.waiting:
        served += len(server.serve())
    counts = server.counts
    assert counts.received == 160 and counts.served == served and served + counts.dropped == 160


@pytest.mark.parametrize(("arguments", "message"), [({"depth": 0}, "depth"), ({"batch": 0}, "batch")])
def test_what_makes_no_sense_is_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CameraServer(model(), preprocess, **arguments)
    with pytest.raises(ValueError, match="camera door: a frame must be uint8"):
        CameraServer(model(), preprocess).hand_in("door", np.zeros((4, 4)))


def test_a_size_that_the_model_refuses_is_said() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1, dynamic_img_size=True)
    server = CameraServer(eventful.wrap(vit, policies.All()), preprocess)
    server.hand_in("door", film(0, 1)[0])
    server.serve()
    server.hand_in("door", film(0, 1, side=96)[0])
    with pytest.raises(StreamError, match="96"):
        server.serve()
