"""Postbacks: addPostback, listPostbacks, deletePostback (fact sheet §3.5). They are kept, never
sent.
"""

from app.simulator.actions.handler import Extra, Refused, Turn

MAX_POSTBACKS = 3
TYPES = ("messageEvents", "abTestEvents")


def add_postback(turn: Turn) -> Extra:
    """The id is a whole number (fact sheet §12.6). A fourth postback is refused; no source tells
    how (I).
    """
    content = turn.world.content
    wanted = {"type": turn.one_of("type", TYPES), "postbackUrl": turn.needed("postbackUrl")}
    channels = turn.names("channels") if turn.given("channels") else []
    if len(content.postbacks) >= MAX_POSTBACKS:
        raise Refused(turn.texts.too_many_postbacks.format(limit=MAX_POSTBACKS), 403)
    content.postbacks_made += 1
    postback_id = content.postbacks_made
    content.postbacks[str(postback_id)] = {
        "postbackId": postback_id,
        **wanted,
        "channels": channels,
    }
    return {"postbackId": postback_id}


def list_postbacks(turn: Turn) -> Extra:
    told = ("postbackId", "type", "postbackUrl")
    known = turn.world.content.postbacks.values()
    return {"postbacks": [{name: postback[name] for name in told} for postback in known]}


def delete_postback(turn: Turn) -> Extra:
    """An unknown one is refused as an unknown message is (I)."""
    if turn.world.content.postbacks.pop(turn.needed("postbackId"), None) is None:
        raise Refused(turn.texts.postback_not_found, 404)
    return {}
