// publish-protobuf.js CHANNEL…: as publish.js, in protobuf; protobufjs reads the schema itself.
import { Kafka, Partitioners } from "kafkajs";
import protobuf from "protobufjs";

const schema = await protobuf.load(process.env.SCHEMA ?? "readstates.proto");
const Event = schema.lookupType("readstates.v1.Event");

const kafka = new Kafka({ brokers: (process.env.KAFKA_BROKERS ?? "127.0.0.1:9092").split(",") });
const producer = kafka.producer({
  createPartitioner: Partitioners.DefaultPartitioner,
  idempotent: true,
  maxInFlightRequests: 1,
});

function event(channelId, kind) {
  // Ids stay strings up to here: a number in JavaScript is exact only up to 2^53.
  return { key: channelId, value: Buffer.from(Event.encode(Event.fromObject({ channelId, ...kind })).finish()) };
}

const positions = new Map();
await producer.connect();
for (const channel of process.argv.slice(2)) {
  const messages = [
    event(channel, { messageCreated: { messageId: "1001", authorId: "7", mentionedUserIds: ["8"] } }),
    event(channel, { messageCreated: { messageId: "1002", authorId: "7" } }),
    event(channel, { messageRead: { userId: "9", messageId: "1001" } }),
  ];
  const [{ partition, baseOffset }] = await producer.send({ topic: "message-events", acks: -1, messages });
  positions.set(partition, String(BigInt(baseOffset) + BigInt(messages.length - 1)));
}
await producer.disconnect();
console.log(JSON.stringify([...positions].map(([partition, offset]) => ({ partition, offset }))));
