"""The fields of a form that a browser has sent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs

from app.errors import Malformed
from app.http import BodyReader, Receive, RequestContext, require_media_type

FORM = "application/x-www-form-urlencoded"
MOST_BYTES = 64 * 1024
MOST_FIELDS = 1_100  # a page shows at most a thousand rows that can be chosen


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form, in the order in which they were sent."""

    fields: Mapping[str, Sequence[str]]

    def text(self, name: str) -> str:
        """Return the value of a field, without spaces around it; "" if it was not sent."""
        return self.fields.get(name, [""])[0].strip()

    def raw(self, name: str) -> str:
        """Return the value of a field as it was sent; "" if it was not sent."""
        return self.fields.get(name, [""])[0]

    def all(self, name: str) -> Sequence[str]:
        """Return all values of a field, such as those of checkboxes."""
        return self.fields.get(name, [])


async def read_form(
    bodies: BodyReader, context: RequestContext, receive: Receive, most_bytes: int = MOST_BYTES
) -> Form:
    """Return the form in a body.

    Raises UnsupportedMediaType, TooLarge, Malformed, and what reading a body raises.
    """
    require_media_type(context.header(b"content-type"), FORM)
    body = await bodies.read(context, receive, most_bytes)
    try:
        fields = parse_qs(
            body.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MOST_FIELDS,
        )
        if any("\0" in value for values in fields.values() for value in values):
            raise ValueError
    except ValueError:
        raise Malformed(
            "The body is not a form: it must be URL-encoded UTF-8 without NUL characters."
        ) from None
    return Form(fields)
