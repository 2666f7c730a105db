"""Messages and campaigns: sendMessage, startCampaign, getMessage, getMessages (fact sheet §3.5, §3.6)."""

from app.simulator.actions.turns import Extra, Refused, Skipped, Turn, UserTurn
from app.simulator.config import SandboxMessage
from app.simulator.values import truthy


def send_message(turn: UserTurn) -> Extra:
    """Targeting that doesn't fit sends nothing and is still a success, unless `force` ignores it."""
    message = turn.world.messages.get(turn.text("messageId"))
    if message is None:
        raise Skipped(turn.texts.message_entity_not_found)
    values = turn.mapping("values")
    if not message.matches and not truthy(turn.item.get("force")):
        return {"messagesSent": 0}
    turn.user.messages.append({"messageId": message.id, "values": values, "time": turn.time})
    return {"result": "Message sent", "messagesSent": 1}


def start_campaign(turn: UserTurn) -> Extra:
    """No source tells how an unknown campaign is answered: every campaign exists here."""
    campaign, values = turn.text("campaignId"), turn.mapping("values")
    turn.user.messages.append({"campaignId": campaign, "values": values, "time": turn.time})
    return {}


def get_message(turn: Turn) -> Extra:
    message = turn.world.messages.get(turn.text("id"))
    if message is None:
        raise Refused(turn.texts.message_not_found, 404)
    return {"message": _shown(message)}


def get_messages(turn: Turn) -> Extra:
    return {"messages": [_shown(message) for message in turn.world.messages.values()]}


def _shown(message: SandboxMessage) -> Extra:
    return {"id": message.id, "name": message.name, "active": True, "messageType": message.kind}
