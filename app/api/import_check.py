"""Check the actions of an import: those that its rows name, and the default of the others."""

from app.http.request import Context
from app.http.time_slices import in_slices
from app.ingest import import_actions
from app.model import App


async def permit(context: Context, app: App, default_action: str, rows: bytes = b"") -> None:
    """Let a caller import these rows; of a file in a bucket only the default action is seen.
    Raises Forbidden; Invalid where the rows' actions can't be read."""
    assert context.caller is not None
    scopes = context.caller.scopes
    if default_action:
        import_actions.permit(default_action, scopes, app.sdk_extra)
    await in_slices(import_actions.permit_rows(rows, scopes, app.sdk_extra))
