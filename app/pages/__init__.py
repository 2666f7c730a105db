"""HTML pages: their static files, the shell that they share, and its style.

- `content`: content that is sent compressed, and revalidated
- `assets`: the files in `assets/`, under URLs that contain a hash of them
- `templates`: the Jinja2 environment; `templates/shell.html` is the frame of a page
- `policy`: the Content-Security-Policy of pages
"""

from app.pages.assets import asset_path, asset_response
from app.pages.content import Content
from app.pages.policy import page_headers
from app.pages.templates import environment

__all__ = ["Content", "asset_path", "asset_response", "environment", "page_headers"]
