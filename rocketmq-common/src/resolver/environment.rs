use super::{NameServerResolver, ResolveError, Resolving};
use std::{future::ready, sync::Arc};

/// The addresses an environment variable holds, separated by `;`: `NAMESRV_ADDR`, as Java clients have it, or another.
#[derive(Clone, Debug)]
pub struct Environment {
    name: Arc<str>,
}

impl Environment {
    /// The variable of this name.
    pub fn variable(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into() }
    }
}

/// `NAMESRV_ADDR`.
impl Default for Environment {
    fn default() -> Self {
        Self::variable("NAMESRV_ADDR")
    }
}

impl NameServerResolver for Environment {
    fn resolve(&self) -> Resolving<'_> {
        let value = std::env::var(&*self.name).ok().filter(|value| !value.trim().is_empty());
        let value = value.ok_or_else(|| ResolveError::NotSet { name: self.name.clone() });
        Box::pin(ready(value.map(|value| vec![value])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_variable_is_read_and_a_missing_one_named() {
        // Cargo sets this one for every test.
        let read = Environment::variable("CARGO_PKG_NAME").resolve().await.unwrap();
        assert_eq!(read, ["rocketmq-common"]);
        let missing = Environment::variable("ROCKETMQ_NO_SUCH_VARIABLE").resolve().await.unwrap_err();
        assert_eq!(missing.to_string(), "the environment variable ROCKETMQ_NO_SUCH_VARIABLE is not set");
    }
}
