import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.StringSerializer;

/** PublishJson CHANNEL…: as Publish, in JSON. */
public class PublishJson {
  public static void main(String[] channels) throws Exception {
    var brokers = System.getenv().getOrDefault("KAFKA_BROKERS", "127.0.0.1:9092");
    Map<String, Object> config = Map.of("bootstrap.servers", brokers);
    var sent = new ArrayList<Future<RecordMetadata>>();
    try (var producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
      for (var channel : channels) {
        for (var kind :
            List.of(
                "\"messageCreated\":{\"messageId\":\"1001\",\"authorId\":\"7\",\"mentionedUserIds\":[\"8\"]}",
                "\"messageCreated\":{\"messageId\":\"1002\",\"authorId\":\"7\"}",
                "\"messageRead\":{\"userId\":\"9\",\"messageId\":\"1001\"}")) {
          var json = "{\"channelId\":\"%s\",%s}".formatted(channel, kind);
          var record = new ProducerRecord<>("message-events", channel, json);
          record.headers().add("content-type", "application/json".getBytes(StandardCharsets.UTF_8));
          sent.add(producer.send(record));
        }
      }
    }
    var positions = new HashMap<Integer, Long>();
    for (var metadata : sent) {
      positions.merge(metadata.get().partition(), metadata.get().offset(), Math::max);
    }
    var json = new ArrayList<String>();
    positions.forEach((p, o) -> json.add("{\"partition\":%d,\"offset\":\"%d\"}".formatted(p, o)));
    System.out.println(json);
  }
}
