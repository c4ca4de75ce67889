import json
import math
import os
import random
import struct
import time

import pytest
import torch
from safetensors.torch import save_file

from pyro_dvae.checkpoint import (
    FORMAT,
    content,
    from_json,
    load_checkpoint,
    load_parameters,
    save_checkpoint,
    to_json,
)
from pyro_dvae.errors import CheckpointError, InputError
from pyro_dvae.files import replacing, require_writable, write_atomically

STATE = {"epoch": 3, "bound": -math.inf, "loss": math.nan, "name": "x\u0303", "nested": {"a": [1, 2.5, None]}}


def some_tensors():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    return {
        "parameters/base": base,
        "parameters/tied": base,
        "parameters/view": base[1:, ::2],
        "parameters/transposed": base.t(),
        "parameters/leaf": torch.nn.Parameter(torch.randn(3, generator=generator, dtype=torch.float64)),
        "parameters/number": torch.tensor(2.5),
        "parameters/empty": torch.empty(0, 3),
        "parameters/half": base.to(torch.bfloat16),
        "buffers/flags": torch.tensor([True, False]),
        "buffers/extremes": torch.tensor([math.nan, math.inf, -0.0]),
        "rng/cpu": torch.arange(200, dtype=torch.uint8),
        "optimizer/step/base$$$x": torch.tensor(7, dtype=torch.int64),
    }


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, some_tensors(), STATE)
    return path


def test_a_checkpoint_is_loaded_as_it_was_saved(saved):
    tensors, state = load_checkpoint(saved)
    assert tensors.keys() == some_tensors().keys()
    for name, expected in some_tensors().items():
        assert tensors[name].dtype == expected.dtype
        assert tensors[name].shape == expected.shape
        torch.testing.assert_close(tensors[name], expected.detach(), rtol=0, atol=0, equal_nan=True)
    assert math.isnan(state.pop("loss"))
    assert state == {key: value for key, value in STATE.items() if key != "loss"}


def test_the_json_is_strict_and_keeps_what_is_not_finite():
    text = to_json({"a": (1, math.inf), "b": -math.inf})
    json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert from_json(text) == {"a": [1, math.inf], "b": -math.inf}
    with pytest.raises(InputError, match="JSON"):
        to_json({"a": object()})


def test_the_file_is_plain_safetensors_and_its_permissions_are_the_usual_ones(saved):
    content = saved.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert json.loads(content[8 : 8 + length])["__metadata__"]["format"] == FORMAT
    assert b"pickle" not in content
    umask = os.umask(0)
    os.umask(umask)
    assert saved.stat().st_mode & 0o777 == 0o666 & ~umask


def test_parameters_can_be_read_alone(tmp_path):
    path = tmp_path / "c.safetensors"
    tensors = {
        "parameters/w": torch.zeros(2),
        "best/parameters/w": torch.ones(2),
        "best/buffers/b": torch.ones(1),
        "optimizer/exp_avg/w": torch.full((2,), 3.0),
    }
    save_checkpoint(path, tensors, {})
    assert load_parameters(path)["w"].tolist() == [1, 1]
    assert load_parameters(path, "last")["w"].tolist() == [0, 0]
    assert load_parameters(path).keys() == {"w"}
    save_checkpoint(path, {"parameters/w": torch.zeros(2)}, {})
    assert load_parameters(path, "best")["w"].tolist() == [0, 0]
    with pytest.raises(InputError, match="which: unknown name 'bset'"):
        load_parameters(path, "bset")


def refused(path, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message


def test_missing_and_folder(tmp_path):
    refused(tmp_path / "none.safetensors", "there is no such file")
    refused(tmp_path, "it is a folder")


def test_random_bytes_empty_and_text(tmp_path):
    generator = random.Random(0)
    for size in (0, 3, 8, 9, 1000):
        (tmp_path / "noise").write_bytes(generator.randbytes(size))
        refused(tmp_path / "noise", "not a safetensors file")
    (tmp_path / "noise").write_text("epoch 1")
    refused(tmp_path / "noise", "not a safetensors file")


def test_pickles_are_never_read(tmp_path):
    torch.save({"w": torch.zeros(2)}, tmp_path / "model.pt")
    refused(tmp_path / "model.pt", "only safetensors files are read")
    torch.save({"w": torch.zeros(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    refused(tmp_path / "old.pt", "only safetensors files are read")


def test_a_header_of_any_length_is_read(tmp_path):
    """The length comes first, and its bytes may be those with which a pickle starts."""
    found = set()
    for size in range(0, 300, 8):
        path = tmp_path / f"{size}.safetensors"
        save_checkpoint(path, {"w": torch.ones(2)}, {"note": "n" * size})
        found.add(path.read_bytes()[:1])
        assert load_checkpoint(path)[1] == {"note": "n" * size}
    assert b"\x80" in found


def test_truncated_at_any_length(saved):
    content = saved.read_bytes()
    for length in {0, 7, 8, 100, len(content) // 2, len(content) - 1}:
        saved.write_bytes(content[:length])
        refused(saved, "truncated|not a safetensors")


def test_a_flipped_bit_anywhere_is_noticed(saved):
    content = saved.read_bytes()
    (header,) = struct.unpack("<Q", content[:8])
    generator = random.Random(1)
    places = generator.sample(range(8 + header), 150) + generator.sample(range(8 + header, len(content)), 100)
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << generator.randrange(8)
        saved.write_bytes(changed)
        try:
            tensors, state = load_checkpoint(saved)
        except CheckpointError:
            pass
        else:  # in the header's padding or an escape: what was stored has not changed
            assert place < 8 + header
            assert to_json(state) == to_json(STATE)
            assert tensors.keys() == some_tensors().keys()


def test_a_changed_tensor_names_itself(saved):
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    saved.write_bytes(content)
    refused(saved, "damaged, tensor '.+' does not match its digest")


def test_foreign_safetensors(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"w": torch.zeros(2)}, path)
    refused(path, "not a checkpoint of pyro_dvae")
    save_file({"w": torch.zeros(2)}, path, {"format": "pt"})
    refused(path, "not a checkpoint of pyro_dvae")


def test_a_newer_version(saved, monkeypatch):
    monkeypatch.setattr("pyro_dvae.checkpoint.VERSION", 2)
    save_checkpoint(saved, some_tensors(), STATE)
    monkeypatch.undo()
    refused(saved, "format version 2, written by a newer pyro_dvae")


def test_a_failed_save_leaves_the_old_checkpoint(saved, monkeypatch):
    def broken(path, data):
        path.touch()
        raise OSError(28, "No space left on device")

    before = saved.read_bytes()
    monkeypatch.setattr("pathlib.Path.write_bytes", broken)
    with pytest.raises(InputError, match=r"output: cannot write .*: No space left on device"):
        save_checkpoint(saved, some_tensors(), STATE)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


# files


def test_write_atomically_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_atomically(path, "x̃")
    assert path.read_text(encoding="utf-8") == "x̃"
    write_atomically(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert os.listdir(path.parent) == ["b.txt"]


def test_replacing_removes_what_a_failing_body_wrote(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail():
        with replacing(path) as partial:
            assert partial.parent == path.parent
            partial.write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_files_of_killed_processes_are_deleted_after_an_hour(tmp_path):
    old, recent = tmp_path / ".file.0000.partial", tmp_path / ".file.1111.partial"
    other = tmp_path / ".elsewhere.0000.partial"
    for path in (old, recent, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (time.time() - 7200,) * 2)
    write_atomically(tmp_path / "file", "text")
    assert sorted(os.listdir(tmp_path)) == sorted([other.name, recent.name, "file"])


def test_values_that_cannot_be_written_are_reported_in_one_line(tmp_path):
    (tmp_path / "plain").write_text("a file")
    for path in (tmp_path / "plain" / "inside.txt", tmp_path):
        for write in (lambda path: write_atomically(path, "text"), require_writable):
            with pytest.raises(InputError, match=r"output: cannot write .*: ") as caught:
                write(path)
            assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["plain"]


def test_require_writable_leaves_no_trace(tmp_path):
    require_writable(tmp_path / "file")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_numbers_of_a_column_have_bytes(rows):
    """torch calls a column of one number contiguous, whatever its stride."""
    column = torch.randn(3, 4)[:rows, 2]
    assert bytes(content(column)) == column.numpy().tobytes()


@pytest.mark.parametrize("kind", [torch.complex64, torch.complex128])
def test_complex_numbers_are_loaded_as_they_were_saved(kind, tmp_path):
    values = torch.randn(3, 2, dtype=kind)
    saved = {"matrix": values, "conjugate": values.conj(), "number": values[0, 0], "pairs": values.real}
    save_checkpoint(tmp_path / "c", saved, {})
    found, _ = load_checkpoint(tmp_path / "c")
    assert found.keys() == saved.keys()
    for name, value in saved.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value.resolve_conj())
