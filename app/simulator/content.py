"""What calls have made of the app itself: variables, registered devices, notification channels,
postbacks.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Content:
    """The app's own content, each kind in the order in which it was made."""

    variables: dict[str, Any] = field(default_factory=dict)
    registered: dict[str, str] = field(default_factory=dict)
    """Development devices: device id to email."""
    channels: dict[str, dict[str, Any]] = field(default_factory=dict)
    postbacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    postbacks_made: int = 0

    def shown(self) -> dict[str, Any]:
        """What /_simulator/app shows."""
        return {
            "variables": self.variables,
            "registeredDevices": self.registered,
            "notificationChannels": list(self.channels.values()),
            "postbacks": list(self.postbacks.values()),
        }
