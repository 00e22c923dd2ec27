"""Writes customer events with kafka-python, once with each compression, and
prints where each of them came to stand.

usage: produce_kafka_python.py BROKERS REGISTRY COUNT COMPRESSION...
"""
import io
import json
import sys
import time
import uuid

import fastavro
from confluent_kafka.schema_registry import SchemaRegistryClient
from kafka import KafkaProducer

TOPIC = "churn.customer-events"

brokers, registry, count, *compressions = sys.argv[1:]
latest = SchemaRegistryClient({"url": registry}).get_latest_version(TOPIC + "-value")
schema = fastavro.parse_schema(json.loads(latest.schema.schema_str))

for compression in compressions:
    producer = KafkaProducer(
        bootstrap_servers=brokers.split(","),
        compression_type=None if compression == "none" else compression,
        linger_ms=200,
    )
    sent = []
    for i in range(int(count)):
        event = {
            "event_id": str(uuid.uuid4()),
            "customer_id": f"kafka-python-{compression}-{i}",
            "occurred_at": int(time.time() * 1000),
            "changes": {"Contract": "Month-to-month", "MonthlyCharges": 70.0 + i, "tenure": 1.0},
            "increments": {},
            "source": "kafka-python",
        }
        value = io.BytesIO()
        value.write(b"\0" + latest.schema_id.to_bytes(4, "big"))
        fastavro.schemaless_writer(value, schema, event)
        sent.append((event, producer.send(TOPIC, key=event["customer_id"].encode(), value=value.getvalue())))
    producer.flush(60)
    for event, future in sent:
        at = future.get(60)
        print(json.dumps({
            "event_id": event["event_id"],
            "customer_id": event["customer_id"],
            "partition": at.partition,
            "offset": at.offset,
            "compression": compression,
        }))
    producer.close()
