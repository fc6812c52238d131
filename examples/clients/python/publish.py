"""publish.py CHANNEL…: publishes two messages and a read in each channel, and prints where the last records are."""
import json
import os
import sys

from confluent_kafka import Producer

producer = Producer({
    "bootstrap.servers": os.environ.get("KAFKA_BROKERS", "127.0.0.1:9092"),
    "partitioner": "murmur2_random",  # as Java's clients do; without it records end as `misrouted`
    "enable.idempotence": True,  # retries don't change the order of a channel's events
})
positions = {}  # by partition, the offset of the last record


def delivered(error, record):
    if error:
        raise RuntimeError(f"not published: {error}")
    positions[record.partition()] = max(record.offset(), positions.get(record.partition(), 0))


def publish(channel, kind, event):
    producer.produce(
        "message-events",
        key=str(channel),
        value=json.dumps({"channelId": str(channel), kind: event}),
        headers={"content-type": "application/json"},
        on_delivery=delivered,
    )
    producer.poll(0)


for channel in sys.argv[1:]:
    publish(channel, "messageCreated", {"messageId": "1001", "authorId": "7", "mentionedUserIds": ["8"]})
    publish(channel, "messageCreated", {"messageId": "1002", "authorId": "7"})
    publish(channel, "messageRead", {"userId": "9", "messageId": "1001"})
producer.flush()
print(json.dumps([{"partition": p, "offset": str(o)} for p, o in positions.items()]))
