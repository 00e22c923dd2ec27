"""Reads topics with confluent-kafka, decodes every value by Confluent's Avro
deserializer and by fastavro, and prints for each topic how many there are.

usage: read_everything.py BROKERS REGISTRY TOPIC...
"""
import io
import json
import sys

import fastavro
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

brokers, registry, *topics = sys.argv[1:]
client = SchemaRegistryClient({"url": registry})
deserialize = AvroDeserializer(client)
schemas = {}


def latest(topic):
    """Reads values by the schema that is a topic's now, as generated classes do."""
    by_latest = AvroDeserializer(client, client.get_latest_version(topic + "-value").schema.schema_str)
    return lambda value: by_latest(value, SerializationContext(topic, MessageField.VALUE))


def decode(value):
    """Decodes a value by fastavro alone."""
    if value[0] != 0:
        raise ValueError("not framed")
    id = int.from_bytes(value[1:5], "big")
    if id not in schemas:
        schemas[id] = fastavro.parse_schema(json.loads(client.get_schema(id).schema_str))
    data = io.BytesIO(value[5:])
    decoded = fastavro.schemaless_reader(data, schemas[id])
    if data.read():
        raise ValueError("bytes are left")
    if not fastavro.validate(decoded, schemas[id], raise_errors=True):
        raise ValueError("not valid")
    return decoded


for topic in topics:
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "reads-everything", "enable.auto.commit": False,
                         "enable.partition.eof": False})
    values, markers, by_latest = 0, 0, latest(topic)
    for partition in consumer.list_topics(topic, 30).topics[topic].partitions:
        at = TopicPartition(topic, partition)
        first, end = consumer.get_watermark_offsets(at, 30)
        if first == end:
            continue
        at.offset = first
        consumer.assign([at])
        # A transaction's marker may be what stands last.
        while consumer.position([at])[0].offset < end:
            message = consumer.poll(1)
            if message is None:
                if consumer.position([at])[0].offset >= end - 1:
                    break
                continue
            if message.error():
                sys.exit(f"{topic}/{partition}: {message.error()}")
            if message.value() is None:
                continue
            values += 1
            readers = [
                ("confluent-kafka", message.value(), lambda v: deserialize(v, SerializationContext(topic, MessageField.VALUE))),
                ("confluent-kafka, by the topic's schema", message.value(), by_latest),
                ("fastavro", message.value(), decode),
            ]
            for name, value in message.headers() or ():
                if name == "progress":  # of a marker
                    markers += 1
                    readers.append(("fastavro, a marker", value, decode))
            for reader, value, read in readers:
                try:
                    read(value)
                except Exception as e:
                    print(json.dumps({"topic": topic, "error": f"{reader}: partition {partition}, "
                                      f"offset {message.offset()}, key {message.key()}: {type(e).__name__}: {e}"}))
    consumer.close()
    print(json.dumps({"topic": topic, "values": values, "markers": markers}))
