"""The security headers that limit what a browser may do with a page."""

from app.http import VARY_BY_PREFIX

OWN_FILES = "'self'"


def page_headers(*, styles: str = OWN_FILES, images: str = OWN_FILES) -> dict[str, str]:
    """Return the headers of a page: only files of this gateway run, and no other host is asked.

    `styles` and `images` are the sources of styles and images, as Content-Security-Policy has them.
    """
    policy = (
        f"default-src 'none'; script-src 'self'; style-src {styles}; img-src {images}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {"Content-Security-Policy": policy, **VARY_BY_PREFIX}
