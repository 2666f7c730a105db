"""Sessions and states, on the pure world with a clock that is moved (fact sheet §3.1, §3.3)."""

from .simulated_app import MINUTE, NOW, App


def test_a_session_ends_after_two_idle_hours(app: App) -> None:
    app.ann("start")
    app.now += 119 * MINUTE
    app.ann("heartbeat")
    app.now += 119 * MINUTE
    assert app.ann("track", event="Open", disposition="passive") == {"success": True}
    app.now += 2 * MINUTE
    assert app.ann("track", event="Open")["isOffline"] is True


def test_resuming_a_short_pause_goes_on_and_a_long_one_begins_a_new_session(app: App) -> None:
    app.ann("start")
    for minutes, sessions in ((29, 1), (31, 2)):
        app.ann("pauseSession")
        app.now += minutes * MINUTE
        app.ann("resumeSession")
        assert len(app.user.sessions) == sessions
    assert app.user.profile["totalSessions"] == 2


def test_stop_ends_the_session(app: App) -> None:
    app.ann("start")
    app.ann("stop")
    assert app.user.session(NOW) is None


def test_a_background_session_counts_only_when_it_is_resumed(app: App) -> None:
    app.ann("start", background="true")
    assert "totalSessions" not in app.user.profile
    app.ann("resumeSession")
    assert app.user.profile["totalSessions"] == 1


def test_start_answers_what_sdks_read(app: App) -> None:
    entry = app.ann(
        "start", deviceId="d1", userAttributes='{"age":29}', locale="en_US", deviceModel="X"
    )
    lists: dict[str, list[str]] = {"variants": [], "interfaceRules": [], "interfaceEvents": []}
    assert (
        entry | {"vars": {}, "messages": {}, "regions": {}, "syncNewsfeed": False, **lists} == entry
    )
    assert entry["token"]
    assert (app.user.attributes, app.user.profile["locale"]) == ({"age": 29}, "en_US")
    assert app.world.devices["d1"].attributes == {"deviceModel": "X"}


def test_states_are_entered_paused_resumed_and_left(app: App) -> None:
    app.ann()
    app.ann("advance", state="Level 1", params={"a": 1})
    app.ann("pauseState")
    assert (app.user.state, app.user.state_paused) == ("Level 1", True)
    app.ann("resumeState")
    assert app.user.state_paused is False
    app.ann("advance", state="")
    assert app.user.state is None
    assert app.user.states["Level 1"].count == 1
