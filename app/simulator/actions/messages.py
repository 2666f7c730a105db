"""Messages and campaigns that are sent: sendMessage, startCampaign (fact sheet §3.5)."""

from app.simulator.actions.handler import Extra, Skipped, UserTurn
from app.simulator.actions.newsfeed import deliver
from app.simulator.sandbox import NEWSFEED
from app.simulator.values import truthy


def send_message(turn: UserTurn) -> Extra:
    """Targeting that doesn't fit sends nothing and is still a success, unless `force` ignores
    it.
    """
    message = turn.world.messages.get(turn.text("messageId"))
    if message is None:
        raise Skipped(turn.texts.message_entity_not_found)
    values = turn.mapping("values")
    if not message.matches and not truthy(turn.item.get("force")):
        return {"messagesSent": 0}
    turn.user.messages.append({"messageId": message.id, "values": values, "time": turn.time})
    if message.kind == NEWSFEED:
        deliver(turn, message, values)
    return {"result": "Message sent", "messagesSent": 1}


def start_campaign(turn: UserTurn) -> Extra:
    """No source tells how an unknown campaign is answered: every campaign exists here."""
    campaign, values = turn.text("campaignId"), turn.mapping("values")
    turn.user.messages.append({"campaignId": campaign, "values": values, "time": turn.time})
    return {}
