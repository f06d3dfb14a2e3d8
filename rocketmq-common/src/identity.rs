use crate::{message::local_ip, random::random_u64};

/// The id by which brokers know this client: `<ip>@<instance name>`.
///
/// # Protocol
/// It must be unique in a consumer group, or a part of the queues is never consumed. Java: `ClientConfig.buildMQClientId`.
pub(crate) fn client_id(instance_name: Option<&str>) -> String {
    let ip = local_ip();
    match instance_name {
        Some(name) => format!("{ip}@{name}"),
        None => format!("{ip}@{}#{:016x}", std::process::id(), random_u64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_one_process_differ_unless_named() {
        assert_ne!(client_id(None), client_id(None));
        assert!(client_id(Some("billing-1")).ends_with("@billing-1"));
    }
}
