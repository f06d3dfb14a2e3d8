// Java members of groups that ours are in, too, run from source. What they have and what they are given is printed as
// JSON, one line each. They leave their groups when the standard input ends.

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.TreeSet;
import org.apache.rocketmq.client.consumer.AllocateMessageQueueStrategy;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragely;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragelyByCircle;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueConsistentHash;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;

public class Members {
    /** What a listener takes for a message, so that some are always under way when queues change hands. */
    static final int WORK_MS = 15;

    /** mode, name server, topic, group. */
    public static void main(String[] args) throws Exception {
        System.setProperty("rocketmq.client.rebalance.waitInterval", "1000");
        String mode = args[0], nameServer = args[1], topic = args[2], group = args[3];
        List<DefaultMQPushConsumer> members = new ArrayList<>();
        if (mode.equals("ordered")) {
            members.add(member(nameServer, topic, group, new AllocateMessageQueueAveragely(), true));
        } else {
            for (AllocateMessageQueueStrategy strategy : new AllocateMessageQueueStrategy[] {
                new AllocateMessageQueueAveragely(),
                new AllocateMessageQueueAveragelyByCircle(),
                new AllocateMessageQueueConsistentHash(),
            }) {
                members.add(member(nameServer, topic, group + "-" + strategy.getName(), strategy, false));
            }
        }
        Thread watching = new Thread(() -> watch(members, topic));
        watching.setDaemon(true);
        watching.start();
        while (System.in.read() >= 0) { }
        members.forEach(DefaultMQPushConsumer::shutdown);
        System.exit(0);
    }

    static DefaultMQPushConsumer member(
        String nameServer, String topic, String group, AllocateMessageQueueStrategy strategy, boolean ordered
    ) throws Exception {
        DefaultMQPushConsumer member = new DefaultMQPushConsumer(group);
        member.setNamesrvAddr(nameServer);
        member.setInstanceName(group);
        member.setMqClientApiTimeout(20_000);
        member.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        member.setAllocateMessageQueueStrategy(strategy);
        member.setConsumeMessageBatchMaxSize(1);
        member.subscribe(topic, "*");
        if (ordered) {
            member.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
                consume(group, messages);
                return ConsumeOrderlyStatus.SUCCESS;
            });
        } else {
            member.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                consume(group, messages);
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
        }
        member.start();
        String id = member.getDefaultMQPushConsumerImpl().getmQClientFactory().getClientId();
        print("{\"event\":\"member\",\"group\":\"%s\",\"id\":\"%s\"}", group, id);
        return member;
    }

    static void consume(String group, List<MessageExt> messages) {
        for (MessageExt message : messages) {
            long began = System.currentTimeMillis();
            try {
                Thread.sleep(WORK_MS);
            } catch (InterruptedException e) {
                throw new IllegalStateException(e);
            }
            print(
                "{\"event\":\"message\",\"group\":\"%s\",\"id\":\"%s\",\"queue\":%d,\"number\":\"%s\",\"began\":%d,\"ended\":%d}",
                group, message.getMsgId(), message.getQueueId(), new String(message.getBody(), StandardCharsets.UTF_8),
                began, System.currentTimeMillis()
            );
        }
    }

    /** Prints the queues that each member has of the topic, whenever they are others. */
    static void watch(List<DefaultMQPushConsumer> members, String topic) {
        List<TreeSet<Integer>> last = new ArrayList<>();
        members.forEach(member -> last.add(new TreeSet<>()));
        while (true) {
            for (int index = 0; index < members.size(); index++) {
                DefaultMQPushConsumer member = members.get(index);
                TreeSet<Integer> queues = new TreeSet<>();
                member.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().forEach((queue, it) -> {
                    if (queue.getTopic().equals(topic) && !it.isDropped()) queues.add(queue.getQueueId());
                });
                if (!queues.equals(last.get(index))) {
                    last.set(index, queues);
                    print("{\"event\":\"queues\",\"group\":\"%s\",\"queues\":%s}", member.getConsumerGroup(), queues);
                }
            }
            try {
                Thread.sleep(50);
            } catch (InterruptedException e) {
                return;
            }
        }
    }

    static synchronized void print(String format, Object... arguments) {
        System.out.println(String.format(format, arguments));
        System.out.flush();
    }
}
