// publish.js CHANNEL…: publishes two messages and a read in each channel, and prints where the last records are.
import { Kafka, Partitioners } from "kafkajs";

const kafka = new Kafka({ brokers: (process.env.KAFKA_BROKERS ?? "127.0.0.1:9092").split(",") });
const producer = kafka.producer({
  createPartitioner: Partitioners.DefaultPartitioner, // as Java's clients do; before kafkajs 2 it was another
  idempotent: true, // retries don't change the order of a channel's events
  maxInFlightRequests: 1,
});

function event(channelId, kind) {
  return { key: channelId, value: JSON.stringify({ channelId, ...kind }), headers: { "content-type": "application/json" } };
}

const positions = new Map(); // by partition, the offset of the last record
await producer.connect();
for (const channel of process.argv.slice(2)) {
  const messages = [
    event(channel, { messageCreated: { messageId: "1001", authorId: "7", mentionedUserIds: ["8"] } }),
    event(channel, { messageCreated: { messageId: "1002", authorId: "7" } }),
    event(channel, { messageRead: { userId: "9", messageId: "1001" } }),
  ];
  // One channel, so one partition, and the offset is that of the first record of the three.
  const [{ partition, baseOffset }] = await producer.send({ topic: "message-events", acks: -1, messages });
  positions.set(partition, String(BigInt(baseOffset) + BigInt(messages.length - 1)));
}
await producer.disconnect();
console.log(JSON.stringify([...positions].map(([partition, offset]) => ({ partition, offset }))));
