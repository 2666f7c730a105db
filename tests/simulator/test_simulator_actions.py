"""That the simulator does every action that is documented, and those that only SDKs call (fact
sheet §2, §3.8).
"""

from app.simulator.actions.table import ACTIONS
from app.simulator.config import ClientKeyKind

DOCUMENTED = {
    ClientKeyKind.PRODUCTION: (
        "start stop pauseSession resumeSession heartbeat track advance pauseState resumeState setUserAttributes "
        "setDeviceAttributes setTrafficSourceInfo block sendMessage getVars downloadFile getAndroidNotificationChannels"
    ),
    ClientKeyKind.DEVELOPMENT: (
        "registerDevice deleteUser unblock setVars deleteVars uploadFile addAndroidNotificationChannel "
        "deleteAndroidNotificationChannel startCampaign multi getMultiResults"
    ),
    ClientKeyKind.DATA_EXPORT: (
        "exportData exportReport exportUser exportUsers getExportResults addPostback listPostbacks deletePostback"
    ),
    ClientKeyKind.CONTENT_READ_ONLY: "getMessage getMessages getUnsubscribeCategories getAbTest getAbTests getVariant",
}
SDK_ONLY = "getNewsfeedMessages markNewsfeedMessageAsRead deleteNewsfeedMessage getMigrateState log trackGeofence restart"

OF_IOS = "saveInterface saveInterfaceImage getViewControllerVersionsList"


def test_every_documented_action_is_done_with_its_kind_of_key() -> None:
    documented = {name: key for key, names in DOCUMENTED.items() for name in names.split()}
    assert len(documented) == 42
    others = f"{SDK_ONLY} {OF_IOS}".split()
    done = {name: action.key for name, action in ACTIONS.items() if name not in others}
    assert done == documented


def test_what_only_sdks_call_is_done_with_the_production_key() -> None:
    assert {ACTIONS[name].key for name in SDK_ONLY.split()} == {ClientKeyKind.PRODUCTION}
    assert {ACTIONS[name].key for name in OF_IOS.split()} == {ClientKeyKind.DEVELOPMENT}
    assert len(ACTIONS) == 42 + 7 + 3
