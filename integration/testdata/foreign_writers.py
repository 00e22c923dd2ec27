"""Writes events and outcomes as other producers do, good ones and bad ones, with
confluent-kafka, and prints for each where it stands and what has to become of it.

usage: foreign_writers.py BROKERS REGISTRY
"""
import copy
import datetime
import decimal
import io
import json
import sys
import time

import fastavro
from confluent_kafka import Producer
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient, header_schema_id_serializer
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

EVENTS, OUTCOMES = "churn.customer-events", "churn.outcomes"

brokers, registry = sys.argv[1:]
client = SchemaRegistryClient({"url": registry})
# Java's partitioner; keys are what is hashed, as they are written.
producer = Producer({"bootstrap.servers": brokers, "partitioner": "murmur2_random", "enable.idempotence": True})
own = json.loads(client.get_latest_version(EVENTS + "-value").schema.schema_str)
own_outcome = json.loads(client.get_latest_version(OUTCOMES + "-value").schema.schema_str)
NOW = int(time.time() * 1000)
DAY = 24 * 3600 * 1000


def written(name, expect, topic, error, message):
    if error is not None:
        sys.exit(f"{name}: not delivered: {error}")
    print(json.dumps({"name": name, "topic": topic, "partition": message.partition(), "offset": message.offset(), **expect}))


def produce(name, key, value, expect, headers=None, topic=EVENTS):
    producer.produce(topic, key=key, value=value, headers=headers,
                     on_delivery=lambda error, message: written(name, expect, topic, error, message))
    producer.flush(30)


def register(schema, subject, references=()):
    return client.register_schema(subject, Schema(json.dumps(schema), "AVRO", list(references)))


def encode(schema, datum, named=None):
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema, named_schemas=named), datum)
    return out.getvalue()


def frame(id):
    return b"\0" + id.to_bytes(4, "big")


def field(schema, name):
    return next(f for f in schema["fields"] if f["name"] == name)


def attributes(schema):
    return field(schema, "changes")["type"]


def event(customer, **other):
    return {"event_id": "event-of-" + customer, "customer_id": customer, "occurred_at": NOW,
            "changes": {"Contract": "Two year", "tenure": 12.0, "MonthlyCharges": 70.5}, "increments": {}, "source": "foreign"} | other


def scored(customer, **attributes):
    return {"customer": customer, "attributes": {"Contract": "Two year", "tenure": "12", "MonthlyCharges": "70.5"} | attributes}


def variant(name, change, datum=None, **expect):
    """Writes an event under our schema after a change to it."""
    schema = copy.deepcopy(own)
    schema = change(schema) or schema
    customer = "writer-" + name
    id = register(schema, "foreign-" + name.encode("ascii", "ignore").decode().replace(" ", "-"))
    datum = (datum or (lambda e: e))(event(customer))
    produce(name, customer, frame(id) + encode(schema, datum), expect or scored(customer))


def retyped(name, type, inside=None):
    def change(schema):
        field(inside(schema) if inside else schema, name)["type"] = type
    return change


def changes(**other):
    def datum(e):
        e["changes"].update(other)
        return e
    return datum


def renamed(schema):
    schema["namespace"] = "crm.customer_events"
    attributes(schema)["name"] = "Attributes"


# --- schemas of others ---------------------------------------------------

decimals = {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}
fixed = {"type": "fixed", "name": "Money", "size": 8, "logicalType": "decimal", "precision": 10, "scale": 2}
amount = changes(MonthlyCharges=decimal.Decimal("75.25"))
when = datetime.datetime.fromtimestamp(NOW / 1000, datetime.timezone.utc)

variant("namespace", renamed)
variant("decimal", retyped("MonthlyCharges", ["null", decimals], attributes), amount, **scored("writer-decimal", MonthlyCharges="75.25"))
variant("decimal fixed", retyped("MonthlyCharges", ["null", fixed], attributes), amount, **scored("writer-decimal fixed", MonthlyCharges="75.25"))
variant("micros", retyped("occurred_at", {"type": "long", "logicalType": "timestamp-micros"}), lambda e: e | {"occurred_at": when})
variant("nanos", retyped("occurred_at", {"type": "long", "logicalType": "timestamp-nanos"}), lambda e: e | {"occurred_at": NOW * 1000000})
variant("date", retyped("occurred_at", {"type": "int", "logicalType": "date"}), lambda e: e | {"occurred_at": NOW // DAY})
variant("union", lambda schema: ["null", schema])
variant("several types", lambda schema: [{"type": "record", "name": "Ping", "fields": []}, schema])
variant("another type", lambda schema: [{"type": "record", "name": "Ping", "fields": []}, schema], lambda e: {}, letter="undecodable")
variant("no increments", lambda schema: schema["fields"].remove(field(schema, "increments")))
variant("empty level", lambda schema: None, changes(Contract="  "), **scored("writer-empty level", Contract=""))
variant("blanks around a level", lambda schema: None, changes(Contract=" Two year\t"))
variant("plain string id", retyped("event_id", "string"), lambda e: e | {"event_id": ""})

# Names that fastavro would not take: the bytes do not have them.
for name, old, new in (
    ("hyphen", '"namespace": "churnstream"', '"namespace": "crm.customer-events"'),
    ("dollar", '"namespace": "churnstream"', '"namespace": "com.acme.Events$"'),
    ("umlaut", '"name": "CustomerAttributes"', '"name": "Verträge"'),
):
    text = json.dumps(own, ensure_ascii=False)
    assert old in text, old
    text = text.replace(old, new).replace('"churnstream.CustomerAttributes"', '"CustomerAttributes"')
    id = client.register_schema("foreign-" + name, Schema(text, "AVRO"))
    produce(name, "writer-" + name, frame(id) + encode(copy.deepcopy(own), event("writer-" + name)), scored("writer-" + name))

# The attributes under a subject of their own.
referring, referred = copy.deepcopy(own), copy.deepcopy(attributes(own))
referred["namespace"] = "churnstream"
field(referring, "changes")["type"] = "churnstream.CustomerAttributes"
register(referred, "foreign-attributes")
version = client.get_latest_version("foreign-attributes").version
id = register(referring, "foreign-referring", [SchemaReference("churnstream.CustomerAttributes", "foreign-attributes", version)])
produce("references", "writer-references", frame(id) + encode(copy.deepcopy(own), event("writer-references")), scored("writer-references"))

# --- where Confluent's serializers put ids -------------------------------

string = json.dumps("string")
for topic in EVENTS, OUTCOMES:
    client.register_schema(topic + "-key", Schema(string, "AVRO"))
# The answer to a registration has no GUID here, as Confluent's has.
latest = {"auto.register.schemas": False, "use.latest.version": True}
for name, conf in (("prefix", {}), ("header", {"schema.id.serializer": header_schema_id_serializer})):
    key_of = AvroSerializer(client, string, conf=conf | latest)
    value_of = AvroSerializer(client, json.dumps(own), conf=conf | latest)
    outcome_of = AvroSerializer(client, json.dumps(own_outcome), conf=conf | latest)

    def send(what, key, value, serialize, topic, expect):
        headers = []
        key = key_of(key, SerializationContext(topic, MessageField.KEY, headers))
        value = value and serialize(value, SerializationContext(topic, MessageField.VALUE, headers))
        produce(f"framed key, {name}: {what}", key, value, expect, headers, topic)

    for i in range(5):  # in all partitions
        customer = f"framed-{name}-{i}"
        send("event", customer, event(customer), value_of, EVENTS, scored(customer))
        send("outcome", customer, {"customer_id": customer, "observed_at": NOW, "churned": i % 2 == 0, "attributes": None, "source": "foreign"},
             outcome_of, OUTCOMES, {"outcome": customer})
    send("another's key", "somebody", event("somebody-else"), value_of, EVENTS, {"letter": "key_mismatch"})
    erased = f"framed-{name}-erased"
    send("event", erased, event(erased), value_of, EVENTS, scored(erased))
    send("erasure", erased, None, None, EVENTS, {"erased": erased})

# --- hostile values ------------------------------------------------------

plain = client.get_latest_version(EVENTS + "-value").schema_id


def hostile(name, change=None, key=None, headers=None, topic=EVENTS, **expect):
    customer = "hostile-" + name
    produce(name, key if key is not None else customer, change(customer), expect or {"customer": customer}, headers, topic)


def own_event(**other):
    return lambda customer: frame(plain) + encode(copy.deepcopy(own), event(customer) | other)


def raw(schema_change, **other):
    """An event under our schema after a change, encoded under another that allows it."""
    schema = copy.deepcopy(own)
    schema_change(schema)
    id = register(schema, "foreign-hostile-" + str(abs(hash(json.dumps(schema)))))
    return lambda customer: frame(id) + encode(schema, event(customer) | other)


plain_time = retyped("occurred_at", "long")
hostile("year 1", raw(plain_time, occurred_at=-62135596800000))
hostile("year 0", raw(plain_time, occurred_at=-62135596800001), letter="invalid_value")
hostile("year 9999", raw(plain_time, occurred_at=253402300799999), letter="*")
hostile("year 10000", raw(plain_time, occurred_at=253402300800000), letter="invalid_value")
hostile("the least long", raw(plain_time, occurred_at=-2**63), letter="invalid_value")
hostile("the greatest long", raw(plain_time, occurred_at=2**63 - 1), letter="invalid_value")
hostile("no event id", own_event(event_id=""))
hostile("an event id that is no UUID", own_event(event_id="evt-2026-000123"))
hostile("an event id of control characters", own_event(event_id="\x1b[31m\x00\u202e"))
hostile("not a number", own_event(changes={"tenure": float("nan")}), letter="invalid_value")
hostile("infinite", own_event(increments={"tenure": float("inf")}), letter="invalid_value")
hostile("the greatest number", own_event(changes={"tenure": 1.7976931348623157e308}), letter="*")
latin = b"caf\xe9"
hostile("an event id in Latin-1", raw(retyped("event_id", "bytes"), event_id=latin), letter="invalid_value")
hostile("a customer in Latin-1", raw(retyped("customer_id", "bytes"), customer_id=latin), key=latin, letter="invalid_value")
hostile("a source in Latin-1", raw(retyped("source", ["null", "bytes"]), source=latin), letter="invalid_value")
hostile("a level in Latin-1", raw(retyped("Contract", ["null", "bytes"], attributes), changes={"Contract": latin}), letter="invalid_value")
hostile("a new level", own_event(changes={"Contract": "\u202eÜbergang \U0001f4a5"}))
hostile("junk", lambda _: b"\x07junk\xff", headers=[("näme\u202e", b"\xff\xfe"), ("null", None)], letter="bad_frame")
hostile("no bytes", lambda _: b"", letter="bad_frame")
hostile("an unknown schema", lambda _: frame(999999) + b"x", letter="unknown_schema")
hostile("half an event", lambda c: own_event()(c)[:20], letter="undecodable")
hostile("a key of no UTF-8", own_event(customer_id="somebody"), key=b"\xff\x00", letter="key_mismatch")
hostile("no customer", own_event(customer_id=""), key=b"", letter="*")

outcome = client.get_latest_version(OUTCOMES + "-value").schema_id


def own_outcome_at(ms):
    schema = copy.deepcopy(own_outcome)
    field(schema, "observed_at")["type"] = "long"
    id = register(schema, "foreign-hostile-outcome")
    return lambda customer: frame(id) + encode(schema, {"customer_id": customer, "observed_at": ms, "churned": True,
                                                         "attributes": {"Contract": "Two year"}, "source": ""})


hostile("an outcome of year 1", own_outcome_at(-62135596800000), topic=OUTCOMES, outcome="hostile-an outcome of year 1")
hostile("an outcome of the greatest long", own_outcome_at(2**63 - 1), topic=OUTCOMES, letter="invalid_value")
hostile("an outcome that is junk", lambda _: b"\xffjunk", topic=OUTCOMES, letter="bad_frame")
