#!/usr/bin/env bash
# ask.sh USER CHANNEL…: prints each channel with its unread messages and mentions, as of the positions in AFTER.
set -euo pipefail

request=$(jq -cn --arg user "$1" --argjson after "${AFTER:-[]}" \
  '{keys: [$ARGS.positional[] | {userId: $user, channelId: .}], $after}' --args "${@:2}")
# The body of the reply goes to stdout, its headers to stderr, where an error is; the body is empty then.
log=$(mktemp)
trap 'rm "$log"' EXIT
reply=$(nats request --no-templates --timeout 11s -H readstates-timeout-ms:10000 readstates.v1.get "$request" 2>"$log") || true
header() { sed -n "s/.* $1: //p" "$log"; }
if [[ -n $(header Nats-Service-Error-Code) ]]; then
  echo "$(header Nats-Service-Error-Code) $(header Nats-Service-Error)" >&2
  exit 1
elif ! jq -e .readStates <<<"$reply" >/dev/null 2>&1; then
  cat "$log" >&2 # no responders, or no connection
  exit 1
fi
jq -r '.readStates[] | "\(.channelId) \(.unreadCount) \(.mentionCount)"' <<<"$reply"
