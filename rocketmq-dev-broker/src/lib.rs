//! An Apache RocketMQ name server and broker in this process, in memory, for tests and first contact.
