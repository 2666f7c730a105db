"""The app's content: messages, A/B tests, variables, notification channels, postbacks, files.

In reads of content, `recent` is accepted without effect: all sandbox content is recent (I). Drafts
are found only with `includeDrafts`, which getMessage, getAbTest and getVariant accept too (fact
sheet §12.8); what they answer without it is inferred (I).
"""

import json
from typing import Any

from app.simulator.actions.context import (
    ActionContext,
    EntryFields,
    Redirected,
    Refused,
    UserActionContext,
)
from app.simulator.app_state import StoredFile
from app.simulator.arguments import decode_data, text
from app.simulator.config import SandboxAbTest, SandboxMessage, SandboxVariant

CREATED = 1_700_000_000.0
MAX_VARIABLES_BYTES = 1_000_000
MAX_POSTBACKS = 3
POSTBACK_TYPES = ("messageEvents", "abTestEvents")
POSTBACK_FIELDS = ("postbackId", "type", "postbackUrl")
MAX_FILES = 16
MAX_FILES_IOS = 100
MAX_CALL_BYTES = 50_000_000
MAX_STORED_BYTES = 64 * 1024 * 1024

_CHANNEL_TEXTS = ("description", "groupId", "sound")
_CHANNEL_NUMBERS = ("lightColor", "lockscreenVisibility")
_CHANNEL_FLAGS = ("enableLights", "enableVibration", "bypassDnd", "showBadge", "default")


def get_message(context: ActionContext) -> EntryFields:
    """Return a message."""
    message = context.world.messages.get(context.text("id"))
    if message is None or (message.draft and not _include_drafts(context)):
        raise Refused(context.texts.message_not_found, 404)
    return {"message": _message_json(message)}


def get_messages(context: ActionContext) -> EntryFields:
    """Return all messages."""
    drafts = _include_drafts(context)
    messages = [
        message for message in context.world.messages.values() if drafts or not message.draft
    ]
    return {"messages": [_message_json(message) for message in messages]}


def get_ab_test(context: ActionContext) -> EntryFields:
    """Return an A/B test; a missing one is answered like a missing message (I)."""
    for test in context.world.config.ab_tests:
        if str(test.id) == context.text("id") and (not test.draft or _include_drafts(context)):
            return {"abTest": _ab_test_json(test)}
    raise Refused(context.texts.ab_test_not_found, 404)


def get_ab_tests(context: ActionContext) -> EntryFields:
    """Return all A/B tests."""
    drafts = _include_drafts(context)
    tests = [test for test in context.world.config.ab_tests if drafts or not test.draft]
    return {"abTests": [_ab_test_json(test) for test in tests]}


def get_variant(context: ActionContext) -> EntryFields:
    """Return a variant of any A/B test."""
    for test in context.world.config.ab_tests:
        if test.draft and not _include_drafts(context):
            continue
        for variant in test.variants:
            if str(variant.id) == context.text("id"):
                return {"variant": _variant_json(variant)}
    raise Refused(context.texts.variant_not_found, 404)


def get_unsubscribe_categories(context: ActionContext) -> EntryFields:
    """Return all categories from which users can unsubscribe."""
    categories = context.world.config.unsubscribe_categories
    return {
        "categories": [
            {"id": category.id, "name": category.name, "description": category.description}
            for category in categories
        ]
    }


def _include_drafts(context: ActionContext) -> bool:
    context.flag("recent", default=True)
    return context.flag("includeDrafts", default=False)


def _common_json(content: SandboxMessage | SandboxAbTest) -> dict[str, Any]:
    """Return the fields of messages and A/B tests; the form of state and times is inferred (I)."""
    return {
        "id": content.id,
        "name": content.name,
        "active": not content.draft,
        "state": "draft" if content.draft else "active",
        "created": CREATED,
        "updated": CREATED,
        "finished": None,
        "targetingSticky": False,
    }


def _message_json(message: SandboxMessage) -> EntryFields:
    return {
        **_common_json(message),
        "messageType": message.kind,
        "scheduledTime": None,
        "campaignID": message.id,
        "campaignName": message.name,
        "abTestIds": [],
        "messageLimits": {},
        "localTriggers": [],
        "serverTriggers": [],
    }


def _ab_test_json(test: SandboxAbTest) -> EntryFields:
    variants = [_variant_json(variant) for variant in test.variants]
    return {**_common_json(test), "chosenVariant": None, "variants": variants, "details": {}}


def _variant_json(variant: SandboxVariant) -> EntryFields:
    return {
        "id": variant.id,
        "name": variant.name,
        "percent": variant.percent,
        "variables": list(variant.variables),
    }


def variables(context: ActionContext) -> EntryFields:
    """Return the variables and messages of `start` and `getVars`.

    No user is in a variant, so every variable has its default: with `includeDefaults` off there are
    none (I).
    """
    defaults: dict[str, Any] = {}
    if context.flag("includeDefaults", default=True):
        defaults = dict(context.world.content.variables)
    maps, lists = ("messages", "regions"), ("variants", "interfaceRules", "interfaceEvents")
    return {"vars": defaults, **{name: {} for name in maps}, **{name: [] for name in lists}}


def get_vars(context: UserActionContext) -> EntryFields:
    """Return the variables."""
    return variables(context)


def set_vars(context: ActionContext) -> EntryFields:
    """Set variables and keep all others (I); their total is under 1 MB (fact sheet §5)."""
    current = context.world.content.variables
    changed = current | context.mapping("vars")
    if len(json.dumps(changed)) >= MAX_VARIABLES_BYTES:
        raise Refused(context.texts.variables_too_large, 400)
    current.update(changed)
    return {}


def delete_vars(context: ActionContext) -> EntryFields:
    """Delete variables, and return the names that existed; unknown names are ignored (I)."""
    current = context.world.content.variables
    removed = [name for name in dict.fromkeys(context.texts_of("vars")) if name in current]
    for name in removed:
        del current[name]
    return {"variablesRemoved": removed}


def add_channel(context: ActionContext) -> EntryFields:
    """Add or update (I) a notification channel; `importance` is 3 if absent, despite the docs."""
    channel_id, channels = context.required_text("id"), context.world.content.channels
    created = channel_id not in channels
    name = context.required_text("name")
    importance = int(context.number("importance", 3))
    channels[channel_id] = {
        "id": channel_id,
        "name": name,
        "importance": importance,
        **_channel_options(context),
    }
    return {
        "channelCreated": created,
        "channelUpdated": not created,
        "channelId": channel_id,
        "name": name,
        "importance": importance,
    }


def delete_channel(context: ActionContext) -> EntryFields:
    """Delete a notification channel; `channelDeleted` is false for an unknown one (I)."""
    channel_id = context.required_text("channelId")
    channel = context.world.content.channels.pop(channel_id, None)
    return {"channelDeleted": channel is not None, "channelId": channel_id}


def get_channels(context: ActionContext) -> EntryFields:
    """Return all notification channels."""
    return {"notificationChannels": list(context.world.content.channels.values())}


def _channel_options(context: ActionContext) -> EntryFields:
    options: EntryFields = {}
    for name in filter(context.has, _CHANNEL_TEXTS):
        options[name] = context.text(name)
    for name in filter(context.has, _CHANNEL_NUMBERS):
        options[name] = context.number(name, 0)
    for name in filter(context.has, _CHANNEL_FLAGS):
        options[name] = context.flag(name, default=False)
    if context.has("vibrationPattern"):
        options["vibrationPattern"] = context.values("vibrationPattern")
    return options


def add_postback(context: ActionContext) -> EntryFields:
    """Add a postback, which is never sent; its id is a whole number (fact sheet §12.6).

    A fourth postback is refused, in a form that no source states (I).
    """
    content = context.world.content
    postback_type = context.choice("type", POSTBACK_TYPES)
    url = context.required_text("postbackUrl")
    channels = context.texts_of("channels") if context.has("channels") else []
    if len(content.postbacks) >= MAX_POSTBACKS:
        raise Refused(context.texts.too_many_postbacks.format(limit=MAX_POSTBACKS), 403)
    content.postbacks_made += 1
    postback_id = content.postbacks_made
    content.postbacks[str(postback_id)] = {
        "postbackId": postback_id,
        "type": postback_type,
        "postbackUrl": url,
        "channels": channels,
    }
    return {"postbackId": postback_id}


def list_postbacks(context: ActionContext) -> EntryFields:
    """Return all postbacks, without their channels."""
    postbacks = context.world.content.postbacks.values()
    return {
        "postbacks": [{name: postback[name] for name in POSTBACK_FIELDS} for postback in postbacks]
    }


def delete_postback(context: ActionContext) -> EntryFields:
    """Delete a postback; an unknown one is refused like an unknown message (I)."""
    postback_id = context.required_text("postbackId")
    if context.world.content.postbacks.pop(postback_id, None) is None:
        raise Refused(context.texts.postback_not_found, 404)
    return {}


def upload_file(context: ActionContext) -> EntryFields:
    """Store all files of a call or none; `size` and `hash` are not verified (I)."""
    files = _uploaded_files(context)
    if sum(len(file.content) for file in files) > MAX_CALL_BYTES:
        raise Refused(context.texts.upload_too_large, 400)
    if context.world.files.size_with(files) > MAX_STORED_BYTES:
        raise Refused(context.texts.storage_full, 403)
    context.world.files.upload(files)
    return {}


def download_file(context: ActionContext) -> EntryFields:
    """Redirect to the content of a file; the answer for an unknown one is inferred (I)."""
    file = context.world.files.uploads.get(context.required_text("filename"))
    if file is None:
        raise Refused(context.texts.file_not_found, 404)
    raise Redirected(file.url(context.call.origin))


def _uploaded_files(context: ActionContext) -> list[StoredFile]:
    """Return the files that `data` describes (file0, file1, …), or else the arguments (file)."""
    if not context.has("data"):
        return [_uploaded_file(context, context.item, "file")]
    descriptions = decode_data(context.item["data"])
    if not isinstance(descriptions, list):
        raise context.invalid("data")
    if not all(isinstance(description, dict) for description in descriptions):
        raise context.invalid("data")
    limit = MAX_FILES_IOS if context.text("client") == "ios" else MAX_FILES
    if len(descriptions) > limit:
        raise Refused(context.texts.upload_too_large, 400)
    return [
        _uploaded_file(context, description, f"file{index}")
        for index, description in enumerate(descriptions)
    ]


def _uploaded_file(context: ActionContext, description: dict[str, Any], part: str) -> StoredFile:
    name, upload = text(description.get("filename")), context.call.files.get(part)
    if not name:
        raise context.missing("filename")
    if upload is None:
        raise context.missing(part)
    return StoredFile(name, upload.content, text(description.get("hash")))
