//! A native, async Apache RocketMQ producer.
