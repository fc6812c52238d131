// ask USER CHANNEL…: prints each channel with its unread messages and mentions, as of the positions in AFTER.
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"
)

// ID: in JSON, ids and offsets are strings.
type ID = string

type Key struct {
	UserID    ID `json:"userId"`
	ChannelID ID `json:"channelId"`
}

type GetRequest struct {
	Keys  []Key           `json:"keys"`
	After json.RawMessage `json:"after,omitempty"`
}

type GetReply struct {
	ReadStates []struct {
		ChannelID    ID     `json:"channelId"`
		UnreadCount  uint32 `json:"unreadCount"`
		MentionCount uint32 `json:"mentionCount"`
	} `json:"readStates"`
}

// ask returns an error for 400 malformed, 413 too many keys, and what may be asked again: 429 overloaded,
// 503 unavailable, 504 too late.
func ask(nc *nats.Conn, subject string, request, reply any, timeout time.Duration) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	message := nats.NewMsg(subject)
	message.Data = body
	// The service gets the time that the caller has, and the caller waits a little longer for its 504.
	message.Header.Set("readstates-timeout-ms", fmt.Sprint(timeout.Milliseconds()))
	answer, err := nc.RequestMsg(message, timeout+500*time.Millisecond)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return errors.New("503 no instance of readstates is there")
	case err != nil:
		return fmt.Errorf("504 no answer: %w", err)
	}
	if code := answer.Header.Get("Nats-Service-Error-Code"); code != "" {
		return fmt.Errorf("%s %s", code, answer.Header.Get("Nats-Service-Error"))
	}
	return json.Unmarshal(answer.Data, reply)
}

func main() {
	log.SetFlags(0)
	nc, err := nats.Connect(cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()

	request := GetRequest{After: json.RawMessage(cmp.Or(os.Getenv("AFTER"), "[]"))}
	for _, channel := range os.Args[2:] {
		request.Keys = append(request.Keys, Key{UserID: os.Args[1], ChannelID: channel})
	}
	var reply GetReply
	if err := ask(nc, "readstates.v1.get", request, &reply, 10*time.Second); err != nil {
		log.Fatal(err)
	}
	for _, state := range reply.ReadStates {
		fmt.Println(state.ChannelID, state.UnreadCount, state.MentionCount)
	}
}
