"""The edge node against the assertions of the Sparkplug 3.0 specification, each by its id.

``LIST`` is what the tests of the specification's compatibility kit assert of an edge node, by the
name of their class in tck/src/main/java/org/eclipse/sparkplug/tck/test/edge of
https://github.com/eclipse-sparkplug/sparkplug. Each id is named by a test here, or by ``LEFT_OUT``
with a reason; the last test looks after that. What is judged is what went over the wire to a real
mosquitto, and is read by the protobuf package. The kit itself has not been run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from patience import LONG_S

from edge.telemetry.figures import Figure, Figures
from edge.telemetry.formats._sparkplug.births import Births
from edge.telemetry.formats._sparkplug.history import History
from edge.telemetry.formats._sparkplug.node import EdgeNode, Pace
from edge.telemetry.formats._sparkplug.primary_host import PrimaryHost
from edge.telemetry.formats._sparkplug.session import Names
from edge.telemetry.reports import Report

LIST: dict[str, str] = {
    "SessionEstablishment": """
        principles-birth-certificates-order principles-persistence-clean-session-311
        principles-persistence-clean-session-50 payloads-ndeath-will-message-qos payloads-ndeath-seq
        topics-ndeath-seq topics-ndeath-payload payloads-ndeath-will-message-retain
        payloads-ndeath-will-message payloads-nbirth-qos payloads-nbirth-retain payloads-nbirth-seq
        payloads-sequence-num-req-nbirth payloads-nbirth-bdseq payloads-nbirth-timestamp
        payloads-nbirth-rebirth-req payloads-ndeath-bdseq message-flow-edge-node-ncmd-subscribe
        topics-nbirth-mqtt topics-nbirth-seq-num topics-nbirth-timestamp
        topics-nbirth-bdseq-included topics-nbirth-bdseq-matching topics-nbirth-rebirth-metric
        payloads-dbirth-qos payloads-dbirth-retain topics-dbirth-mqtt topics-dbirth-timestamp
        payloads-dbirth-timestamp payloads-dbirth-seq topics-dbirth-seq payloads-dbirth-seq-inc
        payloads-dbirth-order operational-behavior-data-commands-rebirth-name
        operational-behavior-data-commands-rebirth-datatype
        operational-behavior-data-commands-rebirth-value
        operational-behavior-data-publish-nbirth-values
        operational-behavior-data-publish-dbirth-values
        operational-behavior-data-commands-rebirth-name-aliases topics-nbirth-metrics
        topics-dbirth-metrics message-flow-edge-node-birth-publish-nbirth-qos
        message-flow-edge-node-birth-publish-nbirth-retained
        message-flow-edge-node-birth-publish-nbirth-payload-seq
        message-flow-edge-node-birth-publish-nbirth-payload
        message-flow-edge-node-birth-publish-will-message-will-retained
        message-flow-edge-node-birth-publish-will-message-payload
        message-flow-edge-node-birth-publish-will-message
        message-flow-edge-node-birth-publish-will-message-topic
        message-flow-edge-node-birth-publish-connect message-flow-device-dcmd-subscribe
        message-flow-edge-node-birth-publish-nbirth-topic
        message-flow-edge-node-birth-publish-phid-wait
        message-flow-edge-node-birth-publish-will-message-qos
        message-flow-edge-node-birth-publish-nbirth-payload-bdseq
        message-flow-device-birth-publish-dbirth-topic
        message-flow-device-birth-publish-dbirth-payload
        message-flow-device-birth-publish-dbirth-qos
        message-flow-device-birth-publish-dbirth-retained
        message-flow-device-birth-publish-nbirth-wait
        message-flow-device-birth-publish-dbirth-match-edge-node-topic payloads-nbirth-bdseq-repeat
        payloads-ndata-order payloads-ddata-order payloads-alias-uniqueness topics-nbirth-topic
        topics-dbirth-topic case-sensitivity-metric-names""",
    "SessionTermination": """
        topics-ddeath-mqtt topics-ddeath-seq-num payloads-ddeath-timestamp payloads-ddeath-seq
        payloads-ddeath-seq-inc payloads-ddeath-seq-number
        operational-behavior-edge-node-intentional-disconnect-ndeath
        operational-behavior-edge-node-intentional-disconnect-packet
        operational-behavior-device-ddeath payloads-ndeath-will-message-publisher
        payloads-ndeath-will-message-publisher-disconnect-mqtt311
        payloads-ndeath-will-message-publisher-disconnect-mqtt50 topics-ndeath-topic
        topics-ddeath-topic message-flow-edge-node-birth-publish-will-message-topic""",
    "SendData": """
        topics-ndata-mqtt topics-ndata-seq-num topics-ndata-timestamp topics-ndata-payload
        topics-ddata-mqtt topics-ddata-seq-num topics-ddata-timestamp topics-ddata-payload
        payloads-ndata-timestamp payloads-ndata-seq payloads-ndata-qos payloads-ndata-retain
        payloads-ddata-timestamp payloads-ddata-seq payloads-ddata-qos payloads-ddata-retain
        payloads-template-definition-nbirth-only payloads-template-definition-ref
        payloads-template-definition-parameters-default payloads-template-instance-ref
        payloads-template-definition-members payloads-template-instance-members-birth
        payloads-template-instance-members-data payloads-template-definition-nbirth
        payloads-template-instance-members payloads-template-definition-parameters
        payloads-template-instance-parameters""",
    "SendComplexData": """
        payloads-sequence-num-always-included payloads-metric-datatype-value-type
        payloads-metric-datatype-value payloads-propertyset-keys-array-size
        payloads-propertyset-values-array-size payloads-metric-propertyvalue-type-type
        payloads-metric-propertyvalue-type-value payloads-metric-propertyvalue-type-req
        payloads-propertyset-quality-value-type payloads-propertyset-quality-value-value
        payloads-alias-data-cmd-requirement payloads-metric-datatype-not-req
        payloads-name-requirement payloads-name-birth-data-requirement payloads-name-cmd-requirement
        payloads-dataset-column-size payloads-dataset-column-num-headers payloads-dataset-types-def
        payloads-dataset-types-type payloads-dataset-types-value payloads-dataset-types-num
        payloads-dataset-parameter-type-req payloads-template-dataset-value
        payloads-template-is-definition payloads-template-definition-is-definition
        payloads-template-instance-is-definition payloads-template-definition-ref
        payloads-template-instance-ref payloads-template-ref-definition
        payloads-template-is-definition-definition payloads-template-is-definition-instance
        payloads-template-version payloads-template-ref-instance
        payloads-template-parameter-name-required payloads-template-parameter-name-type
        payloads-template-parameter-value-type payloads-template-parameter-type-value
        payloads-template-parameter-type-req payloads-template-parameter-value""",
    "ReceiveCommand": """
        operational-behavior-data-commands-rebirth-action-1
        operational-behavior-data-commands-rebirth-action-2
        operational-behavior-data-commands-rebirth-action-3 payloads-ndeath-will-message""",
    "PrimaryHost": """
        message-flow-edge-node-birth-publish-phid-wait
        message-flow-edge-node-birth-publish-phid-wait-id
        message-flow-edge-node-birth-publish-phid-wait-online
        message-flow-edge-node-birth-publish-phid-wait-timestamp
        message-flow-edge-node-birth-publish-phid-offline
        operational-behavior-edge-node-termination-host-offline
        operational-behavior-edge-node-termination-host-offline-reconnect
        operational-behavior-edge-node-termination-host-offline-timestamp""",
    "MultipleBroker": """
        operational-behavior-primary-application-state-with-multiple-servers-single-server
        operational-behavior-primary-application-state-with-multiple-servers-state-subs
        operational-behavior-primary-application-state-with-multiple-servers-walk
        operational-behavior-edge-node-birth-sequence-wait""",
    # These the kit leaves to its monitor, or to nobody: what the specification says of history.
    "BeyondTheClasses": """
        operational-behavior-data-publish-nbirth-order
        operational-behavior-data-publish-dbirth-order
        operational-behavior-data-publish-nbirth-change
        operational-behavior-data-publish-dbirth-change
        operational-behavior-data-publish-nbirth operational-behavior-data-publish-dbirth""",
}

_MQTT_5 = "its sessions are always of MQTT 3.1.1"
_ALIAS = "it sends no aliases, which are optional"
_LATER = "sensors and models come and go: what no birth has named takes another birth first"
_HOST_SIDE = "it is the host that sends commands"
LEFT_OUT: dict[str, str] = {
    "principles-persistence-clean-session-50": _MQTT_5,
    "payloads-ndeath-will-message-publisher-disconnect-mqtt50": _MQTT_5,
    "payloads-alias-uniqueness": _ALIAS,
    "payloads-alias-data-cmd-requirement": _ALIAS,
    "payloads-name-cmd-requirement": _HOST_SIDE,
    "operational-behavior-data-publish-nbirth": _LATER,
    "operational-behavior-data-publish-dbirth": _LATER,
    "payloads-propertyset-quality-value-type": "it sends no quality, which is optional",
    "payloads-propertyset-quality-value-value": "it sends no quality, which is optional",
    **{
        name: f"it sends no {kind}s, which are optional"
        for names in LIST.values()
        for name in names.split()
        for kind in ("template", "dataset")
        if name.startswith(f"payloads-{kind}")
    },
}

COVERED: dict[str, str] = {}
CONNECT, PUBLISH, SUBSCRIBE, DISCONNECT = 1, 3, 8, 14
NAMES = Names("Group", "Node")
STATE = "spBv1.0/STATE/Scada"
TYPES = {  # of the metric -> the field that its value must be in (chapter 6.4.16)
    4: "long_value",
    10: "double_value",
    11: "boolean_value",
    12: "string_value",
    13: "long_value",
}
QUICK = Pace(first_wait_s=0.02, longest_wait_s=0.1)


def asserts(names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Says which assertions a test is for."""

    def note(test: Callable[..., None]) -> Callable[..., None]:
        COVERED.update(dict.fromkeys(names.split(), test.__name__))
        return test

    return note


def _figures(percent: float, count: int | None) -> list[Figure]:
    """Those of the device, and of its model unless it has none."""
    figures = Figures()
    device = {"cpu_percent": percent, "power_level": "free", "memory_bytes": 9}
    figures.take([Report(("tele", "device"), device)])
    if count is not None:
        row = {"name": "digits", "version": "1", "success_count": count}
        figures.take(
            [
                Report(("model", "digits"), {"name": "digits", "is_fallback": False}, "retained"),
                Report(("tele", "model"), {"models": [row]}),
            ]
        )
    return list(figures)


class Said:
    """One packet of a client, and what protobuf reads of it."""

    def __init__(self, packet: Any, proto: Any) -> None:
        self.packet = packet
        self.parts = packet.topic.split("/")
        self.kind = self.parts[2] if len(self.parts) > 3 else ""
        is_payload = packet.kind == CONNECT or (packet.kind == PUBLISH and bool(self.kind))
        self.payload = proto.FromString(packet.payload) if is_payload else None

    @property
    def is_past(self) -> bool:
        return self.payload is not None and any(one.is_historical for one in self.payload.metrics)

    @property
    def metrics(self) -> dict[str, Any]:
        assert self.payload is not None
        return {one.name: one for one in self.payload.metrics}

    @property
    def number(self) -> int:
        return int(self.metrics["bdSeq"].long_value)


class Record:
    """What happened on the wire, connection by connection; and what came to a host."""

    def __init__(self, connections: list[list[Any]], arrived: list[Any], proto: Any) -> None:
        self.sessions = [[Said(packet, proto) for packet in noted] for noted in connections]
        self.arrived = arrived

    def all(self, *kinds: str) -> list[Said]:
        found = [
            one
            for session in self.sessions
            for one in session
            if one.packet.kind == PUBLISH and one.kind in kinds
        ]
        assert found, f"there was no {kinds}"
        return found


@pytest.fixture(scope="module")
def record(
    start_mosquitto: Any,
    wire: Any,
    host: Any,
    proto: Any,
    eventually: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Record:
    """Birth, data, a device that goes and comes, a rebirth, a cut, a goodbye."""
    broker = start_mosquitto()
    line, listener = wire(broker), host(broker)
    births = Births(tmp_path_factory.mktemp("state") / "node.bdSeq")
    node = EdgeNode((line.address,), NAMES, births, History(None), pace=QUICK)
    node.start()

    def heard(*kinds: str) -> None:
        eventually(lambda: listener.kinds()[-len(kinds) :] == list(kinds), f"{kinds}")

    node.tell(_figures(1.0, 1))
    heard("NBIRTH", "DBIRTH")
    node.tell(_figures(2.0, 2))
    heard("NDATA", "DDATA")
    node.tell(_figures(2.0, None))
    heard("DDEATH")
    node.tell(_figures(2.0, 3))
    heard("DBIRTH")
    rebirth = proto()
    rebirth.metrics.add(name="Node Control/Rebirth", datatype=11, boolean_value=True)
    listener.send("spBv1.0/Group/NCMD/Node", rebirth.SerializeToString())
    heard("NCMD", "NBIRTH", "DBIRTH")
    listener.send("spBv1.0/Group/NCMD/Node", b"\xff\xff")  # no payload of Sparkplug
    listener.send("spBv1.0/Group/DCMD/Node/digits", rebirth.SerializeToString())
    heard("NCMD", "DCMD")
    node.tell(_figures(3.0, 3))
    heard("NDATA")
    line.cut()
    heard("NDEATH", "NBIRTH", "DBIRTH")
    node.tell(_figures(4.0, 4))
    heard("NDATA", "DDATA")
    node.close(LONG_S)
    heard("NDEATH")
    eventually(lambda: line.open_count == 0, "the end")
    return Record(line.connections, list(listener.received), proto)


@asserts("""
    message-flow-edge-node-birth-publish-connect payloads-ndeath-will-message topics-ndeath-topic
    message-flow-edge-node-birth-publish-will-message
    message-flow-edge-node-birth-publish-will-message-topic""")
def test_each_session_begins_with_connect_and_a_will_under_the_topic_of_its_death(
    record: Record,
) -> None:
    assert len(record.sessions) == 2
    for session in record.sessions:
        will = session[0].packet
        assert will.kind == CONNECT
        assert will.flags & 0x04
        assert will.topic == "spBv1.0/Group/NDEATH/Node"


@asserts("principles-persistence-clean-session-311")
def test_sessions_are_clean(record: Record) -> None:
    for session in record.sessions:
        assert session[0].packet.level == 4  # MQTT 3.1.1
        assert session[0].packet.flags & 0x02


@asserts("""
    payloads-ndeath-will-message-qos payloads-ndeath-will-message-retain
    message-flow-edge-node-birth-publish-will-message-qos
    message-flow-edge-node-birth-publish-will-message-will-retained""")
def test_the_will_is_of_qos_1_and_not_retained(record: Record) -> None:
    for session in record.sessions:
        assert (session[0].packet.qos, session[0].packet.is_retained) == (1, False)


@asserts("""
    payloads-ndeath-seq topics-ndeath-seq topics-ndeath-payload payloads-ndeath-bdseq
    message-flow-edge-node-birth-publish-will-message-payload""")
def test_a_death_has_the_number_of_its_session_alone(record: Record) -> None:
    deaths = [session[0] for session in record.sessions] + record.all("NDEATH")
    for death in deaths:
        assert death.payload is not None
        assert not death.payload.HasField("seq")
        assert list(death.metrics) == ["bdSeq"]
        assert (death.metrics["bdSeq"].datatype, death.number) in ((4, 0), (4, 1))


@asserts("""
    payloads-nbirth-bdseq topics-nbirth-bdseq-included topics-nbirth-bdseq-matching
    message-flow-edge-node-birth-publish-nbirth-payload-bdseq payloads-nbirth-bdseq-repeat
    operational-behavior-data-commands-rebirth-action-3""")
def test_births_repeat_the_number_of_the_will_also_when_asked_for_again(record: Record) -> None:
    numbers = [
        (session[0].number, [one.number for one in session if one.kind == "NBIRTH"])
        for session in record.sessions
    ]
    assert numbers == [(0, [0, 0]), (1, [1])]


@asserts("""
    payloads-nbirth-qos payloads-nbirth-retain topics-nbirth-mqtt
    message-flow-edge-node-birth-publish-nbirth-qos
    message-flow-edge-node-birth-publish-nbirth-retained payloads-dbirth-qos payloads-dbirth-retain
    topics-dbirth-mqtt message-flow-device-birth-publish-dbirth-qos
    message-flow-device-birth-publish-dbirth-retained topics-ndata-mqtt payloads-ndata-qos
    payloads-ndata-retain topics-ddata-mqtt payloads-ddata-qos payloads-ddata-retain
    topics-ddeath-mqtt""")
def test_births_data_and_deaths_of_devices_are_of_qos_0_and_not_retained(record: Record) -> None:
    for kind in ("NBIRTH", "DBIRTH", "NDATA", "DDATA", "DDEATH"):
        for said in record.all(kind):
            assert (said.packet.qos, said.packet.is_retained) == (0, False), kind


@asserts("""
    payloads-nbirth-timestamp topics-nbirth-timestamp topics-dbirth-timestamp
    payloads-dbirth-timestamp topics-ndata-timestamp payloads-ndata-timestamp
    topics-ddata-timestamp payloads-ddata-timestamp payloads-ddeath-timestamp""")
def test_messages_say_when_they_were_sent(record: Record) -> None:
    now_ms = time.time() * 1000
    for said in record.all("NBIRTH", "DBIRTH", "NDATA", "DDATA", "DDEATH"):
        assert said.payload is not None
        assert now_ms - 3_600_000 < said.payload.timestamp <= now_ms


@asserts("""
    payloads-nbirth-seq topics-nbirth-seq-num payloads-sequence-num-req-nbirth
    message-flow-edge-node-birth-publish-nbirth-payload-seq payloads-dbirth-seq topics-dbirth-seq
    payloads-dbirth-seq-inc topics-ndata-seq-num payloads-ndata-seq topics-ddata-seq-num
    payloads-ddata-seq topics-ddeath-seq-num payloads-ddeath-seq payloads-ddeath-seq-inc
    payloads-ddeath-seq-number payloads-sequence-num-always-included""")
def test_seq_is_0_in_a_birth_and_one_more_in_each_message_of_node_and_devices(
    record: Record,
) -> None:
    for session in record.sessions:
        expected = 0
        for said in session:
            if said.packet.kind == PUBLISH and said.kind != "NDEATH":
                assert said.payload is not None
                assert said.payload.HasField("seq")
                expected = 0 if said.kind == "NBIRTH" else expected + 1
                assert said.payload.seq == expected


@asserts("""
    payloads-nbirth-rebirth-req topics-nbirth-rebirth-metric
    operational-behavior-data-commands-rebirth-name
    operational-behavior-data-commands-rebirth-datatype
    operational-behavior-data-commands-rebirth-value
    operational-behavior-data-commands-rebirth-name-aliases""")
def test_a_birth_offers_to_be_repeated(record: Record) -> None:
    for said in record.all("NBIRTH"):
        offer = said.metrics["Node Control/Rebirth"]
        assert (offer.datatype, offer.boolean_value, offer.HasField("alias")) == (11, False, False)
        assert offer.HasField("boolean_value")


@asserts("""
    topics-nbirth-metrics topics-dbirth-metrics message-flow-edge-node-birth-publish-nbirth-payload
    message-flow-device-birth-publish-dbirth-payload operational-behavior-data-publish-nbirth-values
    operational-behavior-data-publish-dbirth-values payloads-name-birth-data-requirement""")
def test_births_name_all_metrics_with_types_and_values_as_they_are(record: Record) -> None:
    nodes = [
        {name: (one.datatype, one.double_value) for name, one in said.metrics.items()}
        for said in record.all("NBIRTH")
    ]
    for node in nodes:
        assert set(node) - {"bdSeq", "Node Control/Rebirth"} == {
            "device/cpu_percent",
            "device/power_level",
            "device/memory_bytes",
            "event/command",
            "event/gap",
        }
    assert [node["device/cpu_percent"] for node in nodes] == [(10, 1.0), (10, 2.0), (10, 3.0)]
    devices = [said.metrics for said in record.all("DBIRTH")]
    for device in devices:
        assert {name: one.datatype for name, one in device.items()} == {
            "is_fallback": 11,
            "success_count": 4,
        }
    assert [device["success_count"].long_value for device in devices] == [1, 3, 3, 3]


@asserts("payloads-metric-datatype-value-type payloads-metric-datatype-value")
def test_types_are_those_of_the_specification_and_values_are_in_their_field(
    record: Record,
) -> None:
    for said in record.all("NBIRTH", "DBIRTH"):
        for metric in said.metrics.values():
            is_known = metric.HasField(TYPES[metric.datatype])
            assert is_known != metric.is_null, metric.name


@asserts("payloads-metric-datatype-not-req")
def test_data_does_not_repeat_types(record: Record) -> None:
    for said in record.all("NDATA", "DDATA"):
        assert not any(metric.HasField("datatype") for metric in said.metrics.values())


@asserts("""
    payloads-propertyset-keys-array-size payloads-propertyset-values-array-size
    payloads-metric-propertyvalue-type-type payloads-metric-propertyvalue-type-value
    payloads-metric-propertyvalue-type-req""")
def test_units_are_properties_with_a_type(record: Record) -> None:
    units = {}
    for said in record.all("NBIRTH"):
        for name, metric in said.metrics.items():
            keys, values = list(metric.properties.keys), list(metric.properties.values)
            assert len(keys) == len(values)
            for key, value in zip(keys, values, strict=True):
                assert (value.type, value.HasField("string_value")) == (12, True)
                units[name] = (key, value.string_value)
    assert units == {
        "device/cpu_percent": ("engUnit", "%"),
        "device/memory_bytes": ("engUnit", "B"),
    }


@asserts("payloads-name-requirement case-sensitivity-metric-names")
def test_each_metric_has_a_name_of_its_own_whatever_its_case(record: Record) -> None:
    for said in record.all("NBIRTH", "DBIRTH", "NDATA", "DDATA"):
        assert said.payload is not None
        names = [metric.name.lower() for metric in said.payload.metrics]
        assert all(names)
        assert len(set(names)) == len(names)


@asserts("""
    message-flow-edge-node-birth-publish-nbirth-topic topics-nbirth-topic topics-dbirth-topic
    message-flow-device-birth-publish-dbirth-topic
    message-flow-device-birth-publish-dbirth-match-edge-node-topic topics-ddeath-topic""")
def test_topics_are_of_group_kind_node_and_device(record: Record) -> None:
    for said in record.all("NBIRTH", "NDATA", "NDEATH"):
        assert said.parts == ["spBv1.0", "Group", said.kind, "Node"]
    for said in record.all("DBIRTH", "DDATA", "DDEATH"):
        assert said.parts == ["spBv1.0", "Group", said.kind, "Node", "digits"]


@asserts("""
    principles-birth-certificates-order payloads-dbirth-order payloads-ndata-order
    payloads-ddata-order message-flow-device-birth-publish-nbirth-wait""")
def test_births_come_first_and_that_of_the_node_before_those_of_devices(record: Record) -> None:
    for session in record.sessions:
        kinds = [one.kind for one in session if one.packet.kind == PUBLISH]
        assert kinds[0] == "NBIRTH"
        assert kinds.index("DBIRTH") < kinds.index("DDATA")
        assert "NDATA" not in kinds[: kinds.index("DBIRTH")]


@asserts("message-flow-edge-node-ncmd-subscribe message-flow-device-dcmd-subscribe")
def test_commands_are_subscribed_to_at_qos_1_before_the_birth(record: Record) -> None:
    for session in record.sessions:
        kinds = [one.packet.kind for one in session]
        before = session[: kinds.index(PUBLISH)]
        asked = {one.packet.topic: one.packet.qos for one in before if one.packet.kind == SUBSCRIBE}
        assert asked == {"spBv1.0/Group/NCMD/Node": 1, "spBv1.0/Group/DCMD/Node/+": 1}


@asserts("topics-ndata-payload topics-ddata-payload")
def test_data_has_what_changed_and_nothing_else(record: Record) -> None:
    node, device = (
        [
            {name: one.double_value or one.long_value for name, one in said.metrics.items()}
            for said in record.all(kind)
            if not said.is_past
        ]
        for kind in ("NDATA", "DDATA")
    )
    assert node == [{"device/cpu_percent": value} for value in (2.0, 3.0, 4.0)]
    assert device == [{"success_count": 2}, {"success_count": 4}]


@asserts("operational-behavior-device-ddeath")
def test_a_model_that_is_gone_dies_and_is_born_when_it_comes_back(record: Record) -> None:
    said = [one for one in record.sessions[0] if one.packet.kind == PUBLISH and not one.is_past]
    kinds = [one.kind for one in said]
    assert kinds[2:6] == ["NDATA", "DDATA", "DDEATH", "DBIRTH"]


@asserts("""
    operational-behavior-data-commands-rebirth-action-1
    operational-behavior-data-commands-rebirth-action-2""")
def test_a_rebirth_that_is_asked_for_is_whole_and_no_data_comes_before_it(record: Record) -> None:
    kinds = [topic.split("/")[2] for topic, _, _ in record.arrived]
    asked = kinds.index("NCMD")
    assert kinds[asked + 1 : asked + 3] == ["NBIRTH", "DBIRTH"]


@asserts("payloads-ndeath-will-message-publisher")
def test_the_broker_tells_the_death_of_a_node_that_was_cut_off(record: Record) -> None:
    first = [one for one in record.sessions[0] if one.packet.kind == PUBLISH]
    assert "NDEATH" not in [one.kind for one in first]
    kinds = [topic.split("/")[2] for topic, _, _ in record.arrived]
    assert kinds.count("NDEATH") == 2  # the will, and the goodbye at the end
    assert not any(is_retained for _, _, is_retained in record.arrived)


@asserts("""
    operational-behavior-edge-node-intentional-disconnect-ndeath
    operational-behavior-edge-node-intentional-disconnect-packet
    payloads-ndeath-will-message-publisher-disconnect-mqtt311""")
def test_a_goodbye_is_a_death_and_then_disconnect(record: Record) -> None:
    death, last = record.sessions[-1][-2:]
    assert (death.packet.kind, death.kind, death.number) == (PUBLISH, "NDEATH", 1)
    assert last.packet.kind == DISCONNECT


@asserts("""
    operational-behavior-data-publish-nbirth-order
    operational-behavior-data-publish-dbirth-order""")
def test_metrics_of_now_are_in_the_order_of_their_times(record: Record) -> None:
    for said in record.all("NBIRTH", "DBIRTH", "NDATA", "DDATA"):
        assert said.payload is not None
        times = [one.timestamp for one in said.payload.metrics if not one.is_historical]
        assert times == sorted(times)


@asserts("""
    operational-behavior-data-publish-nbirth-change
    operational-behavior-data-publish-dbirth-change""")
def test_data_of_now_is_only_what_is_otherwise_than_it_was_told(record: Record) -> None:
    for session in record.sessions:
        known: dict[tuple[str, str], Any] = {}
        for said in session:
            if said.kind not in ("NBIRTH", "DBIRTH", "NDATA", "DDATA") or said.is_past:
                continue
            for name, metric in said.metrics.items():
                value = (metric.is_null, metric.double_value, metric.long_value)
                if said.kind.endswith("DATA"):
                    assert known[said.parts[-1], name] != value
                known[said.parts[-1], name] = value


def test_what_waited_for_a_birth_is_historical_and_comes_after_it(record: Record) -> None:
    past = [one for one in record.sessions[0] if one.is_past]
    assert [(one.kind, set(one.metrics)) for one in past] == [
        ("NDATA", {"device/cpu_percent", "device/power_level", "device/memory_bytes"}),
        ("DDATA", {"is_fallback", "success_count"}),
    ]
    kinds = [one.kind for one in record.sessions[0]]
    assert kinds.index("DBIRTH") < record.sessions[0].index(past[0])


class Waiting:
    """A node that waits for its primary host, over one broker or more."""

    def __init__(
        self, brokers: list[Any], wire: Any, host: Any, folder: Path, host_wait_s: float
    ) -> None:
        self.lines = [wire(broker) for broker in brokers]
        self.hosts = [host(broker) for broker in brokers]
        addresses = [line.address for line in self.lines]
        births = Births(folder / "node.bdSeq")
        pace = msgspec.structs.replace(QUICK, host_wait_s=host_wait_s)
        scada = PrimaryHost("Scada")
        self.node = EdgeNode(addresses, NAMES, births, History(None), host=scada, pace=pace)
        self.node.tell(_figures(1.0, 1))

    def sessions(self, index: int = 0) -> list[list[Any]]:
        """Those that have subscribed to all they subscribe to."""
        return [
            noted
            for noted in list(self.lines[index].connections)
            if len([one for one in noted if one.kind == SUBSCRIBE]) >= 3
        ]


@pytest.fixture
def waiting(
    start_mosquitto: Any, wire: Any, host: Any, tmp_path: Path
) -> Iterator[Callable[..., Waiting]]:
    made: list[Waiting] = []

    def make(count: int, host_wait_s: float = 60.0) -> Waiting:
        brokers = [start_mosquitto() for _ in range(count)]
        made.append(Waiting(brokers, wire, host, tmp_path, host_wait_s))
        return made[-1]

    yield make
    for one in made:
        one.node.close(LONG_S)


@asserts("""
    message-flow-edge-node-birth-publish-phid-wait
    message-flow-edge-node-birth-publish-phid-wait-id
    message-flow-edge-node-birth-publish-phid-wait-online
    operational-behavior-edge-node-birth-sequence-wait""")
def test_a_birth_waits_until_the_primary_host_and_no_other_is_online(
    waiting: Any, eventually: Any
) -> None:
    one = waiting(1)
    (host,) = one.hosts
    host.state("Scada", online=False, timestamp=10)
    one.node.start()
    eventually(lambda: len(one.sessions()) == 1, "a session")
    host.state("Other", online=True, timestamp=11)
    host.state("scada", online=True, timestamp=11)
    host.send("spBv1.0/Group/NCMD/Node", b"")  # what comes after it has been read as well
    one.node.tell(_figures(2.0, 1))
    time.sleep(0.2)
    assert "NBIRTH" not in host.kinds()
    host.state("Scada", online=True, timestamp=12)
    eventually(lambda: host.kinds()[-2:] == ["NBIRTH", "DBIRTH"], "the birth")
    assert len(one.lines[0].connections) == 1


@asserts("""
    message-flow-edge-node-birth-publish-phid-wait-timestamp
    message-flow-edge-node-birth-publish-phid-offline
    operational-behavior-edge-node-termination-host-offline
    operational-behavior-edge-node-termination-host-offline-reconnect
    operational-behavior-edge-node-termination-host-offline-timestamp""")
def test_a_node_dies_with_its_primary_host_and_comes_back_with_it(
    waiting: Any, eventually: Any
) -> None:
    one = waiting(1)
    (host,) = one.hosts
    host.state("Scada", online=True, timestamp=10)
    one.node.start()
    eventually(lambda: host.kinds()[-2:] == ["NBIRTH", "DBIRTH"], "the birth")
    host.state("Scada", online=False, timestamp=9)  # older words do not count
    one.node.tell(_figures(2.0, 1))
    eventually(lambda: host.kinds()[-1] == "NDATA", "data as before")
    host.state("Scada", online=False, timestamp=11)
    eventually(lambda: host.kinds()[-1] == "NDEATH", "its death")
    eventually(lambda: len(one.sessions()) == 2, "another session")
    last = [PUBLISH, DISCONNECT]
    noted = one.lines[0].connections[0]
    eventually(lambda: [packet.kind for packet in noted[-2:]] == last, "the end of the first")
    host.state("Scada", online=True, timestamp=10)
    one.node.tell(_figures(3.0, 1))
    time.sleep(0.2)
    assert host.kinds()[-1] == "NDEATH"
    host.state("Scada", online=True, timestamp=12)
    eventually(lambda: host.kinds()[-2:] == ["NBIRTH", "DBIRTH"], "the birth")


@asserts("""
    operational-behavior-primary-application-state-with-multiple-servers-single-server
    operational-behavior-primary-application-state-with-multiple-servers-state-subs
    operational-behavior-primary-application-state-with-multiple-servers-walk""")
def test_a_node_goes_where_its_primary_host_is(waiting: Any, eventually: Any) -> None:
    one = waiting(2)
    first, second = one.hosts
    first.state("Scada", online=True, timestamp=10)
    second.state("Scada", online=True, timestamp=10)
    one.node.start()
    eventually(lambda: first.kinds()[-2:] == ["NBIRTH", "DBIRTH"], "a birth at the first")
    first.state("Scada", online=False, timestamp=11)
    eventually(lambda: second.kinds()[-2:] == ["NBIRTH", "DBIRTH"], "a birth at the second")
    assert first.kinds()[-1] == "NDEATH"
    eventually(lambda: one.lines[0].open_count == 0, "the first to be left")
    first.state("Scada", online=True, timestamp=12)
    time.sleep(0.2)
    assert second.kinds()[-1] == "DBIRTH"  # it stays as long as the host does
    second.state("Scada", online=False, timestamp=11)
    eventually(lambda: first.kinds()[-2:] == ["NBIRTH", "DBIRTH"], "a birth at the first again")
    for index in (0, 1):
        asked = {one.topic for one in one.sessions(index)[0] if one.kind == SUBSCRIBE}
        assert STATE in asked
        assert one.lines[index].most_open_count == 1


def test_a_broker_where_the_primary_host_never_was_is_left(waiting: Any, eventually: Any) -> None:
    one = waiting(2, host_wait_s=0.2)
    one.hosts[1].state("Scada", online=True, timestamp=1)
    one.node.start()
    eventually(lambda: "NBIRTH" in one.hosts[1].kinds(), "a birth at the second")
    assert "NBIRTH" not in one.hosts[0].kinds()


def test_a_broker_where_the_primary_host_is_offline_is_left_at_once(
    waiting: Any, eventually: Any
) -> None:
    one = waiting(2)
    one.hosts[0].state("Scada", online=False, timestamp=1)
    one.hosts[1].state("Scada", online=True, timestamp=1)
    one.node.start()
    eventually(lambda: "NBIRTH" in one.hosts[1].kinds(), "a birth at the second")


def test_another_session_waits_for_the_primary_host_again(waiting: Any, eventually: Any) -> None:
    one = waiting(1)
    (host,) = one.hosts
    one.node.start()
    eventually(lambda: len(one.sessions()) == 1, "a session")
    host.send(STATE, b'{"online": true, "timestamp": 1}')  # which the broker does not keep
    eventually(lambda: host.kinds()[-2:] == ["NBIRTH", "DBIRTH"], "the birth")
    one.lines[0].cut()
    eventually(lambda: len(one.sessions()) == 2, "another session")
    time.sleep(0.2)
    assert host.kinds()[-1] == "NDEATH"
    host.send(STATE, b'{"online": true, "timestamp": 2}')
    eventually(lambda: host.kinds()[-2:] == ["NBIRTH", "DBIRTH"], "the birth")


def test_every_assertion_of_the_list_is_tested_or_left_out_for_a_reason() -> None:
    listed = {name for names in LIST.values() for name in names.split()}
    assert set(COVERED) | set(LEFT_OUT) == listed
    assert not set(COVERED) & set(LEFT_OUT)
    assert {name: len(names.split()) for name, names in LIST.items()} == {
        "SessionEstablishment": 68,
        "SessionTermination": 15,
        "SendData": 27,
        "SendComplexData": 39,
        "ReceiveCommand": 4,
        "PrimaryHost": 8,
        "MultipleBroker": 4,
        "BeyondTheClasses": 6,
    }
