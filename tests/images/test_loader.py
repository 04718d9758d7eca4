"""Images decoded ahead by threads and by processes: the same in the same order, and every end of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import cycle
from pathlib import Path

import fakes
import pytest
import torch
from checkout import python_path
from pictures import whose
from PIL import Image

from csp_index.errors import ModelError, SettingError, SourceError
from csp_index.images.decode import ImageFailure, ImageRef
from csp_index.images.loader import Prepared, decoded, prepare, stacked, workers_for


def fail(image: Image.Image) -> torch.Tensor:
    raise RuntimeError("out of luck")


PREPROCESS = (fakes.encoder().preprocess, whose)


@pytest.fixture
def refs(tmp_path: Path) -> list[ImageRef]:
    """Fifteen images, a file that is none, one that is missing, and three members of a tar shard."""
    folder = fakes.write_images(tmp_path / "images", 15)
    (folder / "a" / "broken.png").write_bytes(b"not a picture")
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for number, path in enumerate(sorted(folder.rglob("img*.png"))[:3]):
            shard.add(path, f"{number}.png")
    uris = [str(path) for path in sorted(folder.rglob("*.png"))] + ["/nowhere.png"]
    uris += [f"{tmp_path}/shard.tar#{number}.png" for number in range(3)]
    return [ImageRef(uri, {"place": place}) for place, uri in enumerate(uris)]


def trickle(refs: list[ImageRef]) -> Iterator[ImageRef]:
    """Yield the images again and again, but leave a starting process some time."""
    for ref in cycle(refs):
        yield ref
        time.sleep(0.04)


def comparable(item: Prepared | ImageFailure) -> object:
    if isinstance(item, ImageFailure):
        return item
    return item.ref, item.sha256, item.width, item.height, item.thumbnail, item.pixels[0].tolist()


def test_threads_keep_the_order_and_put_failures_in_their_places(refs: list[ImageRef]) -> None:
    found = list(decoded(refs, PREPROCESS))
    assert [item.ref if isinstance(item, Prepared) else item.uri for item in found] == [
        ref.uri if isinstance(item, ImageFailure) else ref for ref, item in zip(refs, found, strict=True)
    ]
    assert [isinstance(item, ImageFailure) for item in found].count(True) == 2
    sound = next(item for item in found if isinstance(item, Prepared))
    with Image.open(sound.ref.uri) as image:
        assert torch.equal(sound.pixels[0], PREPROCESS[0](image))


def test_processes_take_over_from_threads_and_give_the_same_and_a_killed_one_is_told(refs: list[ImageRef]) -> None:
    wanted = [comparable(item) for item in decoded(refs, PREPROCESS)]
    owners = set()
    stream = decoded(trickle(refs), PREPROCESS, workers=1)
    for place, item in enumerate(stream):
        assert comparable(item) == wanted[place % len(wanted)]
        if isinstance(item, Prepared):
            owners.add(int(item.pixels[1]))
            if owners - {os.getpid()} and place % len(wanted) == len(wanted) - 1:
                break
    assert os.getpid() in owners, "nobody waits for a process to start"
    assert len(owners) == 2
    os.kill((owners - {os.getpid()}).pop(), signal.SIGKILL)
    with pytest.raises(SourceError, match="was killed, perhaps for want of memory") as error:
        for _ in stream:
            pass
    assert "\n" not in str(error.value)


def test_leaving_early_waits_for_no_process_to_start(refs: list[ImageRef]) -> None:
    with closing(decoded(refs, PREPROCESS, workers=2)) as stream:
        next(stream)


def test_a_preprocessing_that_cannot_be_sent_is_told(refs: list[ImageRef]) -> None:
    with pytest.raises(SettingError, match="--decode-workers 0"):
        next(decoded(refs, [lambda image: torch.zeros(1)], workers=1))


def test_a_preprocessing_that_fails_is_a_failure_of_that_image(refs: list[ImageRef]) -> None:
    uri = refs[0].uri.replace("broken", "img00001")
    for preprocess, reason in (
        (fail, "RuntimeError: out of luck"),
        (str, "it returns str, expected a tensor [C, H, W]"),
    ):
        failure = prepare(ImageRef(uri), None, [*PREPROCESS, preprocess], 128)
        assert failure == ImageFailure(uri, f"the preprocessing of a model fails: {reason}", by_model=True)


def test_inputs_of_several_shapes_are_no_batch() -> None:
    with pytest.raises(ModelError, match=r"several shapes \(\(3, 4\), \(3, 5\)\)"):
        stacked([torch.zeros(3, 4), torch.zeros(3, 5)])


@pytest.mark.parametrize(("cores", "images", "workers"), [(2, 10**6, 0), (16, 100, 0), (16, 10**6, 8), (6, 10**4, 3)])
def test_processes_are_started_unasked_for_many_images_on_many_cores(
    cores: int, images: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    assert workers_for(images, PREPROCESS) == workers
    assert workers_for(images, [lambda image: torch.zeros(1)]) == 0


@pytest.mark.parametrize(("cores", "images", "workers"), [(1, 10**6, 0), (16, 100, 0), (2, 256, 1), (64, 10**6, 16)])
def test_where_a_gpu_waits_for_images_all_cores_but_one_decode(
    cores: int, images: int, workers: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    assert workers_for(images, PREPROCESS, gpu=True) == workers
    assert not caplog.records
    assert workers_for(images, [lambda image: torch.zeros(1)], gpu=True) == 0
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == (
        ["images are decoded by threads, for which the GPU may wait"] if workers else []
    )


SCRIPT = """
import itertools, os, sys
from csp_index.images.loader import decoded
from csp_index.images.decode import ImageRef
from pictures import whose

print("started", flush=True)  # a second time, if a process ran this script again
for item in decoded(itertools.cycle([ImageRef(sys.argv[1])]), [whose], workers=1):
    if int(item.pixels[0]) != os.getpid():
        print(int(item.pixels[0]), flush=True)
        break
sys.stdin.read() if sys.argv[2] == "wait" else None
"""


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return b") Z " not in Path(f"/proc/{process}/stat").read_bytes() if Path("/proc/self").exists() else True


@pytest.mark.slow
@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGINT])
def test_a_process_ends_with_its_parent_and_runs_no_script_again(tmp_path: Path, way: signal.Signals) -> None:
    picture = fakes.write_images(tmp_path, 1) / "b" / "img00000.png"
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    parent = subprocess.Popen(
        [sys.executable, str(script), str(picture), "wait"],
        env=os.environ | {"PYTHONPATH": python_path()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    first, worker = parent.stdout.readline(), int(parent.stdout.readline())
    assert first == "started\n"
    assert alive(worker)
    parent.send_signal(way)
    told = parent.communicate(timeout=60)[1]
    ended = time.monotonic() + 30
    while alive(worker) and time.monotonic() < ended:
        time.sleep(0.05)
    assert not alive(worker)
    assert way == signal.SIGKILL or "leaked" not in told
