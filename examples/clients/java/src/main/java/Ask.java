import com.google.protobuf.util.JsonFormat;
import io.nats.client.Connection;
import io.nats.client.Nats;
import io.nats.client.impl.Headers;
import java.time.Duration;
import java.util.List;
import org.readstates.v1.GetReply;
import org.readstates.v1.GetRequest;
import org.readstates.v1.Key;

/** Ask USER CHANNEL…: prints each channel with its unread messages and mentions, as of the positions in AFTER. */
public class Ask {
  /** 400 malformed, 413 too many keys; and what may be asked again: 429 overloaded, 503 unavailable, 504 too late. */
  static class Refused extends Exception {
    Refused(String message) {
      super(message);
    }
  }

  static GetReply get(Connection nats, GetRequest request, Duration timeout) throws Exception {
    // The service gets the time that the caller has, and the caller waits a little longer for its 504.
    var headers = new Headers().add("readstates-timeout-ms", Long.toString(timeout.toMillis()));
    var reply = nats.request("readstates.v1.get", headers, request.toByteArray(), timeout.plusMillis(500));
    if (reply == null) {
      throw new Refused("503 no instance of readstates is there, or none answered in time");
    }
    var code = reply.hasHeaders() ? reply.getHeaders().getFirst("Nats-Service-Error-Code") : null;
    if (code != null) {
      throw new Refused(code + " " + reply.getHeaders().getFirst("Nats-Service-Error"));
    }
    return GetReply.parseFrom(reply.getData());
  }

  public static void main(String[] arguments) throws Exception {
    var request = GetRequest.newBuilder();
    var after = System.getenv().getOrDefault("AFTER", "[]");
    JsonFormat.parser().merge("{\"after\":" + after + "}", request);
    for (var channel : List.of(arguments).subList(1, arguments.length)) {
      request.addKeys(
          Key.newBuilder().setUserId(Long.parseLong(arguments[0])).setChannelId(Long.parseLong(channel)));
    }
    try (var nats = Nats.connect(System.getenv().getOrDefault("NATS_URL", "nats://127.0.0.1:4222"))) {
      for (var state : get(nats, request.build(), Duration.ofSeconds(10)).getReadStatesList()) {
        System.out.println(state.getChannelId() + " " + state.getUnreadCount() + " " + state.getMentionCount());
      }
    } catch (Refused refused) {
      System.err.println(refused.getMessage());
      System.exit(1);
    }
  }
}
