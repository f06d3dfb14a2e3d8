use crate::{message::local_ip, random::random_u64};

/// The id by which brokers know this client: `<ip>@<instance name>[@<unit name>]`.
///
/// # Protocol
/// It must be unique in a consumer group, or a part of the queues is never consumed. Java: `ClientConfig.buildMQClientId`.
pub(crate) fn client_id(instance_name: Option<&str>, unit_name: Option<&str>) -> String {
    let ip = local_ip();
    let mut id = match instance_name {
        Some(name) => format!("{ip}@{name}"),
        None => format!("{ip}@{}#{:016x}", std::process::id(), random_u64()),
    };
    if let Some(unit_name) = unit_name {
        id.push('@');
        id.push_str(unit_name);
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_one_process_differ_unless_named() {
        assert_ne!(client_id(None, None), client_id(None, None));
        assert!(client_id(Some("billing-1"), None).ends_with("@billing-1"));
        assert!(client_id(Some("billing-1"), Some("east")).ends_with("@billing-1@east"));
        assert!(client_id(None, Some("east")).ends_with("@east"));
    }
}
