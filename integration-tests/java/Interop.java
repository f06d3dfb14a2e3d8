// A Java client for the interop scenarios, run from source: it sends, consumes, asks and answers as it is told by its
// arguments, and prints what comes of it as JSON, one line each. It ends when its standard input does.

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.producer.selector.SelectMessageQueueByHash;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

public class Interop {
    /** The machine may be busy. */
    static final int PATIENCE_MS = 20_000;

    /** mode, name server, topic, a name for groups that nobody else uses. */
    public static void main(String[] args) throws Exception {
        String mode = args[0], nameServer = args[1], topic = args[2], name = args[3];
        switch (mode) {
            case "consume": consume(nameServer, topic, name, false); break;
            case "answer": consume(nameServer, topic, name, true); break;
            case "produce": produce(nameServer, topic, name); break;
            case "ask": ask(nameServer, topic, name); break;
            default: throw new IllegalArgumentException(mode);
        }
        while (System.in.read() >= 0) { }
        System.exit(0);
    }

    static void consume(String nameServer, String topic, String name, boolean answers) throws Exception {
        DefaultMQProducer replies = new DefaultMQProducer(name + "-replies");
        replies.setNamesrvAddr(nameServer);
        replies.setMqClientApiTimeout(PATIENCE_MS);
        replies.setSendMsgTimeout(PATIENCE_MS);
        if (answers) replies.start();
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(name);
        consumer.setNamesrvAddr(nameServer);
        consumer.setMqClientApiTimeout(PATIENCE_MS);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setConsumeMessageBatchMaxSize(1);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt message : messages) {
                print("message", message);
                if (answers) {
                    try {
                        Message reply = MessageUtil.createReplyMessage(message, message.getBody());
                        reply.setTags(message.getTags());
                        reply.setKeys(message.getKeys());
                        reply.setFlag(message.getFlag());
                        reply.putUserProperty("größe", "½ 🚀");
                        replies.send(reply);
                    } catch (Exception e) {
                        fail(e);
                    }
                }
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        ready();
    }

    static void produce(String nameServer, String topic, String name) throws Exception {
        for (String codec : new String[] {"ZLIB", "LZ4", "ZSTD"}) {
            // A producer looks at it when it is made; older ones have no other way to be told.
            System.setProperty("rocketmq.message.compressType", codec);
            DefaultMQProducer producer = new DefaultMQProducer(name + "-" + codec);
            producer.setNamesrvAddr(nameServer);
            producer.setMqClientApiTimeout(PATIENCE_MS);
            producer.setSendMsgTimeout(PATIENCE_MS);
            producer.setInstanceName(name + codec);
            producer.start();
            sent("codec " + codec, of(topic, codec + " " + "abcdefgh".repeat(20_000), "codec"), producer, null);
            if (codec.equals("ZLIB")) {
                Message plain = of(topic, "plain", "tagué-标签");
                plain.setKeys(Arrays.asList("ключ", "鍵", "🚀"));
                plain.setFlag(-77);
                plain.putUserProperty("größe", "½ ≠ \"quoted\" \\ {json: 1}\n\t🚀");
                sent("plain", plain, producer, null);
                List<Message> batch = new ArrayList<>();
                for (int index = 0; index < 3; index++) {
                    Message item = of(topic, "item " + index, "batch");
                    item.setKeys("item" + index);
                    item.putUserProperty("index", "" + index);
                    batch.add(item);
                }
                SendResult result = producer.send(batch);
                String[] ids = result.getMsgId().split(",");
                for (int index = 0; index < 3; index++) printSent("batch", ids[index], batch.get(index), result);
                Message delayed = of(topic, "delayed", "delay");
                delayed.setDelayTimeLevel(1);
                sent("delay", delayed, producer, null);
                for (String key : new String[] {"a", "b", "order-created", "user-7", "🚀"}) {
                    Message ordered = of(topic, "ordered " + key, "order");
                    ordered.putUserProperty("sharding", key);
                    sent("hash " + key, ordered, producer, key);
                }
            }
            producer.shutdown();
        }
        TransactionMQProducer producer = new TransactionMQProducer(name + "-transactions");
        producer.setNamesrvAddr(nameServer);
        producer.setMqClientApiTimeout(PATIENCE_MS);
        producer.setSendMsgTimeout(PATIENCE_MS);
        producer.setTransactionListener(new TransactionListener() {
            public LocalTransactionState executeLocalTransaction(Message message, Object argument) {
                return (LocalTransactionState) argument;
            }

            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                return LocalTransactionState.COMMIT_MESSAGE;
            }
        });
        producer.start();
        Message committed = of(topic, "committed", "transaction");
        printSent("commit", producer.sendMessageInTransaction(committed, LocalTransactionState.COMMIT_MESSAGE), committed);
        Message checked = of(topic, "checked", "transaction");
        printSent("check", producer.sendMessageInTransaction(checked, LocalTransactionState.UNKNOW), checked);
        Message dropped = of(topic, "rolled back", "transaction");
        producer.sendMessageInTransaction(dropped, LocalTransactionState.ROLLBACK_MESSAGE);
        ready();
    }

    static void ask(String nameServer, String topic, String name) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer(name);
        producer.setNamesrvAddr(nameServer);
        producer.setMqClientApiTimeout(PATIENCE_MS);
        producer.setSendMsgTimeout(PATIENCE_MS);
        producer.start();
        for (String body : new String[] {"short", "abcdefgh".repeat(10_000)}) {
            Message question = of(topic, body, "question");
            question.setKeys("key");
            question.putUserProperty("größe", "½ 🚀");
            print("reply", (MessageExt) producer.request(question, 20_000));
        }
        ready();
    }

    static Message of(String topic, String body, String tag) {
        return new Message(topic, tag, body.getBytes(StandardCharsets.UTF_8));
    }

    static void sent(String kind, Message message, DefaultMQProducer producer, String key) throws Exception {
        byte[] body = message.getBody();
        SendResult result =
            key == null ? producer.send(message) : producer.send(message, new SelectMessageQueueByHash(), key);
        message.setBody(body);
        printSent(kind, result, message);
    }

    static void printSent(String kind, SendResult result, Message message) {
        printSent(kind, result.getMsgId(), message, result);
    }

    static void printSent(String kind, String id, Message message, SendResult result) {
        Map<String, Object> line = line("sent", message);
        line.put("kind", kind);
        line.put("id", id);
        line.put("queue_id", result.getMessageQueue().getQueueId());
        print(line);
    }

    static void print(String event, MessageExt message) {
        Map<String, Object> line = line(event, message);
        line.put("id", message.getMsgId());
        line.put("queue_id", message.getQueueId());
        line.put("sys_flag", message.getSysFlag());
        line.put("reconsume_times", message.getReconsumeTimes());
        print(line);
    }

    static Map<String, Object> line(String event, Message message) {
        Map<String, Object> line = new TreeMap<>();
        line.put("event", event);
        line.put("topic", message.getTopic());
        line.put("tags", message.getTags());
        line.put("keys", message.getKeys());
        line.put("flag", message.getFlag());
        line.put("properties", new TreeMap<>(message.getProperties()));
        StringBuilder hex = new StringBuilder();
        for (byte b : message.getBody()) hex.append(String.format("%02x", b));
        line.put("body", hex.toString());
        return line;
    }

    static void ready() {
        Map<String, Object> line = new TreeMap<>();
        line.put("event", "ready");
        print(line);
    }

    static void fail(Exception e) {
        Map<String, Object> line = new TreeMap<>();
        line.put("event", "failed");
        line.put("error", "" + e);
        print(line);
    }

    static synchronized void print(Map<String, Object> line) {
        // All of it is ASCII.
        System.out.println(json(line));
        System.out.flush();
    }

    static String json(Object value) {
        if (value == null || value instanceof Number) return "" + value;
        StringBuilder text = new StringBuilder();
        if (value instanceof Map) {
            text.append('{');
            ((Map<?, ?>) value).forEach((name, item) -> {
                text.append(text.length() > 1 ? "," : "").append(json(name)).append(':').append(json(item));
            });
            return text.append('}').toString();
        }
        text.append('"');
        for (char c : value.toString().toCharArray()) {
            if (c < ' ' || c > '~' || c == '"' || c == '\\') text.append(String.format("\\u%04x", (int) c));
            else text.append(c);
        }
        return text.append('"').toString();
    }
}
