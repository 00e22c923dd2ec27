"""Reads scores with confluent-kafka and its Avro deserializer, and prints them.

usage: read_scores.py BROKERS REGISTRY COUNT
"""
import json
import sys
import time

from confluent_kafka import DeserializingConsumer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import StringDeserializer

brokers, registry, count = sys.argv[1:]
consumer = DeserializingConsumer({
    "bootstrap.servers": brokers,
    "group.id": "python-reader",
    "auto.offset.reset": "earliest",
    "key.deserializer": StringDeserializer(),
    "value.deserializer": AvroDeserializer(SchemaRegistryClient({"url": registry})),
})
consumer.subscribe(["churn.scores"])
scores, deadline = 0, time.time() + 60
while scores < int(count):
    if time.time() > deadline:
        sys.exit(f"only {scores} of {count} scores")
    message = consumer.poll(1)
    if message is None or message.value() is None:  # nothing yet; a tombstone
        continue
    if message.key()[:1] in ("\0", b"\0"):  # a marker
        continue
    scores += 1
    print(json.dumps({"key": message.key(), "partition": message.partition(), "value": message.value()}, default=str))  # times
consumer.close()
