//! What Apache RocketMQ producers, consumers and tools share: typed requests, messages, routes, and the client that holds connections.
