import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.UUID;
import java.util.concurrent.Future;

import com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.avro.Schema;
import org.apache.avro.data.TimeConversions;
import org.apache.avro.Conversions;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Kafka's and Avro's own libraries.
 *
 * <p>Clients produce BROKERS REGISTRY COUNT COMPRESSION... writes events and prints where they
 * came to stand. Clients read BROKERS REGISTRY TOPIC... reads all values of topics, by all logical
 * types, and prints for each topic how many there are.
 */
public class Clients {
  static final String TOPIC = "churn.customer-events";

  public static void main(String[] args) throws Exception {
    List<String> rest = List.of(args).subList(3, args.length);
    if (args[0].equals("produce")) {
      produce(args[1], args[2], Integer.parseInt(rest.get(0)), rest.subList(1, rest.size()));
    } else {
      read(args[1], args[2], rest);
    }
  }

  static void produce(String brokers, String registry, int count, List<String> compressions) throws Exception {
    String latest = get(registry + "/subjects/" + TOPIC + "-value/versions/latest");
    int id = new ObjectMapper().readTree(latest).get("id").asInt();
    Schema schema = new Schema.Parser().parse(schemaIn(latest));
    GenericData data = conversions();
    for (String compression : compressions) {
      Properties settings = new Properties();
      settings.put("bootstrap.servers", brokers);
      settings.put("key.serializer", StringSerializer.class.getName());
      settings.put("value.serializer", ByteArraySerializer.class.getName());
      settings.put("compression.type", compression);
      settings.put("linger.ms", "200");
      try (KafkaProducer<String, byte[]> producer = new KafkaProducer<>(settings)) {
        List<String> sent = new ArrayList<>();
        List<Future<RecordMetadata>> places = new ArrayList<>();
        for (int i = 0; i < count; i++) {
          String customer = "java-" + compression + "-" + i;
          String event = UUID.randomUUID().toString();
          GenericRecord changes = new GenericData.Record(schema.getField("changes").schema());
          changes.put("Contract", "Month-to-month");
          changes.put("MonthlyCharges", 70.0 + i);
          changes.put("tenure", 1.0);
          GenericRecord record = new GenericData.Record(schema);
          record.put("event_id", event);
          record.put("customer_id", customer);
          record.put("occurred_at", java.time.Instant.now());
          record.put("changes", changes);
          record.put("increments", new GenericData.Record(schema.getField("increments").schema()));
          record.put("source", "java");
          ByteArrayOutputStream out = new ByteArrayOutputStream();
          out.write(ByteBuffer.allocate(5).put((byte) 0).putInt(id).array());
          BinaryEncoder encoder = EncoderFactory.get().binaryEncoder(out, null);
          new GenericDatumWriter<GenericRecord>(schema, data).write(record, encoder);
          encoder.flush();
          sent.add("\"event_id\":\"" + event + "\",\"customer_id\":\"" + customer + "\"");
          places.add(producer.send(new ProducerRecord<>(TOPIC, customer, out.toByteArray())));
        }
        producer.flush();
        for (int i = 0; i < count; i++) {
          RecordMetadata at = places.get(i).get();
          System.out.printf("{%s,\"partition\":%d,\"offset\":%d,\"compression\":\"%s\"}%n",
              sent.get(i), at.partition(), at.offset(), compression);
        }
      }
    }
  }

  static void read(String brokers, String registry, List<String> topics) throws Exception {
    Properties settings = new Properties();
    settings.put("bootstrap.servers", brokers);
    settings.put("key.deserializer", ByteArrayDeserializer.class.getName());
    settings.put("value.deserializer", ByteArrayDeserializer.class.getName());
    GenericData data = conversions();
    Map<Integer, GenericDatumReader<Object>> readers = new HashMap<>();
    try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(settings)) {
      for (String topic : topics) {
        List<TopicPartition> partitions = new ArrayList<>();
        for (PartitionInfo p : consumer.partitionsFor(topic)) {
          partitions.add(new TopicPartition(topic, p.partition()));
        }
        consumer.assign(partitions);
        consumer.seekToBeginning(partitions);
        Map<TopicPartition, Long> end = consumer.endOffsets(partitions);
        int values = 0;
        while (end.entrySet().stream().anyMatch(e -> consumer.position(e.getKey()) < e.getValue())) {
          for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofSeconds(1))) {
            if (r.value() == null) {
              continue;
            }
            try {
              ByteBuffer value = ByteBuffer.wrap(r.value());
              if (value.get() != 0) {
                throw new IllegalArgumentException("not framed");
              }
              int id = value.getInt();
              if (!readers.containsKey(id)) {
                Schema schema = new Schema.Parser().parse(schemaIn(get(registry + "/schemas/ids/" + id)));
                readers.put(id, new GenericDatumReader<>(schema, schema, data));
              }
              BinaryDecoder decoder = DecoderFactory.get().binaryDecoder(r.value(), 5, r.value().length - 5, null);
              readers.get(id).read(null, decoder);
              if (!decoder.isEnd()) {
                throw new IllegalArgumentException("bytes are left");
              }
              values++;
            } catch (Exception e) {
              System.out.printf("{\"topic\":\"%s\",\"error\":\"partition %d, offset %d: %s\"}%n",
                  topic, r.partition(), r.offset(), e.toString().replaceAll("[\"\\\\\\p{Cntrl}]", " "));
            }
          }
        }
        System.out.printf("{\"topic\":\"%s\",\"values\":%d}%n", topic, values);
      }
    }
  }

  static GenericData conversions() {
    GenericData data = new GenericData();
    data.addLogicalTypeConversion(new TimeConversions.TimestampMillisConversion());
    data.addLogicalTypeConversion(new Conversions.UUIDConversion());
    return data;
  }

  static String get(String url) throws Exception {
    HttpResponse<String> answer = HttpClient.newHttpClient()
        .send(HttpRequest.newBuilder(URI.create(url)).build(), HttpResponse.BodyHandlers.ofString());
    if (answer.statusCode() != 200) {
      throw new IllegalStateException(url + ": " + answer.statusCode() + " " + answer.body());
    }
    return answer.body();
  }

  static String schemaIn(String answer) throws Exception {
    return new ObjectMapper().readTree(answer).get("schema").asText();
  }
}
