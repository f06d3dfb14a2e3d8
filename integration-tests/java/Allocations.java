// Prints how Java's allocation strategies share queues out, one case a line: the strategy, the brokers with their numbers
// of queues, the members, and the share of each member in sorted order. `rocketmq-consumer/tests/goldens/allocations.txt`
// is what it prints with 5.5.0.

import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.AllocateMessageQueueStrategy;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMachineRoomNearby;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragely;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragelyByCircle;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueByConfig;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueByMachineRoom;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueConsistentHash;
import org.apache.rocketmq.common.MQVersion;
import org.apache.rocketmq.common.message.MessageQueue;

public class Allocations {
    static final String TOPIC = "order-created";

    /** In no order, some of them only to be told apart by how strings are compared. */
    static final String[] BROKERS = {
        "b:8", "b:1", "broker-b:3 broker-a:4",
        "broker-10:2 broker-9:2 Broker-9:2", "ｂ:3 🚀:3 брокер:2",
        "west@b:4 east@a:5 north@c:3 plain:2", "east@a:4 east@b:3 @c:2 east@d@:2 east@e@f:2",
    };
    static final String[] MEMBERS = {
        "c1", "c1 c2 c3", "c3 c1 c10 c2", "c7 c6 c5 c4 c3 c2 c1 c9 c8",
        "192.0.2.7@4711#1 192.0.2.7@4711#12 192.0.2.30@1#2",
        "ｃ 🚀 клиент é e\u0301", "east@1 west@2 east@3", "north@1 west@2 south@3 east@4 west@0",
        // A client that a broker knows by several connections.
        "c2 c1 c2 c3", "east@2 west@1 east@1 east@1",
    };

    public static void main(String[] args) {
        PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        String version = MQVersion.getVersionDesc(MQVersion.CURRENT_VERSION);
        out.println("# Java client " + version + ", by integration-tests/java/Allocations.java");
        for (String brokers : BROKERS) {
            for (String members : MEMBERS) {
                List<MessageQueue> queues = queues(brokers);
                List<String> ids = new ArrayList<>(Arrays.asList(members.split(" ")));
                Collections.sort(queues);
                Collections.sort(ids);
                strategies(queues).forEach((name, strategy) -> {
                    List<String> shares = new ArrayList<>();
                    for (String id : ids) shares.add(share(strategy, id, queues, ids));
                    shares.add(share(strategy, "stranger", queues, ids));
                    out.println(String.join("\t", name, brokers, members, String.join(" | ", shares)));
                });
            }
        }
    }

    static List<MessageQueue> queues(String brokers) {
        List<MessageQueue> queues = new ArrayList<>();
        for (String broker : brokers.split(" ")) {
            int colon = broker.lastIndexOf(':');
            for (int id = Integer.parseInt(broker.substring(colon + 1)) - 1; id >= 0; id--) {
                queues.add(new MessageQueue(TOPIC, broker.substring(0, colon), id));
            }
        }
        return queues;
    }

    static Map<String, AllocateMessageQueueStrategy> strategies(List<MessageQueue> queues) {
        Map<String, AllocateMessageQueueStrategy> strategies = new LinkedHashMap<>();
        put(strategies, "", new AllocateMessageQueueAveragely());
        put(strategies, "", new AllocateMessageQueueAveragelyByCircle());
        for (int nodes : new int[] {0, 1, 10, 100}) {
            put(strategies, " " + nodes, new AllocateMessageQueueConsistentHash(nodes));
        }
        AllocateMessageQueueByConfig config = new AllocateMessageQueueByConfig();
        List<MessageQueue> everySecond = new ArrayList<>();
        for (int index = 0; index < queues.size(); index += 2) everySecond.add(queues.get(index));
        config.setMessageQueueList(everySecond);
        put(strategies, "", config);
        AllocateMessageQueueByMachineRoom rooms = new AllocateMessageQueueByMachineRoom();
        rooms.setConsumeridcs(new HashSet<>(Arrays.asList("east", "north", "")));
        put(strategies, "", rooms);
        for (AllocateMessageQueueStrategy inner : new AllocateMessageQueueStrategy[] {
            new AllocateMessageQueueAveragely(),
            new AllocateMessageQueueAveragelyByCircle(),
            new AllocateMessageQueueConsistentHash(),
        }) {
            put(strategies, "", new AllocateMachineRoomNearby(inner, new BeforeTheSign()));
        }
        return strategies;
    }

    static void put(Map<String, AllocateMessageQueueStrategy> strategies, String options, AllocateMessageQueueStrategy it) {
        strategies.put(it.getName() + options, it);
    }

    static String share(AllocateMessageQueueStrategy strategy, String id, List<MessageQueue> queues, List<String> ids) {
        try {
            List<MessageQueue> share = new ArrayList<>(strategy.allocate("group", id, queues, ids));
            Collections.sort(share);
            return share.stream().map(it -> it.getBrokerName() + ":" + it.getQueueId()).collect(Collectors.joining(" "));
        } catch (Exception e) {
            return "error";
        }
    }

    /** The room of both brokers and members stands before an @; without one they have none. */
    static class BeforeTheSign implements AllocateMachineRoomNearby.MachineRoomResolver {
        public String brokerDeployIn(MessageQueue queue) { return room(queue.getBrokerName()); }

        public String consumerDeployIn(String clientId) { return room(clientId); }

        static String room(String name) {
            int at = name.indexOf('@');
            return at < 0 ? null : name.substring(0, at);
        }
    }
}
