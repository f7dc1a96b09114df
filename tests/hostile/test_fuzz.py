"""Random damage to every kind of file that may come from a stranger.

Each kind is tried in a process of its own: whatever happens there, a crash, a hang or the use of
too much memory, is found, and the input that did it is kept.
"""

import base64
import io
import json
import logging
import multiprocessing
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import traceback
import warnings
import zipfile
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlencode

import cv2
import hypothesis
import numpy as np
import pytest
import torch
import yaml
from hypothesis import strategies as st
from mutations import ODD_VALUES, changed_bytes, changed_trees, changed_words

from oculox.cli.main import main
from oculox.config import config_to_dict, load_config
from oculox.data import image
from oculox.data.image import decode_image, image_size
from oculox.errors import CheckpointError, DataError, OculoxError
from oculox.exporting.job import ExportOptions
from oculox.exporting.run import export_model
from oculox.models import build_model
from oculox.postprocess import DetectSettings
from oculox.runtime.exported import InGraphNms
from oculox.runtime.open_model import open_model
from oculox.weights import build_network, load_weights
from oculox.weights.checkpoint import save_checkpoint
from oculox.weights.convert import convert_weights
from onnx_files import HEAD, HEAD_TENSORS, model
from red_images import RedBackend, red_image
from specs import make_weights

INPUTS = int(os.environ.get("OCULOX_FUZZ_INPUTS", "10000"))
SECONDS = 10
MEMORY = 2 << 30


def run(*words):
    """A command, as in a terminal; it must end with an exit code."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    # The stream of errors of a real process shows what cannot be encoded.
    streams[1].reconfigure(errors="backslashreplace")
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = main([str(word) for word in words])
    said = streams[1].buffer.getvalue().decode()
    assert code in (0, 1, 2), (code, said)
    assert "Traceback" not in said, said
    assert code != 1 or "error" in said or streams[0].buffer.getvalue(), "failed without a word"


class Json:
    """COCO JSON, through the check."""

    share = 5

    def __init__(self, folder, data):
        self.root = folder / "data"
        shutil.copytree(data, self.root)
        self.path = self.root / "annotations/instances_val2017.json"
        (self.root / "annotations/instances_train2017.json").unlink()
        self.good = self.path.read_bytes()
        tree = json.loads(self.good)
        self.inputs = st.one_of(
            changed_trees(tree).map(lambda t: json.dumps(t).encode()),
            changed_trees(tree).map(lambda t: json.dumps(t).encode()),
            changed_bytes(self.good),
            st.integers(1, 100_000).map(lambda n: b"[" * n),
            st.integers(1, 100_000).map(lambda n: b'{"images":' * n),
        )

    def __call__(self, data):
        self.path.write_bytes(data)
        run("data", "check", self.root)


class Voc:
    """Pascal VOC XML, through the check."""

    share = 4

    def __init__(self, folder, data):
        self.root = folder / "voc"
        (self.root / "Annotations").mkdir(parents=True)
        (self.root / "JPEGImages").mkdir()
        cv2.imwrite(str(self.root / "JPEGImages/a.png"), np.zeros((40, 60, 3), np.uint8))
        self.path = self.root / "Annotations/a.xml"
        sides = (("xmin", 3), ("ymin", 4), ("xmax", 20), ("ymax", 30))
        box = " ".join(f"<{key}> {value} </{key}>" for key, value in sides)
        box = f"<bndbox> {box} </bndbox>"
        good = (
            "<annotation> <filename> a.png </filename> <size> <width> 60 </width> "
            "<height> 40 </height> <depth> 3 </depth> </size> <object> <name> cat </name> "
            f"<difficult> 0 </difficult> {box} </object> <object> <name> dog </name> {box} "
            "</object> </annotation>"
        )
        self.good = good.encode()
        self.inputs = st.one_of(
            changed_words(good),
            changed_words(good),
            changed_bytes(self.good),
            st.integers(1, 200_000).map(lambda n: b"<a>" * n),
            st.integers(1, 50_000).map(lambda n: b"<a>" * n + b"</a>" * n),
        )

    def __call__(self, data):
        self.path.write_bytes(data)
        run("data", "check", self.root)


def yolo_root(folder):
    root = folder / "yolo"
    for name in ("images/train", "labels/train"):
        (root / name).mkdir(parents=True)
    cv2.imwrite(str(root / "images/train/a.png"), np.zeros((40, 60, 3), np.uint8))
    (root / "labels/train/a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (root / "data.yaml").write_text("train: images/train\nnames: [a, b]\n")
    return root


class YoloLabels:
    """YOLO label files, through the check."""

    share = 4

    def __init__(self, folder, data):
        self.root = yolo_root(folder)
        good = "0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.9 0.1 0.9 0.9\n0 0.3 0.4 0.1 0.1"
        self.good = good.encode()
        self.inputs = st.one_of(changed_words(good), changed_words(good), changed_bytes(self.good))

    def __call__(self, data):
        (self.root / "labels/train/a.txt").write_bytes(data)
        run("data", "check", self.root)


YAML_TREE = {
    "path": ".",
    "train": "images/train",
    "val": ["images/train"],
    "names": {0: "a", 1: "b"},
}
ODD_YAML = [
    *("&a [*a]", "a: &a {b: *a}", "!!int", "!!timestamp x", "2001-99-99", "? [a]\n: b"),
    *("!!float x", "!!binary x", "<<: 3", "<<: [a]", "? {a: b}\n: c", "!!set {a, b}", "1: 2\na: b"),
    "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "\n".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in pairwise("abcdefghi")),
]


def yaml_inputs(tree):
    odd = st.sampled_from(ODD_YAML)
    return st.one_of(
        changed_trees(tree).map(lambda t: yaml.safe_dump(t).encode("utf-8", "surrogatepass")),
        changed_trees(tree).map(lambda t: yaml.safe_dump(t).encode("utf-8", "surrogatepass")),
        changed_bytes(yaml.safe_dump(tree).encode()),
        odd.map(str.encode),
        st.tuples(st.sampled_from(sorted(tree)), odd).map(
            lambda p: f"{p[0]}:\n  {p[1]}".replace("\n", "\n  ").encode()
        ),
        st.integers(1, 20_000).map(lambda n: b"[" * n),
        st.integers(1, 2_000).map(lambda n: b"train: " + b"{a: " * n + b"}" * n),
    )


class YoloYaml:
    """`data.yaml`, through the check."""

    share = 4

    def __init__(self, folder, data):
        self.root = yolo_root(folder)
        self.good = yaml.safe_dump(YAML_TREE).encode()
        self.inputs = yaml_inputs(YAML_TREE)

    def __call__(self, data):
        if any(word in data for word in (b"/dev", b"/etc", b": /", b"- /", b"..")):
            return  # its paths may lead anywhere, and be large there
        (self.root / "data.yaml").write_bytes(data)
        run("data", "check", self.root)


class YoloList:
    """Lists of images, through the check."""

    share = 2

    def __init__(self, folder, data):
        self.root = yolo_root(folder)
        (self.root / "data.yaml").write_text("train: list.txt\nnames: [a, b]\n")
        good = "images/train/a.png\n./images/train/a.png\nimages/train/b.png"
        self.good = good.encode()
        self.inputs = st.one_of(changed_words(good), changed_bytes(self.good))

    def __call__(self, data):
        (self.root / "list.txt").write_bytes(data)
        run("data", "check", self.root)


class Recipe:
    """Recipes, through `oculox config`."""

    share = 4

    def __init__(self, folder, data):
        self.path = folder / "recipe.yaml"
        tree = {"extends": "yolox-nano", **config_to_dict(load_config("yolox-nano"))}
        self.good = yaml.safe_dump(tree).encode()
        self.inputs = yaml_inputs(tree)

    def __call__(self, data):
        self.path.write_bytes(data)
        run("config", self.path)


class WeightsFile:
    """A weights file, through `oculox weights info`, into a network, and one image through that."""

    share = 3
    suffix = ""

    def __init__(self, folder, weights):
        self.path = folder / f"file{self.suffix}"
        good = folder / f"good{self.suffix}"
        convert_weights(weights, good)
        self.good = good.read_bytes()
        self.inputs = self.variants()

    def variants(self):
        return changed_bytes(self.good, within=4000)

    def __call__(self, data):
        self.path.write_bytes(data)
        run("weights", "info", self.path)
        with suppress(OculoxError):
            network = build_network(load_weights(self.path))
            with torch.inference_mode():
                network(torch.zeros(1, 3, 64, 64))


class Safetensors(WeightsFile):
    """Oculox's `.safetensors`, its description too."""

    suffix = ".safetensors"

    def variants(self):
        size = 8 + int.from_bytes(self.good[:8], "little")
        header = json.loads(self.good[8:size])

        def join(tree):
            text = json.dumps(tree).encode()
            return len(text).to_bytes(8, "little") + text + self.good[size:]

        def described(meta):
            changed = {k: v for k, v in header["__metadata__"].items() if k != "sha256"}
            return join({**header, "__metadata__": {**changed, "meta": json.dumps(meta)}})

        meta = json.loads(header["__metadata__"]["meta"])
        return st.one_of(
            super().variants(),
            changed_trees(header).map(join),
            changed_trees(meta).map(described),
            st.integers(1, 50_000).map(
                lambda n: join({"__metadata__": {**header["__metadata__"], "meta": "[" * n}})
            ),
        )


class MindSpore(WeightsFile):
    """MindSpore's checkpoints."""

    suffix = ".ckpt"


class Onnx(WeightsFile):
    """ONNX files that are read as weights."""

    suffix = ".onnx"

    def __init__(self, folder, weights):
        pytest.importorskip("onnx")
        self.path = folder / "file.onnx"
        self.good = model(HEAD, HEAD_TENSORS)
        self.inputs = self.variants()


def rezipped(good, pickled):
    """A PyTorch archive with another pickle in it, and checksums that are right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
    return out.getvalue()


def odd_tensors(tensor):
    """Tensors that are none of a network, some without the memory of their shape."""
    return [
        tensor.expand(10**9, *tensor.shape) if tensor.ndim < 4 else tensor.to_sparse(),
        tensor.new_zeros(1).expand(10**9, 3, 3, 3),
        tensor.new_zeros(()).expand(tensor.shape),
        tensor.half(),
        tensor.double(),
        tensor.float().to(torch.float8_e4m3fn),
        torch.zeros((), device="meta").expand(tensor.shape),
        tensor.to(torch.complex64),
        tensor.to(torch.int64),
        tensor.to(torch.bool),
        torch.full_like(tensor, float("nan"), dtype=torch.float32),
        torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
        torch.zeros(0, 2**40),
        torch.sparse_coo_tensor(
            torch.zeros(2, 1, dtype=torch.int64), torch.ones(1), (2**31, 2**31)
        ),
    ]


class Torch(WeightsFile):
    """`.pt` files with training state: damaged, and whole with odd content."""

    share = 6
    suffix = ".pt"

    def variants(self):
        content = torch.load(io.BytesIO(self.good), weights_only=True)
        with zipfile.ZipFile(io.BytesIO(self.good)) as archive:
            [name] = [n for n in archive.namelist() if n.endswith("data.pkl")]
            pickled = archive.read(name)

        def saved(tree, **options):
            buffer = io.BytesIO()
            torch.save(tree, buffer, **options)
            return buffer.getvalue()

        @st.composite
        def odd_states(draw):
            state = dict(content["state"])
            key = draw(st.sampled_from(sorted(state)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                state[key] = draw(st.sampled_from(odd_tensors(state[key])))
            kind = draw(st.integers(0, 2))
            return saved(({**content, "state": state}, {"model": state}, state)[kind])

        return st.one_of(
            super().variants(),
            changed_bytes(pickled, within=4000).map(lambda data: rezipped(self.good, data)),
            changed_trees(content["meta"]).map(lambda meta: saved({**content, "meta": meta})),
            changed_trees({k: v for k, v in content.items() if k != "state"}).map(saved),
            odd_states(),
            changed_bytes(saved(content, _use_new_zipfile_serialization=False), within=4000),
        )


class Megvii(Torch):
    """The official project's `.pth` files."""

    share = 3
    suffix = ".pth"

    def variants(self):
        content = torch.load(io.BytesIO(self.good), weights_only=True)

        @st.composite
        def odd_states(draw):
            state = dict(content["model"])
            key = draw(st.sampled_from(sorted(state)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                state[key] = draw(st.sampled_from(odd_tensors(state[key])))
            buffer = io.BytesIO()
            torch.save({**content, "model": state}, buffer)
            return buffer.getvalue()

        return odd_states()


class Images:
    """Images of every format that is written here, and headers that promise too much."""

    share = 8

    def __init__(self, folder, weights):
        picture = np.random.default_rng(0).integers(0, 255, (24, 40, 3), np.uint8)
        picture = cv2.resize(picture, (80, 48))
        good = [
            np.asarray(cv2.imencode(suffix, picture)[1]).tobytes()
            for suffix in (".jpg", ".png", ".bmp", ".webp", ".tiff", ".gif", ".ppm", ".jp2")
            if cv2.haveImageWriter(f"a{suffix}")
        ]
        progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
        good.append(cv2.imencode(".jpg", picture, progressive)[1].tobytes())
        good.append(cv2.imencode(".png", picture.astype(np.uint16) * 256)[1].tobytes())
        bombs = [b"P6\n%d %d\n255\n" % (n, n) + bytes(100) for n in (30_000, 60_000, 2**31)]
        for suffix, sizes in (("tiff", b"\x01\x01"), ("jp2", b"ihdr")):
            data = np.asarray(cv2.imencode(f".{suffix}", picture)[1]).tobytes()
            at = data.index(sizes)
            bombs += [data[: at + n] + b"\x00\x00\xff\xf0" + data[at + n + 4 :] for n in (4, 8)]
        self.inputs = st.one_of(
            *(changed_bytes(data, within=120) for data in good),
            st.sampled_from(bombs),
            st.binary(max_size=200),
        )

    def __call__(self, data):
        for read in (decode_image, image_size, partial(decode_image, allow_truncated=True)):
            with suppress(OculoxError):
                read(data, where="image")


def http(body, *, query="", kind="image/png"):
    """A request that asks for the objects in an image."""
    head = f"POST /v1/detect?{query} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def parameters(names):
    """Queries with odd values."""
    pairs = st.tuples(st.sampled_from(names), ODD_VALUES.map(str))
    return st.lists(pairs, min_size=1, max_size=4).map(
        lambda query: urlencode(query, errors="surrogatepass")
    )


class Requests:
    """HTTP requests to the service, which has to answer the next good one as before."""

    share = 5

    def __init__(self, folder, data):
        service_client = pytest.importorskip("service_client")
        self.log = io.StringIO()
        logging.basicConfig(stream=self.log, level=logging.WARNING, force=True)
        self.service = ExitStack()
        self.client = self.service.enter_context(service_client.serving(RedBackend()))
        self.good = service_client.encoded(red_image())
        self.expected = self.client.detect(self.good).text
        names = ["conf", "iou", "classes", "agnostic_nms", "max_det", "format", "image_id"]
        part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
        form = part + b"Content-Type: image/png\r\n\r\n" + self.good + b"\r\n--x--\r\n"
        text = {"image": base64.b64encode(self.good).decode()}
        head, _, _ = http(self.good).decode("latin-1").partition("\r\n\r\n")
        more = "\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\nX-Api-Key: a"
        self.inputs = st.one_of(
            parameters(names).map(lambda query: http(self.good, query=query)),
            changed_bytes(http(self.good), within=250),
            changed_words((head + more).replace("\r\n", "\n")).map(
                lambda lines: lines.replace(b"\n", b"\r\n") + b"\r\n\r\n" + self.good
            ),
            changed_bytes(self.good, within=120).map(http),
            changed_bytes(form, within=120).map(
                partial(http, kind="multipart/form-data; boundary=x")
            ),
            st.one_of(changed_trees(text).map(json.dumps), st.just("[" * 100_000)).map(
                lambda body: http(body.encode(), kind="application/json")
            ),
        )

    def __call__(self, data):
        self.log.seek(0)
        self.log.truncate()
        with self.client.socket() as line:
            answer = b""
            with suppress(ConnectionError):
                line.sendall(data)
                line.settimeout(0.2)  # the service may wait for more
                with suppress(TimeoutError):
                    answer = line.recv(1 << 16)
                line.shutdown(socket.SHUT_WR)
        assert not answer or answer.startswith(b"HTTP/1.1 ")
        assert b" 500 " not in answer.partition(b"\r\n")[0], answer
        assert self.client.detect(self.good).text == self.expected
        assert "Traceback" not in self.log.getvalue(), self.log.getvalue()

    def close(self):
        self.service.close()


class Exported:
    """An exported file that is opened and run."""

    share = 1
    options = ExportOptions(format="onnx")
    needs: tuple[str, ...] = ("onnx", "onnxscript", "onnxruntime")
    model = damaged = "model.onnx"

    def __init__(self, folder, weights):
        whole = weights.parent / f"{self.options.format}-{self.options.nms is not None}"
        if not whole.exists():
            export_model(load_weights(weights), self.options, whole / self.model)
        self.folder = Path(shutil.copytree(whole, folder / "exported"))
        self.path = self.folder / self.damaged
        self.good = self.path.read_bytes()
        self.inputs = st.one_of(
            changed_bytes(self.good, within=20_000),
            st.integers(0, 8 * len(self.good) - 1).map(self.with_flipped_bit),
        )

    def with_flipped_bit(self, number):
        data = bytearray(self.good)
        data[number // 8] ^= 1 << number % 8
        return bytes(data)

    def __call__(self, data):
        self.path.unlink()  # a model that is still open may read the old content
        self.path.write_bytes(data)
        with suppress(OculoxError):
            backend = open_model(self.folder / self.model)
            backend.detect(np.zeros((1, 3, 64, 64), np.uint8), DetectSettings())


class OnnxWithNms(Exported):
    """NMS inside: the metadata has more, and the graph too."""

    options = ExportOptions(format="onnx", nms=InGraphNms())


class TorchScript(Exported):
    """Read by PyTorch's C++."""

    options, needs = ExportOptions(format="torchscript"), ()
    model = damaged = "model.torchscript"


class Program(Exported):
    """Exported programs, read by PyTorch's Python."""

    options, needs = ExportOptions(format="pt2"), ()
    model = damaged = "model.pt2"


class OpenVino(Exported):
    """The graph."""

    options, needs = ExportOptions(format="openvino"), ("onnx", "onnxscript", "openvino")
    model = damaged = "model.xml"


class OpenVinoWeights(OpenVino):
    """What lies beside it."""

    damaged = "model.bin"


class Ncnn(Exported):
    """The graph."""

    options, needs = ExportOptions(format="ncnn"), ("ncnn", "pnnx")
    model, damaged = "model.ncnn", "model.ncnn/model.ncnn.param"


class NcnnWeights(Ncnn):
    """The weights."""

    damaged = "model.ncnn/model.ncnn.bin"


class NcnnMetadata(Ncnn):
    """The metadata beside them."""

    damaged = "model.ncnn/oculox.json"


EXPORTED = [
    *(Exported, OnnxWithNms, TorchScript, Program),
    *(OpenVino, OpenVinoWeights, Ncnn, NcnnWeights, NcnnMetadata),
]

KINDS = [
    *(Json, Voc, YoloLabels, YoloYaml, YoloList, Recipe),
    *(Torch, Megvii, Safetensors, MindSpore, Onnx, Images, Requests),
    *EXPORTED,
]

READ_BY_PYTHON = [Json, Voc, YoloLabels, YoloYaml, YoloList, Recipe, Torch, Safetensors, MindSpore]


class HangError(BaseException):
    """An input took too long; no handler of ordinary errors catches it."""


def hang(*_):
    raise HangError


def memory():
    """Bytes of addresses that this process uses, and bytes of memory that it holds."""
    pages = Path("/proc/self/statm").read_text().split()[:2]
    return tuple(int(number) * resource.getpagesize() for number in pages)


def attack(kind, folder, source, count, sender):
    """Try inputs until one does harm; in a process of its own."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(devnull, number)
    tried, target = 0, None
    try:
        target = kind(folder, source)
        used, held = memory()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, -1))
        signal.signal(signal.SIGALRM, hang)

        @hypothesis.settings(
            max_examples=count,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        )
        @hypothesis.given(target.inputs)
        def every(data):
            nonlocal tried
            tried += 1
            (folder / "input").write_bytes(data)
            signal.alarm(SECONDS)
            try:
                target(data)
            finally:
                signal.alarm(0)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            every()
        most = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10
        sender.send((tried, None, most - held))
    except BaseException:  # noqa: BLE001 - whatever it is, it is the finding
        lines = traceback.format_exc().splitlines()
        sender.send((tried, "\n".join(line[:300] for line in lines)[-6000:], 0))
        raise SystemExit(1) from None
    finally:
        if isinstance(target, Requests):
            target.close()


@pytest.fixture(scope="module")
def little_pt(tmp_path_factory):
    """A network of few channels."""
    config = load_config("yolox-nano", ["input.size=64", "model.width=0.0625"])
    torch.manual_seed(0)
    state = build_model(config.model, num_classes=2).state_dict()
    path = tmp_path_factory.mktemp("little") / "little.pt"
    save_checkpoint(path, make_weights(config, state, names=("a", "b")), training={"progress": {}})
    return path


def deep(text, times):
    return (text * times).encode()


BOMB = ODD_YAML[-1].encode()
# What did harm once.
CASES = [
    (Json, b'{"images": [{"id": 1, "file_name": "' + b"a" * 5000 + b'/b.png"}]}'),
    (Voc, b"<a><size><width>" + b"1" * 5000 + b"</width></size></a>"),
    *((YoloYaml, data) for data in (BOMB, deep("[", 20_000), b"a: 2001-99-99", b"a: !!int")),
    (YoloYaml, b"train: images/train\nnames: {0: a, b: c}"),
    (YoloYaml, b"path: " + b"a" * 5000 + b"\ntrain: images/train\nnames: [a]"),
    *((YoloList, data) for data in (b"\0/a.png", b"/", b"a" * 5000 + b".png")),
    *((Recipe, data) for data in (BOMB, b"train: " + BOMB, b"a: &a [*a]", deep("[", 20_000))),
    *((Recipe, data) for data in (b"train: {seed: 2001-99-99}", b"extends: !!timestamp x")),
]


@pytest.fixture(scope="module")
def targets(tiny_data, tmp_path_factory):
    """The targets, made when they are needed."""
    return {}


@pytest.mark.parametrize(("kind", "data"), CASES)
def test_what_did_harm_once(kind, data, targets, tiny_data, tmp_path_factory):
    if kind not in targets:
        targets[kind] = kind(tmp_path_factory.mktemp(kind.__name__), tiny_data)
    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        targets[kind](data)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("number", range(14))
def test_tensors_that_are_not_their_numbers(little_pt, tmp_path, number):
    content = torch.load(little_pt, weights_only=True)
    key = "head.cls_preds.0.weight"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        odd = odd_tensors(content["state"][key])[number]
        for name, tree in {"own": content, "plain": {"model": dict(content["state"])}}.items():
            tree["state" if name == "own" else "model"][key] = odd
            path = tmp_path / f"{name}.pt"
            torch.save(tree, path)
            with suppress(OculoxError):
                network = build_network(load_weights(path))
                network(torch.zeros(1, 3, 64, 64))


def test_a_file_that_promises_more_than_the_memory_holds(tmp_path):
    path, buffer = tmp_path / "a.pth", io.BytesIO()
    torch.save({"model": {}}, buffer, _use_new_zipfile_serialization=False)
    promised = (2**31).to_bytes(4, "little")
    path.write_bytes(
        buffer.getvalue().replace(b"X\x10\0\0\0protocol", b"X" + promised + b"protocol", 1)
    )
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory()[0] + (1 << 30), before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"a\.pth: damaged, or larger than the memory"):
            load_weights(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("kind", EXPORTED, ids=lambda kind: kind.__name__)
def test_a_damaged_export_is_refused_or_runs(kind, little_pt, tmp_path, capfd):
    for package in kind.needs:
        pytest.importorskip(package)
    target = kind(tmp_path, little_pt)
    capfd.readouterr()
    # Half of the bits are among the first thousands, where most of what is not weights lies.
    bits = np.random.default_rng(0).integers(0, 8 * np.array([20_000, len(target.good)]), (3, 2))
    for bit in bits.ravel():
        target(target.with_flipped_bit(int(bit) % (8 * len(target.good))))
    target(target.good[:-99])
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err


SIDE = b"\x04\0\x01\0\0\0\x40\x9c\0\0"


@pytest.mark.parametrize(
    "data",
    [
        b"P6\n40000 40000\n255\n",
        b"P5 #a\n  60000\n60000 255\n",
        b"II*\0\x08\0\0\0\x02\0" + b"\0\x01" + SIDE + b"\x01\x01" + SIDE,
        b"\xff\x4f\xff\x51\0\0\0\0\0\0\x9c\x40\0\0\x9c\x40",
        b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x16ihdr\0\0\x9c\x40\0\0\x9c\x40",
        b"\0\0\0\x20ftypavif\0\0\0\x14ispe\0\0\0\0\0\0\x9c\x40\0\0\x9c\x40",
    ],
)
def test_an_image_that_promises_too_much_is_not_decoded(data, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match="too large"):
        decode_image(data + bytes(200), where="image")


@pytest.mark.parametrize("kind", ["tiff", "ppm", "jp2", "avif"])
def test_an_image_says_its_size_before_it_is_decoded(kind, monkeypatch):
    picture = np.zeros((37, 53, 3), np.uint8)
    if not cv2.haveImageWriter(f"a.{kind}"):
        pytest.skip(f"this OpenCV writes no .{kind}")
    data = cv2.imencode(f".{kind}", picture)[1].tobytes()
    assert decode_image(data, where="image").shape == (37, 53, 3)
    monkeypatch.setattr(image, "MAX_PIXELS", 37 * 53 - 1)
    with pytest.raises(DataError, match="53 x 37"):
        decode_image(data, where="image")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_input_does_harm(kind, tiny_data, little_pt, tmp_path, record_property):
    source = little_pt if issubclass(kind, WeightsFile | Exported) else tiny_data
    for package in getattr(kind, "needs", ()):
        pytest.importorskip(package)
    count = -(-INPUTS * kind.share // sum(kind.share for kind in KINDS))
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=attack, args=(kind, tmp_path, source, count, sender)
    )
    process.start()
    sender.close()
    try:
        tried, report, grown = receiver.recv()
    except EOFError:
        tried, report, grown = 0, "the process crashed", 0
    process.join()
    at_fault = (tmp_path / "input").read_bytes() if (tmp_path / "input").exists() else b""
    assert report is None, f"{report}\nthe input: {at_fault[:2000]!r}"
    assert process.exitcode == 0
    assert tried >= count * 0.5
    record_property("reliability", f"{tried} inputs, at most {grown >> 20} MiB more than before")


@pytest.mark.slow
@pytest.mark.parametrize("kind", READ_BY_PYTHON, ids=lambda kind: kind.__name__)
def test_no_input_that_reaches_new_code_does_harm(
    kind, tiny_data, little_pt, tmp_path, record_property
):
    pytest.importorskip("atheris", reason="atheris is not installed")
    source = little_pt if issubclass(kind, WeightsFile) else tiny_data
    here, count = Path(__file__).parent, INPUTS // 10
    done = subprocess.run(
        [sys.executable, here / "by_coverage.py", kind.__name__, tmp_path, source, str(count)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((*sys.path, str(here)))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    said = done.stderr.decode(errors="replace")
    assert done.returncode == 0, f"{said[-6000:]}\nthe input is in {tmp_path}"
    [told] = re.findall(r"^Done (\d+) runs", said, re.MULTILINE)
    record_property("reliability", f"{told} inputs by coverage")
