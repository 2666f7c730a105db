"""Code samples of operations (`x-codeSamples`), made from their examples, one function a language.

In each sample `gateway` is the URL of the gateway, and `key` a caller key; in those of Kotlin,
`client` is a `java.net.http.HttpClient`. They are a quarter of the document, so they are short, and
only calls that an app may make have samples in the languages of apps.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from app.http import JSON, Tag
from app.http.openapi_parts import REF

Document = dict[str, Any]
BOUNDARY = "part"  # of forms
APP_TAGS = {Tag.EVENTS_AND_USERS, Tag.MESSAGES}


class SampleCall(NamedTuple):
    """A call of an operation with its examples; `form` has the text of fields and of a file."""

    method: str
    path: str
    has_key: bool
    body: Any = None
    form: Mapping[str, str] = {}  # never changed


class SampleLanguage(NamedTuple):
    """A language of samples: what documentation pages highlight, its label, and its template.

    `of_apps`: apps on phones are written in it.
    """

    name: str
    label: str
    render: Callable[[SampleCall], str]
    of_apps: bool = False


def add_samples(document: Document, method: str, path: str, operation: Document) -> None:
    """Add a sample in each language to an operation."""
    call = _sample_call(document, method, path, operation)
    is_for_apps = not APP_TAGS.isdisjoint(operation["tags"])
    operation["x-codeSamples"] = [
        {"lang": language.name, "label": language.label, "source": language.render(call)}
        for language in LANGUAGES
        if is_for_apps or not language.of_apps
    ]


def _sample_call(document: Document, method: str, path: str, operation: Document) -> SampleCall:
    query = {}
    for parameter in operation.get("parameters", ()):
        if not parameter.get("required"):
            continue
        name, example = parameter["name"], str(parameter["example"])
        if parameter["in"] == "path":
            path = path.replace("{" + name + "}", quote(example, safe=":"))
        else:
            query[name] = example
    if query:
        path += f"?{urlencode(query)}"
    call = SampleCall(method.upper(), path, operation["security"] != [])
    content = operation.get("requestBody", {}).get("content", {})
    if not content:
        return call
    media_type, described_body = next(iter(content.items()))
    shape = document["components"]["schemas"][described_body["schema"]["$ref"].removeprefix(REF)]
    example = shape["examples"][0]
    return call._replace(body=example) if media_type == JSON else call._replace(form=example)


def _curl(call: SampleCall) -> str:
    words = ["curl", "-X", call.method] if call.method != "GET" else ["curl"]
    words.append(f'"$GATEWAY{call.path}"')
    if call.has_key:
        words.append('-H "X-API-Key: $KEY"')
    if call.body is not None:
        words.append(f"--json '{_json(call.body)}'")
    for name, value in call.form.items():
        text = f"@{call.form['filename']}" if name == "file" else value
        words.append(f"-F '{name}={text}'")
    return " ".join(words)


def _python(call: SampleCall) -> str:
    arguments = [f'"{call.method}"', f'gateway + "{call.path}"']
    if call.has_key:
        arguments.append('headers={"X-API-Key": key}')
    if call.body is not None:
        arguments.append(f"json={call.body!r}")
    if call.form:
        fields = {name: value for name, value in call.form.items() if name != "file"}
        file = (call.form["filename"], call.form["file"])
        arguments += [f"data={fields!r}", f"files={{'file': {file!r}}}"]
    return f"response = httpx.request({', '.join(arguments)})"


def _node(call: SampleCall) -> str:
    headers = {"X-API-Key": "key"} if call.has_key else {}
    options, before = [], ""
    if call.method != "GET":
        options.append(f'method: "{call.method}"')
    if call.body is not None:
        headers["Content-Type"] = f'"{JSON}"'
        options.append(f"body: JSON.stringify({_json(call.body)})")
    if call.form:
        before = "const form = new FormData();\n"
        for name, value in call.form.items():
            before += f"form.append({_node_field(name, value, call.form)});\n"
        options.append("body: form")
    if headers:
        pairs = ", ".join(f'"{name}": {value}' for name, value in headers.items())
        options.insert(0, f"headers: {{{pairs}}}")
    arguments = [f'gateway + "{call.path}"']
    if options:
        arguments.append(f"{{{', '.join(options)}}}")
    return f"{before}const response = await fetch({', '.join(arguments)});"


def _node_field(name: str, value: str, form: Mapping[str, str]) -> str:
    if name != "file":
        return f"{json.dumps(name)}, {json.dumps(value)}"
    return f'"file", new Blob([{json.dumps(value)}]), {json.dumps(form["filename"])}'


def _swift(call: SampleCall) -> str:
    lines = [f'var request = URLRequest(url: URL(string: gateway + "{call.path}")!)']
    if call.method != "GET":
        lines.append(f'request.httpMethod = "{call.method}"')
    headers = ", ".join(f'"{name}": {value}' for name, value in _header_values(call).items())
    lines.append(f"request.allHTTPHeaderFields = [{headers}]")
    if call.body is not None:
        lines.append(f'request.httpBody = Data(#"{_json(call.body)}"#.utf8)')
    if call.form:
        lines.append(f"request.httpBody = Data({json.dumps(_form_text(call.form))}.utf8)")
    lines.append("let (data, response) = try await URLSession.shared.data(for: request)")
    return "\n".join(lines)


def _kotlin(call: SampleCall) -> str:
    publisher = "BodyPublishers.noBody()"
    if call.body is not None:
        publisher = f'BodyPublishers.ofString("""{_json(call.body)}""")'
    if call.form:
        publisher = f"BodyPublishers.ofString({json.dumps(_form_text(call.form))})"
    headers = "".join(f'.header("{name}", {value})' for name, value in _header_values(call).items())
    method = "" if call.method == "GET" else f'.method("{call.method}", {publisher})'
    request = f'HttpRequest.newBuilder(URI(gateway + "{call.path}")){headers}{method}.build()'
    return f"val response = client.send({request}, BodyHandlers.ofString())"


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _header_values(call: SampleCall) -> dict[str, str]:
    """Return the headers of a call; their values are expressions of Swift and Kotlin."""
    headers = {"X-API-Key": "key"} if call.has_key else {}
    if call.body is not None:
        headers["Content-Type"] = f'"{JSON}"'
    if call.form:
        headers["Content-Type"] = f'"multipart/form-data; boundary={BOUNDARY}"'
    return headers


def _form_text(form: Mapping[str, str]) -> str:
    """Return the body of a form."""
    parts = []
    for name, value in form.items():
        filename = f'; filename="{form["filename"]}"' if name == "file" else ""
        head = f'Content-Disposition: form-data; name="{name}"{filename}'
        parts.append(f"--{BOUNDARY}\r\n{head}\r\n\r\n{value}\r\n")
    return "".join([*parts, f"--{BOUNDARY}--\r\n"])


LANGUAGES = (
    SampleLanguage("Shell", "curl", _curl),
    SampleLanguage("Python", "Python", _python),
    SampleLanguage("JavaScript", "Node.js", _node),
    SampleLanguage("Swift", "Swift", _swift, of_apps=True),
    SampleLanguage("Kotlin", "Kotlin", _kotlin, of_apps=True),
)
