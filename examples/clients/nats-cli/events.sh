#!/usr/bin/env bash
# events.sh CHANNEL… | readstates publish: two messages and a read in each channel. The nats command line can't write to
# Kafka; `readstates publish` does, into the right partitions.
set -euo pipefail

for channel in "$@"; do
  printf '{"channelId":"%s",%s}\n' \
    "$channel" '"messageCreated":{"messageId":"1001","authorId":"7","mentionedUserIds":["8"]}' \
    "$channel" '"messageCreated":{"messageId":"1002","authorId":"7"}' \
    "$channel" '"messageRead":{"userId":"9","messageId":"1001"}'
done
