"""What a plan's files may say, and what is told of them when something is wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tracking.plan.load import load_plans
from tests.support.tracking_plans import PURCHASE, SKU, found, plan, shop, text, told


def test_a_value_is_read_as_yaml_1_2_has_it() -> None:
    file = 'version: 2026-03-01\nmode: off\nevents: {404x: , on: {value: {enum: [NO, 1.5, 0x10, ~, true, "1"]}}}\n'
    plans = load_plans({"p.yaml": file}).plans
    assert plans is not None
    read = plans.of("any")
    assert read is not None
    assert (read.version, list(read.entries["events"])) == ("2026-03-01", ["404x", "on"])
    assert read.entries["events"]["on"].mode == "off"
    assert read.entries["events"]["on"].schema["properties"]["value"]["enum"] == [
        "NO",
        1.5,
        16,
        None,
        True,
        "1",
    ]


BAD = {
    "no YAML": ("version: 1\nevents: {A: [}\n", ":2: is not YAML"),
    "the same key twice": (
        "version: 1\nevents: {A: }\nevents: {B: }\n",
        ":3: duplicate key events",
    ),
    "an alias in itself": ("version: 1\nevents: &a {A: *a}\n", ":2: has an alias inside"),
    "a tag": ("version: !!python/name:os.system x\n", ":1: the tag"),
    "a list": ("- 1\n", "is not a plan"),
    "nothing": ("", "is not a plan"),
    "a huge number": (
        "version: 1\nevents: {A: {value: {minimum: 99999999999999999999}}}\n",
        "must fit in 64 bits",
    ),
    "no version": ("events: {A: }\n", "version: is required"),
    "an unknown field": (
        "version: 1\nevents:\n  A:\n    valeu: {}\n",
        ":4: events.A.valeu: unknown field",
    ),
    "an unknown mode": (
        "version: 1\nmode: strict\n",
        ":2: mode: input should be 'off', 'warn' or 'enforce'",
    ),
    "no schema": (
        "version: 1\nevents:\n  A:\n    params: 3\n",
        ":4: events.A.params: must be a JSON Schema",
    ),
    "a bad app": ("version: 1\napps:\n  - a b\n", ":3: apps.0: must be an app's name"),
    "a name of digits": (
        'version: 1\nevents:\n  "12":\n',
        ":3: events.12: must be 1 to 139 characters",
    ),
    "a name that is too long": (
        f"version: 1\nstates:\n  {'x' * 140}:\n",
        "must be 1 to 139 characters",
    ),
    "a parameter's name": (
        "version: 1\nevents:\n  A:\n    params:\n      properties:\n        .a: {}\n",
        ":6: events.A.params.properties..a: must be 1 to 139 characters",
    ),
    "a shared name": (
        "version: 1\nevents: {A: }\nstates:\n  A:\n",
        ":4: states.A: is also an event",
    ),
    "no keyword": (
        "version: 1\nevents:\n  A:\n    params:\n      sku: {type: string}\n",
        ":5: events.A.params.sku: is not a supported JSON Schema keyword",
    ),
    "no type": (
        "version: 1\nattributes:\n  a:\n    schema: {type: text}\n",
        "a.schema.type: must be one of string",
    ),
    "no format": (
        "version: 1\nattributes: {a: {schema: {format: phone}}}\n",
        "format: is not a known format",
    ),
    "a look-around": (
        'version: 1\nattributes: {a: {schema: {pattern: "(?=a)"}}}\n',
        "is not a supported regular expression",
    ),
    "a broken pattern": (
        'version: 1\nattributes: {a: {schema: {pattern: "(a"}}}\n',
        "is not a supported regular expression",
    ),
    "a reference away": (
        'version: 1\nattributes: {a: {schema: {$ref: "https://example.com/a"}}}\n',
        "must be #/definitions/NAME",
    ),
    "a missing definition": (
        'version: 1\nattributes: {a: {schema: {items: {$ref: "#/definitions/b"}}}}\n',
        "attributes.a.schema.items.$ref: must be #/definitions/NAME",
    ),
    "an example of another type": (
        "version: 1\nattributes:\n  a:\n    schema: {type: string}\n    examples:\n      - 3\n",
        ":6: attributes.a.examples.0: must be a string: the example violates its own attribute",
    ),
    "an example that lacks something": (
        "version: 1\nevents:\n  A:\n    required: [value]\n    examples:\n      - {info: x}\n",
        "events.A.examples.0.value: is required by the tracking plan",
    ),
    "an example that the rules refuse": (
        "version: 1\nevents: {A: {examples: [{currencyCode: euro}]}}\n",
        "events.A.examples.0.currencyCode: must be an ISO 4217 currency code",
    ),
    "an example that is no object": (
        "version: 1\nstates: {A: {examples: [3]}}\n",
        "must be an object with the fields of an item",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_told_with_its_place(case: str) -> None:
    file, expected = BAD[case]
    faults = told(file)
    assert any(expected in fault for fault in faults), faults
    assert all(fault.startswith("a.yaml") for fault in faults)
    assert found(file).plans is None


def test_every_fault_is_told_at_once() -> None:
    faults = told(
        'version: 1\nevents:\n  "1": \n  A: {params: {x: 1}}\n  B: {value: {type: text}}\n'
    )
    assert [fault.split(": ")[1] for fault in faults] == [
        "events.1",
        "events.A.params.x",
        "events.B.value.type",
    ]


def test_more_than_fifty_parameters_are_too_many() -> None:
    def params(count: int) -> str:
        return text(
            events={"A": {"params": {"properties": {f"p{number}": {} for number in range(count)}}}}
        )

    assert told(params(50)) == []
    assert "has 51 parameters; Leanplum accepts at most 50" in told(params(51))[0]


def test_what_would_do_no_harm_is_told_and_does_not_keep_the_plan_from_being_loaded() -> None:
    file = text(
        definitions={"unused": {}},
        events={f"e{number}": {} for number in range(501)}
        | {"A": {"params": {"properties": {"o": {"type": "object"}}}}},
    )
    faults = told(file)
    assert len(faults) == 3
    assert any("definitions.unused: is not used" in fault for fault in faults)
    assert any("events: has 502 names; Leanplum keeps 500" in fault for fault in faults)
    assert any("events.A.params.properties.o: can't be an object" in fault for fault in faults)
    assert found(file).plans is not None


def test_the_files_of_a_folder_are_one_plan() -> None:
    main = text(unknown={"events": "enforce"}, definitions=SKU, mode="enforce")
    events = '{"mode": "off", "events": {"Purchase": {"params": {"$ref": "#/definitions/sku"}}}}'
    plans = found(main, events).plans
    assert plans is not None
    one = plans.of("any")
    assert one is not None
    assert (one.version, one.unknown["events"], one.files) == ("1", "enforce", ("a.yaml", "b.yaml"))
    assert one.entries["events"]["Purchase"].mode == "off"


def test_what_two_files_say_differently_is_a_fault() -> None:
    faults = told(text(events={"A": {}}), '{"version": "2", "events": {"A": {}}}')
    assert "b.yaml:1: version: differs from the one in a.yaml" in faults
    assert "b.yaml:1: events.A: is already defined in a.yaml" in faults


def test_a_file_may_be_for_certain_apps() -> None:
    shared = '{"attributes": {"plan": {}}}'
    plans = found(
        text(apps=["shop"], events={"Buy": {}}),
        text(apps=["game", "beta"], events={"Play": {}}),
        shared,
    ).plans
    assert plans is None  # of every other app: `shared` alone has no version
    plans = found(
        text(apps=["shop"], events={"Buy": {}}),
        text(apps=["game", "beta"], events={"Play": {}}),
        text(),
    ).plans
    assert plans is not None
    names = {
        app: list(one.entries["events"])
        for app in ("shop", "game", "beta", "new")
        if (one := plans.of(app))
    }
    assert names == {"shop": ["Buy"], "game": ["Play"], "beta": ["Play"], "new": []}
    assert plans.of("game") is plans.of("beta")


def test_the_digest_is_of_the_content_not_of_its_form() -> None:
    one, same = (
        plan(events={"A": {"owner": "x"}, "B": {}}),
        plan(events={"B": {}, "A": {"owner": "x"}}),
    )
    assert one.digest == same.digest
    assert one.digest != plan(events={"A": {"owner": "y"}, "B": {}}).digest


def test_the_plan_of_the_other_tests_is_good() -> None:
    assert told(shop()) == []
    assert PURCHASE["mode"] == "enforce"


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(content: str) -> None:
    assert found(content).plans is None or found(content).findings == ()
