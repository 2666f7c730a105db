"""What Leanplum said of a deletion is kept without the texts that name the user."""

from typing import Any

import pytest

from app.outbox.erasure import REDACTED, redact


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("no Ann-1 here", REDACTED),
        (
            {"success": False, "error": {"message": "ANN-1?"}},
            {"success": False, "error": {"message": REDACTED}},
        ),
        (
            {"warning": ["x", "ann-1", {"m": "ann-1"}]},
            {"warning": ["x", REDACTED, {"m": REDACTED}]},
        ),
        ({"success": True, "n": 1}, {"success": True, "n": 1}),
    ],
)
def test_each_text_that_names_the_user_is_replaced_however_deep_it_is(said: Any, kept: Any) -> None:
    assert redact(said, "ann-1") == kept
