"""The table of all actions: adding an action takes one entry here, and its handler.

Kinds of key: fact sheet §2. Creation of unknown users by default: §3 (createDisposition); where no
source states it for an action (deleteUser, block, unblock, exportUser) it is inferred (I): a block
must hold for a user not yet known, the others have nothing to do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from app.simulator.actions import activity, attributes, content, jobs, users
from app.simulator.actions.context import ActionContext, EntryFields, UserActionContext
from app.simulator.config import ClientKeyKind


@dataclass(frozen=True, kw_only=True)
class UserAction:
    """An action about a user, or about a device and its user."""

    alone: ClassVar[bool] = False
    handler: Callable[[UserActionContext], EntryFields]
    key: ClientKeyKind = ClientKeyKind.PRODUCTION
    required: tuple[str, ...] = ()
    creates_user: bool = False
    for_blocked: bool = False
    """Allowed for a blocked user; all others are refused with 451."""
    past_rule: bool = False
    """Rewrite a `time` over 365 days back (fact sheet §5)."""


@dataclass(frozen=True, kw_only=True)
class ContentAction:
    """An action about the app's content, without a user."""

    handler: Callable[[ActionContext], EntryFields]
    key: ClientKeyKind = ClientKeyKind.PRODUCTION
    required: tuple[str, ...] = ()
    alone: bool = False
    """Refused inside a multi (fact sheet §3.6)."""


Action = UserAction | ContentAction
Handlers = dict[str, tuple[Callable[[ActionContext], EntryFields], tuple[str, ...]]]
"""Action: its handler, and its required arguments."""


def _with_key(key: ClientKeyKind, handlers: Handlers) -> dict[str, Action]:
    """Return actions about content that take the same kind of key."""
    return {
        name: ContentAction(handler=handler, key=key, required=required)
        for name, (handler, required) in handlers.items()
    }


USER_ACTIONS: dict[str, Action] = {
    "start": UserAction(handler=activity.start, creates_user=True),
    "stop": UserAction(handler=activity.stop),
    "pauseSession": UserAction(handler=activity.pause),
    "resumeSession": UserAction(handler=activity.resume),
    "heartbeat": UserAction(handler=activity.heartbeat),
    "track": UserAction(
        handler=activity.track, required=("event",), creates_user=True, past_rule=True
    ),
    "advance": UserAction(handler=activity.advance, required=("state",)),
    "pauseState": UserAction(handler=activity.pause_state),
    "resumeState": UserAction(handler=activity.resume_state),
    "setUserAttributes": UserAction(handler=attributes.set_user_attributes, creates_user=True),
    "setDeviceAttributes": UserAction(
        handler=attributes.set_device_attributes, required=("deviceId",), creates_user=True
    ),
    "setTrafficSourceInfo": UserAction(
        handler=attributes.set_traffic_source_info, required=("trafficSource",), creates_user=True
    ),
    "deleteUser": UserAction(
        handler=users.delete_user, key=ClientKeyKind.DEVELOPMENT, for_blocked=True
    ),
    "block": UserAction(handler=users.block, creates_user=True, for_blocked=True),
    "unblock": UserAction(handler=users.unblock, key=ClientKeyKind.DEVELOPMENT, for_blocked=True),
    "sendMessage": UserAction(handler=users.send_message, required=("messageId",)),
    "startCampaign": UserAction(
        handler=users.start_campaign, key=ClientKeyKind.DEVELOPMENT, required=("campaignId",)
    ),
    "getVars": UserAction(handler=content.get_vars),
    "exportUser": UserAction(
        handler=users.export_user, key=ClientKeyKind.DATA_EXPORT, for_blocked=True
    ),
}

_DEVELOPMENT: Handlers = {
    "registerDevice": (users.register_device, ("deviceId", "email")),
    "setVars": (content.set_vars, ("vars",)),
    "deleteVars": (content.delete_vars, ("vars",)),
    "addAndroidNotificationChannel": (content.add_channel, ("id", "name")),
    "deleteAndroidNotificationChannel": (content.delete_channel, ("channelId",)),
    "getMultiResults": (jobs.get_multi_results, ("jobId",)),
}

_EXPORT: Handlers = {
    "exportData": (jobs.export_data, ("startDate",)),
    "exportUsers": (jobs.export_users, ()),
    "exportReport": (jobs.export_report, ("startDate", "dataType")),
    "getExportResults": (jobs.get_export_results, ("jobId",)),
    "addPostback": (content.add_postback, ("type", "postbackUrl")),
    "listPostbacks": (content.list_postbacks, ()),
    "deletePostback": (content.delete_postback, ("postbackId",)),
}

_READ_ONLY: Handlers = {
    "getMessage": (content.get_message, ("id",)),
    "getMessages": (content.get_messages, ()),
    "getAbTest": (content.get_ab_test, ("id",)),
    "getAbTests": (content.get_ab_tests, ()),
    "getVariant": (content.get_variant, ("id",)),
    "getUnsubscribeCategories": (content.get_unsubscribe_categories, ()),
}

SDK_ACTIONS: dict[str, Action] = {
    "getNewsfeedMessages": UserAction(handler=users.get_newsfeed),
    "markNewsfeedMessageAsRead": UserAction(
        handler=users.mark_newsfeed_message_read, required=("newsfeedMessageId",)
    ),
    "deleteNewsfeedMessage": UserAction(
        handler=users.delete_newsfeed_message, required=("newsfeedMessageId",)
    ),
    "trackGeofence": UserAction(
        handler=activity.track, required=("event",), creates_user=True, past_rule=True
    ),
    "getMigrateState": ContentAction(handler=activity.get_migrate_state),
    "log": ContentAction(handler=activity.accept),
    "restart": ContentAction(handler=activity.accept),
    "saveInterface": ContentAction(handler=activity.accept, key=ClientKeyKind.DEVELOPMENT),
    "saveInterfaceImage": ContentAction(handler=activity.accept, key=ClientKeyKind.DEVELOPMENT),
    "getViewControllerVersionsList": ContentAction(
        handler=activity.accept, key=ClientKeyKind.DEVELOPMENT
    ),
}
"""Undocumented actions (fact sheet §3.8); which of them create an unknown user is inferred (I)."""

# `multi` is here the CSV job, with createJob; a multi of JSON has no handler of its own.
ACTIONS: dict[str, Action] = {
    **USER_ACTIONS,
    "getAndroidNotificationChannels": ContentAction(handler=content.get_channels),
    "downloadFile": ContentAction(
        handler=content.download_file, required=("filename",), alone=True
    ),
    "uploadFile": ContentAction(
        handler=content.upload_file, key=ClientKeyKind.DEVELOPMENT, alone=True
    ),
    "multi": ContentAction(handler=jobs.create_csv_job, key=ClientKeyKind.DEVELOPMENT, alone=True),
    **_with_key(ClientKeyKind.DEVELOPMENT, _DEVELOPMENT),
    **_with_key(ClientKeyKind.DATA_EXPORT, _EXPORT),
    **_with_key(ClientKeyKind.CONTENT_READ_ONLY, _READ_ONLY),
    **SDK_ACTIONS,
}
