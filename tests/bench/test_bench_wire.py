"""HTTP as the generator reads and writes it."""

from bench.wire import LOST, Answer, acknowledged, read_answer, request

WHOLE = b"HTTP/1.1 202 Accepted\r\nContent-Length: 15\r\n\r\n" + b'{"accepted": 3}'


def test_a_request_carries_key_length_and_body() -> None:
    text = request(8000, "/v1/events", "lpgw_k", b"{}")
    assert text.startswith(
        b"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAuthorization: Bearer lpgw_k\r\n"
    )
    assert text.endswith(b"Content-Length: 2\r\n\r\n{}")


def test_an_answer_is_read_once_all_of_it_has_come() -> None:
    assert all(
        read_answer(WHOLE[:end]) is None
        for end in range(len(WHOLE))
        if b"\r\n\r\n" not in WHOLE[:end]
    )
    assert read_answer(WHOLE[:-1]) is None
    assert read_answer(WHOLE) == Answer(202, b'{"accepted": 3}')


def test_an_answer_whose_end_cannot_be_told_counts_as_lost() -> None:
    assert read_answer(b"HTTP/1.1 200 OK\r\n\r\n") is LOST


def test_a_batch_acknowledges_what_its_answer_says_and_a_single_item_what_its_status_says() -> None:
    assert acknowledged(Answer(202, b'{"accepted": 3}'), size=5) == 3
    assert acknowledged(Answer(202, b"{}"), size=1) == 1
    assert acknowledged(Answer(503, b'{"accepted": 3}'), size=5) == 0
    assert acknowledged(LOST, size=1) == 0
