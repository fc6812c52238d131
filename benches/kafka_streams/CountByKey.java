import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Properties;
import java.util.concurrent.atomic.LongAdder;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.Stores;

/**
 * What Kafka Streams takes to count records by key, the least that anything of this kind must do: nothing is decoded,
 * and nothing is logged to a changelog. The first quarter of the records is left out, since the JVM compiles meanwhile.
 *
 * <p>CountByKey BROKERS TOPIC RECORDS memory|rocksdb
 */
public final class CountByKey {
  private static final int WARM_UP_SHARE = 4;
  private static final long LOOK_INTERVAL_MS = 1;
  private static final String STORE = "counts";

  public static void main(String[] arguments) throws Exception {
    String topic = arguments[1];
    long records = Long.parseLong(arguments[2]);
    var supplier = arguments[3].equals("memory")
        ? Stores.inMemoryKeyValueStore(STORE)
        : Stores.persistentKeyValueStore(STORE);
    var seen = new LongAdder();
    var builder = new StreamsBuilder();
    builder.stream(topic, Consumed.with(Serdes.Bytes(), Serdes.Bytes()))
        .peek((key, value) -> seen.increment())
        .groupByKey(Grouped.with(Serdes.Bytes(), Serdes.Bytes()))
        .count(Materialized.<Bytes, Long>as(supplier)
            .withKeySerde(Serdes.Bytes())
            .withValueSerde(Serdes.Long())
            .withCachingEnabled()
            .withLoggingDisabled());
    Path state = Files.createTempDirectory("count-by-key");
    var streams = new KafkaStreams(builder.build(), settings(arguments[0], state));
    streams.start();

    long warm = records / WARM_UP_SHARE;
    waitFor(seen, warm);
    long from = seen.sum();
    long began = System.nanoTime();
    long cpu = cpuNanos();
    waitFor(seen, records);
    long measured = seen.sum() - from;
    double seconds = (System.nanoTime() - began) / 1e9;
    System.out.printf("measured %.1f %.1f %.1f%n",
        measured / seconds / 1e3, (double) (cpuNanos() - cpu) / measured, peakMegabytes());
    streams.close();
    streams.cleanUp();
    Files.deleteIfExists(state);
    System.exit(0);
  }

  private static Properties settings(String brokers, Path state) {
    var settings = new Properties();
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, "count-" + ProcessHandle.current().pid());
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, brokers);
    settings.put(StreamsConfig.STATE_DIR_CONFIG, state.toString());
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, Runtime.getRuntime().availableProcessors());
    settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 30_000);
    settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 64L << 20);
    settings.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 10_000);
    settings.put(StreamsConfig.METRICS_RECORDING_LEVEL_CONFIG, "INFO");
    settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
    settings.put(ConsumerConfig.MAX_POLL_RECORDS_CONFIG, 10_000);
    settings.put(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG, 4 << 20);
    return settings;
  }

  private static void waitFor(LongAdder seen, long count) throws InterruptedException {
    while (seen.sum() < count) {
      Thread.sleep(LOOK_INTERVAL_MS);
    }
  }

  private static long cpuNanos() {
    var system = ManagementFactory.getOperatingSystemMXBean();
    return ((com.sun.management.OperatingSystemMXBean) system).getProcessCpuTime();
  }

  private static double peakMegabytes() throws Exception {
    for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
      if (line.startsWith("VmHWM:")) {
        return Double.parseDouble(line.replaceAll("[^0-9]", "")) / 1024;
      }
    }
    throw new IllegalStateException("no VmHWM in /proc/self/status");
  }
}
