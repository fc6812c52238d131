import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.readstates.v1.Event;
import org.readstates.v1.MessageCreated;
import org.readstates.v1.MessageRead;

/** Publish CHANNEL…: publishes two messages and a read in each channel, and prints where the last records are. */
public class Publish {
  public static void main(String[] channels) throws Exception {
    var brokers = System.getenv().getOrDefault("KAFKA_BROKERS", "127.0.0.1:9092");
    Map<String, Object> config = Map.of("bootstrap.servers", brokers); // and the partitioner that is the default
    var sent = new ArrayList<Future<RecordMetadata>>();
    try (var producer = new KafkaProducer<>(config, new StringSerializer(), new ByteArraySerializer())) {
      for (var channel : channels) {
        for (var event : events(Long.parseLong(channel))) {
          var key = Long.toString(event.getChannelId());
          sent.add(producer.send(new ProducerRecord<>("message-events", key, event.toByteArray())));
        }
      }
    }
    var positions = new HashMap<Integer, Long>(); // by partition, the offset of the last record
    for (var metadata : sent) {
      positions.merge(metadata.get().partition(), metadata.get().offset(), Math::max);
    }
    var json = new ArrayList<String>();
    positions.forEach((p, o) -> json.add("{\"partition\":%d,\"offset\":\"%d\"}".formatted(p, o)));
    System.out.println(json);
  }

  private static List<Event> events(long channel) {
    var first = MessageCreated.newBuilder().setMessageId(1001).setAuthorId(7).addMentionedUserIds(8);
    var second = MessageCreated.newBuilder().setMessageId(1002).setAuthorId(7);
    var read = MessageRead.newBuilder().setUserId(9).setMessageId(1001);
    return List.of(
        Event.newBuilder().setChannelId(channel).setMessageCreated(first).build(),
        Event.newBuilder().setChannelId(channel).setMessageCreated(second).build(),
        Event.newBuilder().setChannelId(channel).setMessageRead(read).build());
  }
}
