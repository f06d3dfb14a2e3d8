//! Options that another option would make the consumer ignore: they are errors, which name the option.

use crate::{Error, PushConfig, listener::Listener, share::Sharing};
use rocketmq_common::ClientConfig;

/// A client that is shared has a configuration of its own.
pub(crate) fn check_client(has_client: bool, config: &ClientConfig) -> Result<(), Error> {
    let is_ignored = has_client && *config != ClientConfig::default();
    check(!is_ignored, "client", "is set in the configuration, and the shared client has a configuration of its own")
}

/// Queues are shared out only among the members of a group that is not a broadcast.
pub(crate) fn check_sharing(sharing: &Sharing, is_broadcast: bool, is_assigned: bool) -> Result<(), Error> {
    for (is_set, option) in [(sharing.is_chosen, "allocate"), (sharing.by_broker, "allocate_by_broker")] {
        check(!(is_set && is_broadcast), option, "is set, and in a broadcast every member has all queues")?;
        check(!(is_set && is_assigned), option, "is set, and assigned queues are not shared out")?;
    }
    Ok(())
}

/// A stream calls no listener.
pub(crate) fn check_stream(config: &PushConfig) -> Result<(), Error> {
    let default = PushConfig::default();
    let message = "is set, and a stream calls no listener";
    check(config.concurrency == default.concurrency, "concurrency", message)?;
    check(config.consume_batch == default.consume_batch, "consume_batch", message)?;
    check(config.consume_timeout == default.consume_timeout, "consume_timeout", message)?;
    check(config.suspend_time == default.suspend_time, "suspend_time", message)
}

/// A listener of single messages gets one a call.
pub(crate) fn check_listener(config: &PushConfig, listener: &Listener) -> Result<(), Error> {
    let is_ignored = config.consume_batch > 1 && listener.takes_one();
    check(!is_ignored, "consume_batch", "is above 1, and the listener takes one message a call: use a batch listener")
}

fn check(good: bool, option: &'static str, message: &'static str) -> Result<(), Error> {
    if good { Ok(()) } else { Err(rocketmq_common::Error::Config { option, message }.into()) }
}
