"""publish_protobuf.py CHANNEL…: as publish.py, with what protoc made of schemas/readstates.proto."""
import json
import os
import sys

from confluent_kafka import Producer

from readstates_pb2 import Event

producer = Producer({
    "bootstrap.servers": os.environ.get("KAFKA_BROKERS", "127.0.0.1:9092"),
    "partitioner": "murmur2_random",
    "enable.idempotence": True,
})
positions = {}


def delivered(error, record):
    if error:
        raise RuntimeError(f"not published: {error}")
    positions[record.partition()] = max(record.offset(), positions.get(record.partition(), 0))


def publish(event):
    key, value = str(event.channel_id), event.SerializeToString()
    producer.produce("message-events", key=key, value=value, on_delivery=delivered)
    producer.poll(0)


for channel in map(int, sys.argv[1:]):
    publish(Event(channel_id=channel, message_created={"message_id": 1001, "author_id": 7, "mentioned_user_ids": [8]}))
    publish(Event(channel_id=channel, message_created={"message_id": 1002, "author_id": 7}))
    publish(Event(channel_id=channel, message_read={"user_id": 9, "message_id": 1001}))
producer.flush()
print(json.dumps([{"partition": p, "offset": str(o)} for p, o in positions.items()]))
