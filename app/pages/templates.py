"""The templates of pages."""

import json
from collections.abc import Iterable

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from app.pages.assets import asset_path


def environment(packages: Iterable[str] = ()) -> Environment:
    """Return an environment with the templates of packages, and the shell of a page.

    What is inserted is escaped, and a name that is missing is an error. Templates have
    `asset_path(name)`, which is to be preceded by the path prefix, and the filter `json`.
    """
    loaders = [PackageLoader(package) for package in (*packages, "app.pages")]
    made = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["asset_path"] = asset_path
    made.filters["json"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    return made
