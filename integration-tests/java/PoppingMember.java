// A Java member of a group that brokers have pop, beside ours; run from source, on a client since 5.0. What it has and what
// it is given is printed as JSON, one line each. It leaves its group when the standard input ends.

import java.nio.charset.StandardCharsets;
import java.util.List;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyContext;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;

public class PoppingMember {
    /** name server, topic, group. */
    public static void main(String[] args) throws Exception {
        System.setProperty("rocketmq.client.rebalance.waitInterval", "1000");
        String nameServer = args[0], topic = args[1], group = args[2];
        DefaultMQPushConsumer member = new DefaultMQPushConsumer(group);
        member.setNamesrvAddr(nameServer);
        member.setInstanceName(group);
        member.setMqClientApiTimeout(20_000);
        member.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        member.setClientRebalance(false);
        member.subscribe(topic, "*");
        member.registerMessageListener(new MessageListenerConcurrently() {
            @Override
            public ConsumeConcurrentlyStatus consumeMessage(List<MessageExt> messages, ConsumeConcurrentlyContext context) {
                boolean fails = false;
                for (MessageExt message : messages) {
                    String body = new String(message.getBody(), StandardCharsets.UTF_8);
                    fails |= body.startsWith("java fails") && message.getReconsumeTimes() == 0;
                    print(
                        "{\"event\":\"message\",\"id\":\"%s\",\"body\":\"%s\",\"times\":%d}",
                        message.getMsgId(), body, message.getReconsumeTimes()
                    );
                }
                return fails ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            }
        });
        member.start();
        Thread watching = new Thread(() -> {
            boolean last = false;
            while (true) {
                boolean pops = member.getDefaultMQPushConsumerImpl().getRebalanceImpl().getPopProcessQueueTable()
                    .keySet().stream().anyMatch(queue -> queue.getTopic().equals(topic));
                if (pops != last) print("{\"event\":\"pops\",\"now\":%b}", pops);
                last = pops;
                try {
                    Thread.sleep(50);
                } catch (InterruptedException e) {
                    return;
                }
            }
        });
        watching.setDaemon(true);
        watching.start();
        while (System.in.read() >= 0) { }
        member.shutdown();
        System.exit(0);
    }

    static synchronized void print(String format, Object... arguments) {
        System.out.println(String.format(format, arguments));
        System.out.flush();
    }
}
