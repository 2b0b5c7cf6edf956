"""Checkpoints are read as data: the networks come back, and nothing in a file is executed."""

import functools
import io
import json
import os
import pickle
import random
import struct
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

import checkpoint_files as files  # noqa: E402

from stiffkit.diffusion import inert_pickle  # noqa: E402
from stiffkit.diffusion.checkpoint import (  # noqa: E402
    Checkpoint,
    CheckpointError,
    convert,
    load_checkpoint,
)

WATCHED = {
    "compile",
    "exec",
    "import",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.system",
    "pickle.find_class",
    "shutil.rmtree",
    "socket.connect",
    "subprocess.Popen",
}
SEEN = None


def audit(event, arguments):
    # NumPy reads the header of an array with ast.literal_eval, which parses: nothing is executed.
    parsed = event == "compile" and arguments[1] == "<unknown>"
    if SEEN is not None and event in WATCHED and not parsed:
        SEEN.append(event)


sys.addaudithook(audit)


class watched:
    """Fails if anything is imported, compiled, executed or spawned inside."""

    def __enter__(self):
        global SEEN
        SEEN = []

    def __exit__(self, *_):
        global SEEN
        seen, SEEN = SEEN, None
        assert not seen


@pytest.fixture(scope="module", autouse=True)
def everything_is_imported(tmp_path_factory):
    """What torch and safetensors import when first used is not the file's doing."""
    path = tmp_path_factory.mktemp("first") / "first.pkl"
    path.write_bytes(files.edm2_pickle()[0])
    load_checkpoint(path).build()
    convert(path, path.with_suffix(".safetensors"))
    load_checkpoint(path.with_suffix(".safetensors"))
    np.savez(path.with_suffix(".npz"), mu=np.zeros(2), sigma=np.eye(2))
    load_checkpoint(path.with_suffix(".npz"))


def denoised(net, n_channels, label_dim):
    x = torch.randn(2, n_channels, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return net(x, torch.tensor([0.3, 2.0]), torch.eye(label_dim)[:2])


@pytest.mark.parametrize("kind", ["EDM2", "SongUNet", "DhariwalUNet"])
def test_a_network_comes_back(tmp_path, kind):
    data, net = files.edm2_pickle() if kind == "EDM2" else files.edm_pickle(kind)
    path = tmp_path / "network.pkl"
    path.write_bytes(data)
    with watched():
        read = load_checkpoint(path)
    state = net.state_dict()
    assert list(read.state_dict) == list(state)
    assert all(torch.equal(v, state[k]) for k, v in read.state_dict.items())
    assert len(repr(read)) < 2000  # the weights are not printed
    built = read.build()
    assert built.dtype == (torch.float16 if kind == "EDM2" else torch.float32)
    n, m = (2, 3) if kind == "EDM2" else (3, 4)
    assert torch.equal(denoised(built, n, m), denoised(net.float().eval(), n, m))
    assert not any(p.requires_grad for p in built.parameters())

    convert(path, tmp_path / "network.safetensors")
    again = load_checkpoint(tmp_path / "network.safetensors")
    assert (again.network, again.arguments) == (read.network, read.arguments)
    assert again.encoder == read.encoder
    assert all(torch.equal(v, state[k]) for k, v in again.state_dict.items())
    assert torch.equal(denoised(again.build(), n, m), denoised(built, n, m))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["network.pkl", "network.safetensors"]


def test_encoder_constants(tmp_path):
    path = tmp_path / "network.pkl"
    path.write_bytes(files.edm2_pickle()[0])
    assert load_checkpoint(path).encoder == {
        "class_name": "StabilityVAEEncoder",
        "vae_name": "some/vae",
        "scale": [0.5, 0.25],
        "bias": [1, 2],
        "batch_size": 8,
    }


@pytest.mark.parametrize("protocol", [4, 5])
def test_pickle_protocols(tmp_path, protocol):
    net, init = files.edm2_network()
    content = {"ema": files.persistent_module(net, "Precond", **init)}
    path = tmp_path / "network.pkl"
    path.write_bytes(files.dumped(content, protocol))
    assert torch.equal(
        load_checkpoint(path).state_dict["unet.out_conv.weight"], net.unet.out_conv.weight
    )


def test_statistics(tmp_path):
    mean, cov = np.arange(3.0), np.eye(3)
    np.savez(tmp_path / "reference.npz", mu=mean, sigma=cov)
    read = load_checkpoint(str(tmp_path / "reference.npz"))
    assert np.array_equal(read.mean, mean)
    assert np.array_equal(read.cov, cov)
    with pytest.raises(CheckpointError, match="statistics, not a network"):
        convert(tmp_path / "reference.npz", tmp_path / "x.safetensors")
    for name, arrays, message in [
        ("names", {"mean": mean, "cov": cov}, "no archive of the arrays"),
        ("shapes", {"mu": mean, "sigma": np.eye(2)}, r"shapes \(3,\) and \(2, 2\)"),
        ("objects", {"mu": np.array([print]), "sigma": cov}, "allow_pickle=False"),
    ]:
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with watched(), pytest.raises(CheckpointError, match=f"{name}.npz: refused .*{message}"):
            load_checkpoint(tmp_path / f"{name}.npz")


def test_architectures_that_are_not_ours_are_refused(tmp_path):
    path = tmp_path / "network.pkl"
    path.write_bytes(files.edm2_pickle(clip_act=128)[0])
    with pytest.raises(CheckpointError, match=r"network\.pkl: refused .*clip_act = 128, not 256"):
        load_checkpoint(path)
    path.write_bytes(files.edm2_pickle(concat_balance=0.5, resample_filter=[1, 1])[0])
    load_checkpoint(path).build()
    for changes in (
        {"model_channels": 16},
        {"model_channels": 10**12},
        {"num_blocks": 10**12},
        {"num_blocks": "many"},
        {"channel_mult": 3},
        {"channel_mult": [1] * 50},
        {"spam": 1},
        {"img_resolution": -8},
        {"sigma_data": None},
    ):
        path.write_bytes(files.edm2_pickle(**changes)[0])
        read = load_checkpoint(path)
        with pytest.raises(CheckpointError, match=r"network\.pkl: .*arguments"):
            read.build()
    net, init = files.edm2_network()
    path.write_bytes(files.dumped({"ema": files.persistent_module(net, "VPPrecond", **init)}))
    read = load_checkpoint(path)
    assert read.network == "VPPrecond"
    with pytest.raises(CheckpointError, match="no network 'VPPrecond'"):
        read.build()


def refused(tmp_path, data, message="", name="bad.pkl"):
    """The file is refused with its name in the message; nothing is executed on the way."""
    path = tmp_path / name
    path.write_bytes(data)
    with watched(), pytest.raises((ValueError, OSError)) as caught:
        load_checkpoint(path)
    assert name in str(caught.value)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 2000


class Call:
    """Pickles to a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class State:
    """Pickles to a `__setstate__` of any object."""

    def __init__(self, function, arguments, state):
        self.parts = function, arguments, state

    def __reduce__(self):
        return self.parts


MARKER = "executed-by-a-pickle"
GADGETS = {
    "os.system": Call(os.system, f"touch {MARKER}"),
    "eval": Call(eval, f"open('{MARKER}', 'w')"),
    "exec": Call(exec, f"open('{MARKER}', 'w')"),
    "import": Call(__import__, "antigravity"),
    "open": Call(open, MARKER, "w"),
    "partial": State(functools.partial, (print,), (open, (MARKER, "w"), {}, None)),
    "getattr": Call(getattr, Call(__import__, "os"), "system"),
    "torch.load": Call(torch.load, MARKER),
    "load": Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {MARKER}"))),
    "numpy.load": Call(np.load, MARKER, None, True),
    "setstate of a module": State(torch.nn.Linear, (1, 1), {"forward": Call(os.getcwd)}),
    "ndarray of objects": np.array([Call(os.system, f"touch {MARKER}")], dtype=object),
    "codecs": Call(__import__("codecs").encode, "x", "latin1"),
}


@pytest.mark.parametrize("name", GADGETS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_gadgets_are_refused(tmp_path, monkeypatch, name, protocol):
    monkeypatch.chdir(tmp_path)
    net, init = files.edm2_network()
    for content in (
        GADGETS[name],
        {"ema": GADGETS[name]},
        {"ema": files.persistent_module(net, "Precond", **(init | {"spam": GADGETS[name]}))},
    ):
        refused(tmp_path, files.dumped(content, protocol), "refused")
    assert not (tmp_path / MARKER).exists()


def hidden_in_a_storage(payload):
    """A tensor whose storage is another pickle, which torch would load without limits."""
    value = torch._utils._rebuild_tensor_v2
    storage = Call(torch.storage._load_from_bytes, payload)
    return Call(value, storage, 0, (1,), (1,), False, {})


def test_nested_torch_pickles_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    archive = io.BytesIO()
    torch.save({"x": torch.ones(1)}, archive)
    older = io.BytesIO()
    torch.save({"x": torch.ones(1)}, older, _use_new_zipfile_serialization=False)
    evil = pickle.dumps(Call(os.system, f"touch {MARKER}"), protocol=2)
    good = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2)
    for payload in (
        archive.getvalue(),
        older.getvalue(),
        evil,
        good + evil,
        good + pickle.dumps({"little_endian": True}, protocol=2) + evil,
        b"",
        good,
    ):
        net, init = files.edm2_network()
        module = files.persistent_module(net, "Precond", **init)
        module.state["_parameters"]["w"] = hidden_in_a_storage(payload)
        refused(tmp_path, files.dumped({"ema": module}), "refused")
    assert not (tmp_path / MARKER).exists()


def tensor_of(size, stride, offset=0, numbers=4):
    storage = torch.ones(numbers).untyped_storage()
    storage = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float, _internal=True)
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, {})


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((5,), (1,), 0),
        ((4,), (1,), 1),
        ((2, 2), (3, 3), 0),
        ((10**12,), (0,), 0),
        ((2,), (-1,), 1),
        ((2,), (1,), -1),
        ((2,), (1, 1), 0),
        ((1,) * 9, (1,) * 9, 0),
        (("2",), (1,), 0),
        ((10**5000,), (1,), 0),
        (2, 1, 0),
        (((((2,),),),), (1,), 0),
    ],
)
def test_tensors_outside_of_their_storage_are_refused(tmp_path, size, stride, offset):
    net, init = files.edm2_network()
    module = files.persistent_module(net, "Precond", **init)
    module.state["_parameters"]["w"] = tensor_of(size, stride, offset)
    refused(tmp_path, files.dumped({"ema": module}), "refused")


def test_tensors_inside_of_their_storage_are_views_of_it(tmp_path):
    net, init = files.edm2_network()
    module = files.persistent_module(net, "Precond", **init)
    module.state["_parameters"]["w"] = tensor_of((2,), (2,), 1)
    module.state["_parameters"]["none"] = tensor_of((0, 3), (3, 1), 0, numbers=0)
    path = tmp_path / "network.pkl"
    path.write_bytes(files.dumped({"ema": module}))
    state = load_checkpoint(path).state_dict
    assert state["w"].tolist() == [1, 1]
    assert state["none"].shape == (0, 3)


def bombs():
    proto = b"\x80\x04"
    yield "deep lists", proto + b"]" * 20_000 + b"a" * 19_999 + b"."
    yield "deep tuples", proto + b")" + b"\x85" * 30_000 + b"."
    yield "deep tuple as a key", proto + b"})" + b"\x85" * 30_000 + b"Ns."
    yield "deep tuple in a set", proto + b"\x8f()" + b"\x85" * 30_000 + b"\x90."
    yield "many instructions", proto + b"N0" * 30_000 + b"."
    yield "many marks", proto + b"(" * 60_000
    yield "huge string", proto + b"\x8d" + struct.pack("<Q", 1 << 62) + b"x"
    yield "huge bytes", proto + b"\x8e" + struct.pack("<Q", 1 << 40) + b"x"
    yield "bytes of negative length", proto + b"\x8b" + struct.pack("<i", -5) + b"x"
    yield "huge memo entry", proto + b"Nr" + struct.pack("<I", (1 << 32) - 1) + b"."
    yield "huge number", proto + b"\x8b" + struct.pack("<i", 200_000) + b"\x7f" * 200_000 + b"."
    yield "text of protocol 0", b"\x80\x02I" + b"9" * 100_000 + b"\n."
    yield "name with escapes", b"\x80\x02co\\hs\nsystem\n."
    yield "name without end", b"\x80\x02c" + b"a" * 500_000
    yield "nothing on the stack", proto + b"."
    yield "no mark", proto + b"t."
    yield "append to nothing", proto + b"Na."
    yield "call of a number", proto + b"K\x01)R."
    yield "extension", proto + b"\x82\x01."
    yield "persistent id", proto + b"NQ."
    yield "out-of-band buffer", b"\x80\x05\x97."
    yield "no utf-8", proto + b"\x8c\x02\xff\xff."
    yield "empty memo entry", proto + b"h\x07."
    yield "no instruction", proto + b"\xff."
    yield "itself", proto + b"]\x94h\x00a."
    yield "dict of itself", proto + b"}\x94\x8c\x03ema\x94h\x00s."


@pytest.mark.parametrize("name", [name for name, _ in bombs()])
def test_bombs_are_refused_within_bounds(tmp_path, monkeypatch, name):
    data = dict(bombs())[name]
    monkeypatch.setattr(inert_pickle, "MAX_INSTRUCTIONS", 50_000)
    tracemalloc.start()
    try:
        refused(tmp_path, data, "refused")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # An instruction makes few objects, of some hundred bytes; half a million are allowed.
    assert peak < 40e6


def test_a_laugh_of_a_billion_is_refused(tmp_path):
    """Forty containers, each holding the next one twice: 2⁴⁰ modules, if one walks them all."""
    net, init = files.edm2_network()
    module = files.persistent_module(net, "Precond", **init)
    inner = module.state["_modules"]["unet"]
    for _ in range(40):
        inner = files.Persistent("Twice", {"_modules": {"a": inner, "b": inner}})
    refused(tmp_path, files.dumped({"ema": files.Persistent("Precond", inner.state)}), "refused")
    nested = 0
    for _ in range(40):
        nested = [nested, nested]
    refused(tmp_path, files.edm2_pickle(spam=nested)[0], "refused more than")
    loop = []
    loop.append(loop)
    refused(tmp_path, files.edm2_pickle(spam=loop)[0], "refused more than 64 levels")


def test_names_are_strings(tmp_path):
    net, init = files.edm2_network()
    module = files.persistent_module(net, "Precond", **init)
    module.state["_parameters"][10**5000] = tensor_of((1,), (1,))
    refused(tmp_path, files.dumped({"ema": module}), "refused a int as a key")
    refused(tmp_path, files.edm2_pickle(spam={(): 1})[0], "refused a tuple as a key")
    refused(tmp_path, files.dumped({"ema": {1.5, 2.5}}), "refused a set of")


def test_a_zip_bomb_is_refused(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        zeros = io.BytesIO()
        np.save(zeros, np.zeros(2_000_000))
        archive.writestr("mu.npy", zeros.getvalue())
        archive.writestr("sigma.npy", zeros.getvalue())
    refused(tmp_path, file.getvalue(), "an archive that grows from", "bomb.npz")


def test_a_header_that_declares_too_much_is_refused(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("mu", "sigma"):
            header = io.BytesIO()
            shape = {"descr": "<f8", "fortran_order": False, "shape": (10**15,)}
            np.lib.format.write_array_header_1_0(header, shape)
            archive.writestr(f"{name}.npy", header.getvalue())
    refused(tmp_path, file.getvalue(), "refused", "bomb.npz")


def test_other_files_are_refused(tmp_path):
    for name, data in {
        "empty": b"",
        "text": b"hello, world",
        "zip.npz": b"PK\x03\x04" + bytes(100),
        "short.safetensors": struct.pack("<Q", 10) + b"{",
        "huge.safetensors": struct.pack("<Q", 1 << 60) + b"{}",
        "torch.pt": pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2),
    }.items():
        refused(tmp_path, data, name=name)
    with pytest.raises(OSError, match="missing"):
        load_checkpoint(tmp_path / "missing.pkl")
    with pytest.raises(OSError, match="directory"):
        load_checkpoint(tmp_path)


def test_safetensors_need_their_metadata(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "network.safetensors"
    for metadata in (
        None,
        {"network": "EDM2"},
        {"network": "EDM2", "arguments": "{"},
        {"network": "EDM2", "arguments": "[" * 100_000},
        {"network": "EDM2", "arguments": "[]"},
    ):
        save_file({"x": torch.ones(1)}, path, metadata)
        with pytest.raises(CheckpointError, match=r"network\.safetensors: refused .*metadata"):
            load_checkpoint(path)
    arguments = {"img_resolution": 8, "img_channels": 1}
    save_file({"x": torch.ones(1)}, path, {"network": "EDM2", "arguments": json.dumps(arguments)})
    with pytest.raises(CheckpointError, match="arguments"):
        load_checkpoint(path).build()


def mutated(data, rng):
    """Break the bytes of a file in one of the ways files break, or are broken."""
    data = bytearray(data)
    kind = rng.randrange(6)
    if kind == 0:
        return bytes(data[: rng.randrange(len(data))])
    if kind == 1:  # bits
        for _ in range(rng.choice([1, 1, 2, 8, 64])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 2:  # other instructions, in the first and the last part, where the program is
        for _ in range(rng.choice([1, 2, 4])):
            data[rng.randrange(min(len(data), 3000))] = rng.choice(
                b"(.0N}]a)RbRQctu\x85\x93\x94hrj"
            )
    elif kind == 3:  # a length
        i = rng.randrange(len(data) - 8)
        data[i : i + 4] = struct.pack("<i", rng.choice([-1, 2**31 - 1, 0, rng.randrange(10**6)]))
    elif kind == 4:  # a part moves
        i, j = sorted(rng.randrange(len(data)) for _ in range(2))
        k = rng.randrange(len(data))
        data[k:k] = data[i : min(j, i + 2000)]
    else:  # a part is missing
        i = rng.randrange(len(data))
        del data[i : i + rng.choice([1, 2, 5, 100])]
    return bytes(data)


def fuzz(tmp_path, cases, seed):
    """Load broken files: each is read or refused with its name, and nothing is executed."""
    rng = random.Random(seed)
    np.savez(tmp_path / "base.npz", mu=np.arange(3.0), sigma=np.eye(3))
    (tmp_path / "base.pkl").write_bytes(files.edm2_pickle()[0])
    convert(tmp_path / "base.pkl", tmp_path / "base.safetensors")
    bases = [
        files.edm2_pickle()[0],
        files.edm_pickle("SongUNet")[0],
        (tmp_path / "base.npz").read_bytes(),
        (tmp_path / "base.safetensors").read_bytes(),
    ]
    path = tmp_path / "fuzzed"
    read, messages = 0, []
    for _ in range(cases):
        path.write_bytes(mutated(rng.choices(bases, [4, 3, 1, 2])[0], rng))
        try:
            with watched():
                loaded = load_checkpoint(path)
                if isinstance(loaded, Checkpoint):
                    loaded.build()
            read += 1
        except (ValueError, OSError) as error:
            messages.append(str(error))
    assert all("fuzzed" in message and len(message) < 5000 for message in messages)
    # A flipped bit of a weight is a weight: some files are still read.
    assert 0 < read < cases


def test_broken_files(tmp_path):
    fuzz(tmp_path, 100, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_many_broken_files(tmp_path, seed):
    fuzz(tmp_path, 1200, seed)
