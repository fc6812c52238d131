import asyncio, json, nats  # pip install nats-py

async def main():
    nc = await nats.connect("nats://127.0.0.1:4222")
    question = {"keys": [{"userId": "8", "channelId": "42"}]}
    reply = await nc.request("readstates.v1.get", json.dumps(question).encode(), timeout=2)
    if "Nats-Service-Error-Code" in (reply.headers or {}):
        raise SystemExit(reply.headers["Nats-Service-Error"])
    print(json.loads(reply.data)["readStates"][0]["unreadCount"])

asyncio.run(main())
