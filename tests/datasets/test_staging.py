import pytest

from pyro_dvae.datasets.staging import staging, unavailable


def test_moved_files_stay_and_the_rest_is_deleted(tmp_path):
    root = tmp_path / "a" / "b"
    with staging(root) as folder:
        (folder / "kept").write_text("1")
        (folder / "dropped").write_text("2")
        (folder / "kept").replace(root / "kept")
    assert [path.name for path in root.iterdir()] == ["kept"]


def test_a_failure_leaves_no_trace(tmp_path):
    def fail(folder):
        (folder / "partial").write_text("1")
        raise OSError("no network")

    with pytest.raises(OSError, match="no network"), staging(tmp_path / "a" / "b") as folder:
        fail(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_an_older_folder_alone(tmp_path):
    (tmp_path / "old").write_text("1")
    with pytest.raises(OSError, match="no network"), staging(tmp_path):
        raise OSError("no network")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_the_message_is_one_line_with_the_reason_and_the_remedy(tmp_path):
    off = str(unavailable("some", tmp_path, "some.bin"))
    assert f"{str(tmp_path)!r} and download is off; put some.bin in that folder" in off
    assert "--dataset digits" in off
    assert "does not exist and download is off" in str(unavailable("some", tmp_path / "no", "some.bin"))
    failed = str(unavailable("some", tmp_path, "some.bin", OSError("tried\nthis\nand that")))
    assert "the download failed (tried this and that)" in failed
