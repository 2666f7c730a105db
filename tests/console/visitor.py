"""A visitor of the console without JavaScript: cookies, forms and their tokens, over HTTP."""

import re
from collections.abc import Mapping
from html import unescape
from typing import Any

import httpx

from app.console.access import COOKIE
from tests.support.gateway import Talk

ORIGIN = "http://gateway"
TOKEN = re.compile(r'name="form_token" value="([0-9a-f]+)"')


class ConsoleVisitor:
    """Somebody with one browser; `cookie` is the session's id as the browser has it."""

    def __init__(self, talk: Talk, prefix: str = "") -> None:
        self.talk, self.prefix = talk, prefix
        self.cookie = ""
        self.token = ""

    def get(self, path: str = "", **options: Any) -> httpx.Response:
        """Open a page of the console."""
        answer = self.send("GET", path, **options)
        token = TOKEN.search(answer.text)
        self.token = token[1] if token else self.token
        return answer

    def post(
        self, path: str, fields: Mapping[str, Any] | None = None, **options: Any
    ) -> httpx.Response:
        """Send the form of an operation, with the token of the last page."""
        return self.send("POST", path, data={"form_token": self.token, **(fields or {})}, **options)

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request as a browser does, with the cookie; keep the cookie of the response."""
        headers = {"Origin": ORIGIN} if method == "POST" else {}
        if self.cookie:
            headers["Cookie"] = f"{COOKIE}={self.cookie}"
        options["headers"] = headers | options.get("headers", {})
        answer = self.talk.call(method, f"{self.prefix}/console{path}", key=None, **options)
        for header in answer.headers.get_list("set-cookie"):
            name, _, rest = header.partition("=")
            if name == COOKIE:
                self.cookie = rest.partition(";")[0]
        return answer

    def sign_in(self, key: str | None = None) -> httpx.Response:
        """Sign in with a key, the bootstrap key by default."""
        return self.send("POST", "/sign-in", data={"key": self.talk.key if key is None else key})


def signed_in(talk: Talk, key: str | None = None) -> ConsoleVisitor:
    """Return a visitor who is signed in, and has opened the first page."""
    visitor = ConsoleVisitor(talk)
    answer = visitor.sign_in(key)
    assert answer.status_code == 303, answer.text
    visitor.get()
    return visitor


def text_of(page: httpx.Response) -> str:
    """Return the text of a page without its tags."""
    return unescape(" ".join(re.sub(r"<[^>]*>", " ", page.text).split()))
