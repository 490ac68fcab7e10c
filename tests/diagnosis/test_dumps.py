"""Which files are a request's."""

from __future__ import annotations

from pathlib import Path

from aigateway.http.diagnosis.dumps import dumped


def put(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def test_all_attempts_of_a_request_are_found_in_their_order(tmp_path: Path) -> None:
    put(tmp_path / "second" / "m", "17-abc-2.resp.txt", "two answered")
    put(tmp_path / "second" / "m", "17-abc-2.req.txt", "two")
    put(tmp_path / "first" / "m", "17-abc.req_error.txt", "broke")
    put(tmp_path / "first" / "m", "17-abc.req.txt", "one")
    put(tmp_path / "first" / "m", "17-abcd.req.txt", "another's")
    put(tmp_path / "first" / "m", "17-x-abc.req.txt", "another's")
    found = dumped([str(tmp_path), "", str(tmp_path)], "abc")
    assert [(each["attempt"], each["kind"], each["provider"], each["text"]) for each in found] == [
        (1, "request", "first", "one"),
        (1, "error", "first", "broke"),
        (2, "request", "second", "two"),
        (2, "answer", "second", "two answered"),
    ]


def test_an_id_is_no_pattern_and_no_path(tmp_path: Path) -> None:
    put(tmp_path / "first" / "m", "17-abc.req.txt", "one")
    for id in ("*", "a?c", "[a]bc", "../abc", "abc/", ""):
        assert dumped([str(tmp_path)], id) == []


def test_of_a_long_file_the_beginning_is_read(tmp_path: Path) -> None:
    put(tmp_path / "p" / "m", "17-abc.req.txt", "x" * 300_000)
    (found,) = dumped([str(tmp_path)], "abc")
    assert (found["size"], len(found["text"])) == (300_000, 100_000)
