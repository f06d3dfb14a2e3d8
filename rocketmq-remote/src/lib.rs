//! The Apache RocketMQ remoting layer: frames, connections, and the three ways to ask (sync, async, one-way).
