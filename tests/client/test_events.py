"""The parser of server-sent events."""

import pytest

from app.client.events import Event, events_from_lines, lines_from_chunks


def parse(text: str) -> list[Event]:
    return list(events_from_lines(lines_from_chunks([text.encode()])))


def test_an_event_has_kind_body_and_id() -> None:
    assert parse('id: 7\r\nevent: stage\r\ndata: {"stage": "observe"}\r\n\r\n') == [Event("stage", {"stage": "observe"}, "7")]


def test_pings_comments_and_unknown_fields_are_skipped() -> None:
    text = ': ping - 2026\n\nretry: 3\nid: 1\nevent: log\ndata: {"line": "a"}\n\n:\n\n'
    assert parse(text) == [Event("log", {"line": "a"}, "1")]


def test_data_lines_are_joined_and_one_blank_is_taken_off() -> None:
    assert parse('data:{"line":\ndata:  "a"}\n\n') == [Event("message", {"line": "a"}, None)]


def test_an_event_without_its_end_is_dropped() -> None:
    assert parse('id: 1\nevent: done\ndata: {"state": "succeeded"}\n') == []


@pytest.mark.parametrize("data", ["", "{", "[1]", '"text"'])
def test_data_that_is_no_object_is_skipped(data: str) -> None:
    assert parse(f'id: 1\ndata: {data}\n\nid: 2\ndata: {{"a": 1}}\n\n') == [Event("message", {"a": 1}, "2")]


def test_an_id_stays_for_later_events() -> None:
    assert [event.id for event in parse("id: 4\ndata: {}\n\ndata: {}\n\n")] == ["4", "4"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_chunks_may_end_anywhere(size: int) -> None:
    # U+2028 ends a line for str.splitlines, and U+20AC is cut in the middle
    content = 'id: 1\r\nevent: log\r\ndata: {"line": "a\u2028\u20ac"}\r\n\r\n'.encode()
    chunks = [content[start : start + size] for start in range(0, len(content), size)]
    assert list(events_from_lines(lines_from_chunks(chunks))) == [Event("log", {"line": "a\u2028\u20ac"}, "1")]
