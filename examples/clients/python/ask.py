"""ask.py USER CHANNEL…: prints each channel with its unread messages and mentions, as of the positions in AFTER."""
import asyncio
import json
import os
import sys

import nats
from nats.errors import NoRespondersError, TimeoutError


class Refused(Exception):
    """400 malformed, 413 too many keys; and what may be asked again: 429 overloaded, 503 unavailable, 504 too late."""


async def ask(nc, subject, request, timeout_s=2.0):
    # The service gets the time that the caller has, and the caller waits a little longer for its 504.
    headers = {"readstates-timeout-ms": str(round(timeout_s * 1000))}
    body = json.dumps(request).encode()
    try:
        reply = await nc.request(subject, body, timeout=timeout_s + 0.5, headers=headers)
    except NoRespondersError:
        raise Refused("503 no instance of readstates is there")
    except TimeoutError:
        raise Refused("504 no answer")
    if code := (reply.headers or {}).get("Nats-Service-Error-Code"):
        raise Refused(f"{code} {reply.headers['Nats-Service-Error']}")
    return json.loads(reply.data)


async def main(user, channels):
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    request = {
        "keys": [{"userId": user, "channelId": channel} for channel in channels],
        "after": json.loads(os.environ.get("AFTER", "[]")),
    }
    try:
        reply = await ask(nc, "readstates.v1.get", request, timeout_s=10)
    except Refused as refused:
        sys.exit(str(refused))
    finally:
        await nc.close()
    for state in reply["readStates"]:
        print(state["channelId"], state["unreadCount"], state["mentionCount"])


asyncio.run(main(sys.argv[1], sys.argv[2:]))
