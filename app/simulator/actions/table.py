"""The table of all actions this simulator does: one entry is all that a further action needs.

Key kinds: fact sheet §2. Whether an unknown user is created by default: §3 (createDisposition);
where no source says so for an action (deleteUser, block, unblock, exportUser) the choice is ours
(I): blocking must hold for a user not yet known, the others have nothing to do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from app.simulator.actions import (
    attributes,
    bulk,
    channels,
    content,
    events,
    exports,
    files,
    messages,
    newsfeed,
    postbacks,
    sdk,
    sessions,
    users,
    variables,
)
from app.simulator.actions.handler import Extra, Turn, UserTurn
from app.simulator.client_keys import Key


@dataclass(frozen=True, kw_only=True)
class UserAction:
    """An action about a user, or about a device and its user."""

    alone: ClassVar[bool] = False
    handler: Callable[[UserTurn], Extra]
    key: Key = Key.PRODUCTION
    required: tuple[str, ...] = ()
    creates_user: bool = False
    for_blocked: bool = False
    """Answered for a blocked user too; any other action is refused with 451."""
    past_rule: bool = False
    """Whether a `time` more than 365 days back is rewritten (fact sheet §5)."""


@dataclass(frozen=True, kw_only=True)
class ContentAction:
    """An action about the app's content; it names no user."""

    handler: Callable[[Turn], Extra]
    key: Key = Key.PRODUCTION
    required: tuple[str, ...] = ()
    alone: bool = False
    """Refused inside a multi (fact sheet §3.6)."""


Action = UserAction | ContentAction
Listed = dict[str, tuple[Callable[[Turn], Extra], tuple[str, ...]]]


def _keyed(key: Key, listed: Listed) -> dict[str, Action]:
    """Actions about content that take one kind of key: handler and required arguments by name."""
    return {
        name: ContentAction(handler=handler, key=key, required=needed)
        for name, (handler, needed) in listed.items()
    }


USER_ACTIONS: dict[str, Action] = {
    "start": UserAction(handler=sessions.start, creates_user=True),
    "stop": UserAction(handler=sessions.stop),
    "pauseSession": UserAction(handler=sessions.pause),
    "resumeSession": UserAction(handler=sessions.resume),
    "heartbeat": UserAction(handler=sessions.heartbeat),
    "track": UserAction(
        handler=events.track, required=("event",), creates_user=True, past_rule=True
    ),
    "advance": UserAction(handler=events.advance, required=("state",)),
    "pauseState": UserAction(handler=events.pause_state),
    "resumeState": UserAction(handler=events.resume_state),
    "setUserAttributes": UserAction(handler=attributes.set_user_attributes, creates_user=True),
    "setDeviceAttributes": UserAction(
        handler=attributes.set_device_attributes, required=("deviceId",), creates_user=True
    ),
    "setTrafficSourceInfo": UserAction(
        handler=attributes.set_traffic_source_info, required=("trafficSource",), creates_user=True
    ),
    "deleteUser": UserAction(handler=users.delete_user, key=Key.DEVELOPMENT, for_blocked=True),
    "block": UserAction(handler=users.block, creates_user=True, for_blocked=True),
    "unblock": UserAction(handler=users.unblock, key=Key.DEVELOPMENT, for_blocked=True),
    "sendMessage": UserAction(handler=messages.send_message, required=("messageId",)),
    "startCampaign": UserAction(
        handler=messages.start_campaign, key=Key.DEVELOPMENT, required=("campaignId",)
    ),
    "getVars": UserAction(handler=variables.get_vars),
    "exportUser": UserAction(handler=users.export_user, key=Key.DATA_EXPORT, for_blocked=True),
}

_DEVELOPMENT: Listed = {
    "registerDevice": (users.register_device, ("deviceId", "email")),
    "setVars": (variables.set_vars, ("vars",)),
    "deleteVars": (variables.delete_vars, ("vars",)),
    "addAndroidNotificationChannel": (channels.add_channel, ("id", "name")),
    "deleteAndroidNotificationChannel": (channels.delete_channel, ("channelId",)),
    "getMultiResults": (bulk.get_multi_results, ("jobId",)),
}

_EXPORT: Listed = {
    "exportData": (exports.export_data, ("startDate",)),
    "exportUsers": (exports.export_users, ()),
    "exportReport": (exports.export_report, ("startDate", "dataType")),
    "getExportResults": (exports.get_export_results, ("jobId",)),
    "addPostback": (postbacks.add_postback, ("type", "postbackUrl")),
    "listPostbacks": (postbacks.list_postbacks, ()),
    "deletePostback": (postbacks.delete_postback, ("postbackId",)),
}

_READ_ONLY: Listed = {
    "getMessage": (content.get_message, ("id",)),
    "getMessages": (content.get_messages, ()),
    "getAbTest": (content.get_ab_test, ("id",)),
    "getAbTests": (content.get_ab_tests, ()),
    "getVariant": (content.get_variant, ("id",)),
    "getUnsubscribeCategories": (content.get_unsubscribe_categories, ()),
}

SDK_ACTIONS: dict[str, Action] = {
    "getNewsfeedMessages": UserAction(handler=newsfeed.get_newsfeed),
    "markNewsfeedMessageAsRead": UserAction(
        handler=newsfeed.mark_read, required=("newsfeedMessageId",)
    ),
    "deleteNewsfeedMessage": UserAction(
        handler=newsfeed.delete_message, required=("newsfeedMessageId",)
    ),
    "trackGeofence": UserAction(
        handler=events.track, required=("event",), creates_user=True, past_rule=True
    ),
    "getMigrateState": ContentAction(handler=sdk.get_migrate_state),
    "log": ContentAction(handler=sdk.log),
    "restart": ContentAction(handler=sdk.restart),
    "saveInterface": ContentAction(handler=sdk.save_interface, key=Key.DEVELOPMENT),
    "saveInterfaceImage": ContentAction(handler=sdk.save_interface, key=Key.DEVELOPMENT),
    "getViewControllerVersionsList": ContentAction(handler=sdk.save_interface, key=Key.DEVELOPMENT),
}
"""Undocumented (fact sheet §3.8); whether one of them creates an unknown user is inferred (I)."""

# `multi` stands here as the CSV job that it is with createJob; a multi of JSON is a call's own
# form.
ACTIONS: dict[str, Action] = {
    **USER_ACTIONS,
    "getAndroidNotificationChannels": ContentAction(handler=channels.get_channels),
    "downloadFile": ContentAction(handler=files.download_file, required=("filename",), alone=True),
    "uploadFile": ContentAction(handler=files.upload_file, key=Key.DEVELOPMENT, alone=True),
    "multi": ContentAction(handler=bulk.create_job, key=Key.DEVELOPMENT, alone=True),
    **_keyed(Key.DEVELOPMENT, _DEVELOPMENT),
    **_keyed(Key.DATA_EXPORT, _EXPORT),
    **_keyed(Key.CONTENT_READ_ONLY, _READ_ONLY),
    **SDK_ACTIONS,
}
