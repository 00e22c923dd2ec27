"""Writes customer events with confluent-kafka, once with each compression, and
prints where each of them came to stand.

usage: produce_events.py BROKERS REGISTRY PARTITIONER COUNT COMPRESSION...
"""
import json
import sys
import time
import uuid
from functools import partial

from confluent_kafka import SerializingProducer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import StringSerializer

TOPIC = "churn.customer-events"

brokers, registry, partitioner, count, *compressions = sys.argv[1:]
client = SchemaRegistryClient({"url": registry})
schema = client.get_latest_version(TOPIC + "-value").schema.schema_str


def report(event_id, compression, error, message):
    if error is not None:
        sys.exit(f"not delivered: {error}")
    print(json.dumps({
        "event_id": event_id,
        "customer_id": message.key().decode(),
        "partition": message.partition(),
        "offset": message.offset(),
        "compression": compression,
    }))


for compression in compressions:
    settings = {
        "bootstrap.servers": brokers,
        "key.serializer": StringSerializer(),
        "value.serializer": AvroSerializer(client, schema),
        "compression.type": compression,
        "linger.ms": 200,
        "enable.idempotence": True,
    }
    if partitioner != "default":
        settings["partitioner"] = partitioner
    producer = SerializingProducer(settings)
    for i in range(int(count)):
        event_id = str(uuid.uuid4())
        customer = f"python-{partitioner}-{compression}-{i}"
        event = {
            "event_id": event_id,
            "customer_id": customer,
            "occurred_at": int(time.time() * 1000),
            "changes": {
                "Contract": "Month-to-month",
                "InternetService": "Fiber optic",
                "PaymentMethod": "Electronic check",
                "MonthlyCharges": 70.0 + i,
                "TotalCharges": 70.0 + i,
                "tenure": 1.0,
            },
            "increments": {},
            "source": "python",
        }
        producer.produce(TOPIC, key=customer, value=event, on_delivery=partial(report, event_id, compression))
    if producer.flush(60) > 0:
        sys.exit("not everything was delivered")
