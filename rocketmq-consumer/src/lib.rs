//! A native, async Apache RocketMQ consumer.
