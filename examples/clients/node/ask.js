// ask.js USER CHANNEL…: prints each channel with its unread messages and mentions, as of the positions in AFTER.
import { connect, errors, headers } from "@nats-io/transport-node";

// Throws for 400 malformed, 413 too many keys, and what may be asked again: 429 overloaded, 503 unavailable,
// 504 too late.
async function ask(nc, subject, request, timeoutMs = 2000) {
  const h = headers();
  // The service gets the time that the caller has, and the caller waits a little longer for its 504.
  h.set("readstates-timeout-ms", String(timeoutMs));
  let reply;
  try {
    reply = await nc.request(subject, JSON.stringify(request), { timeout: timeoutMs + 500, headers: h });
  } catch (error) {
    if (error instanceof errors.RequestError && error.isNoResponders()) {
      throw new Error("503 no instance of readstates is there");
    }
    throw new Error("504 no answer", { cause: error });
  }
  const code = reply.headers?.get("Nats-Service-Error-Code");
  if (code) throw new Error(`${code} ${reply.headers.get("Nats-Service-Error")}`);
  return reply.json();
}

const [user, ...channels] = process.argv.slice(2);
const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });
try {
  const request = {
    keys: channels.map((channel) => ({ userId: user, channelId: channel })), // strings: ids go beyond 2^53
    after: JSON.parse(process.env.AFTER ?? "[]"),
  };
  for (const state of (await ask(nc, "readstates.v1.get", request, 10_000)).readStates) {
    console.log(state.channelId, state.unreadCount, state.mentionCount);
  }
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  await nc.close();
}
