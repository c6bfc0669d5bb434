from __future__ import annotations

import pytest

from edge.telemetry.redaction import without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://broker.lan:8443/a/2.edge", "https://broker.lan:8443/a/2.edge"),
        ("https://s3.lan/2.edge?X-Signature=hunter2&b", "https://s3.lan/2.edge?…"),
        ("https://me:hunter2@lan/2.edge?t=hunter2", "https://…@lan/2.edge?…"),
        ("https://me:hun/ter2?#hunter2@lan/x", "https://…@lan/x"),
        (
            '{"url":"http://a/b?hunter2","model":"digits?"}',
            '{"url":"http://a/b?…","model":"digits?"}',
        ),
        (
            "http://a/?hunter2: it failed, is it at me@lan?",
            "http://a/?… it failed, is it at me@lan?",
        ),
    ],
)
def test_logins_and_queries_of_urls_are_left_out(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_the_longest_message_takes_no_longer_for_what_is_in_it() -> None:
    text = "://" * (1024 * 1024 // 3)  # of which a search from each place on would take hours
    assert without_secrets(text) == text
