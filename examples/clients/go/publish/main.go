// publish CHANNEL…: publishes two messages and a read in each channel, and prints where the last records are.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"

	"github.com/twmb/franz-go/pkg/kgo"
)

type object = map[string]any

func event(channel, kind string, event object) *kgo.Record {
	value, err := json.Marshal(object{"channelId": channel, kind: event})
	if err != nil {
		log.Fatal(err)
	}
	return &kgo.Record{
		Topic:   "message-events",
		Key:     []byte(channel),
		Value:   value,
		Headers: []kgo.RecordHeader{{Key: "content-type", Value: []byte("application/json")}},
	}
}

func main() {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(cmp.Or(os.Getenv("KAFKA_BROKERS"), "127.0.0.1:9092")),
		// As Java's clients do, and as franz-go does by default.
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	var records []*kgo.Record
	for _, channel := range os.Args[1:] {
		records = append(records,
			event(channel, "messageCreated", object{"messageId": "1001", "authorId": "7", "mentionedUserIds": []string{"8"}}),
			event(channel, "messageCreated", object{"messageId": "1002", "authorId": "7"}),
			event(channel, "messageRead", object{"userId": "9", "messageId": "1001"}))
	}
	last := map[int32]int64{} // by partition, the offset of the last record
	for _, result := range client.ProduceSync(context.Background(), records...) {
		if result.Err != nil {
			log.Fatalf("not published: %v", result.Err)
		}
		last[result.Record.Partition] = max(result.Record.Offset, last[result.Record.Partition])
	}
	positions := []object{}
	for partition, offset := range last {
		positions = append(positions, object{"partition": partition, "offset": fmt.Sprint(offset)})
	}
	if err := json.NewEncoder(os.Stdout).Encode(positions); err != nil {
		log.Fatal(err)
	}
}
