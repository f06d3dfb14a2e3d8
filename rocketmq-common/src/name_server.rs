use crate::{
    Error, Namespace,
    resolver::{Environment, NameServerResolver, ResolveError},
    unwinding,
};
use rocketmq_remote::printable;
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::time::timeout;

/// Where a client has the addresses of its name servers from: a list, or a resolver. The default, like an empty list,
/// is what the environment variable `NAMESRV_ADDR` holds.
///
/// Made of a list by `into`: `["127.0.0.1:9876"]`, or any other iterator of texts. Each text is of the form `host:port`
/// and may hold several addresses, separated by `;` or `,`. Of `http://host:port`, what follows the last `/` counts.
///
/// # Protocol
/// Java: `NameServerAddressUtils`.
#[derive(Clone, Default)]
pub struct NameServerSource(Source);

#[derive(Clone, Default)]
enum Source {
    #[default]
    Environment,
    List(Vec<String>),
    Resolver(Arc<dyn NameServerResolver>),
}

impl NameServerSource {
    /// A resolver: one of [`resolver`](crate::resolver), or the user's own.
    pub fn resolver(resolver: impl NameServerResolver + 'static) -> Self {
        Self(Source::Resolver(Arc::new(resolver)))
    }

    /// The texts that hold the addresses, and who may have others later.
    ///
    /// # Errors
    /// [`Error::Config`] where nothing says where the name servers are; [`Error::NameServersUnknown`].
    pub(crate) async fn begin(
        self,
        limit: Duration,
    ) -> Result<(Vec<String>, Option<Arc<dyn NameServerResolver>>), Error> {
        match self.0 {
            Source::List(texts) => Ok((texts, None)),
            Source::Environment => match Environment::default().resolve().await {
                Ok(texts) => Ok((texts, None)),
                Err(_) => Err(Error::Config { option: OPTION, message: "is empty, and so is NAMESRV_ADDR" }),
            },
            Source::Resolver(resolver) => match ask(&*resolver, limit).await {
                Ok(texts) if addresses(&texts).next().is_some() => Ok((texts, Some(resolver))),
                Ok(_) => Err(Error::NameServersUnknown { source: ResolveError::Empty }),
                Err(source) => Err(Error::NameServersUnknown { source }),
            },
        }
    }
}

impl<T: IntoIterator<Item: Into<String>>> From<T> for NameServerSource {
    fn from(addrs: T) -> Self {
        let texts: Vec<String> = addrs.into_iter().map(Into::into).collect();
        if texts.is_empty() { Self::default() } else { Self(Source::List(texts)) }
    }
}

impl fmt::Debug for NameServerSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Environment => f.write_str("Environment"),
            Source::List(texts) => f.debug_list().entries(texts).finish(),
            Source::Resolver(resolver) => resolver.fmt(f),
        }
    }
}

/// Asks a resolver, which may take its time, panic, or say nothing.
pub(crate) async fn ask(resolver: &dyn NameServerResolver, limit: Duration) -> Result<Vec<String>, ResolveError> {
    match timeout(limit, unwinding(|| resolver.resolve())).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(ResolveError::Panicked { panic: panic.into() }),
        Err(_) => Err(ResolveError::TimedOut),
    }
}

/// The namespace that an address has in it: `MQ_INST_1_a` in `http://MQ_INST_1_a.example:80`.
///
/// # Protocol
/// Java: `NameServerAddressUtils.parseInstanceIdFromEndpoint`.
pub(crate) fn namespace_of(texts: &[String]) -> Namespace {
    let namespace = |text: &str| {
        let host = text.rsplit('/').next().unwrap_or(text);
        let (instance, _) = host.split_once('.')?;
        let rest = instance.strip_prefix("MQ_INST_")?;
        // Two words at least, of letters, digits and `_`.
        let is_instance = rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let has_two_words = rest.get(1..rest.len().saturating_sub(1)).is_some_and(|middle| middle.contains('_'));
        if is_instance && has_two_words { Namespace::new(instance).ok() } else { None }
    };
    parts(texts).find_map(namespace).unwrap_or_default()
}

/// Why there is no address in `texts`.
fn no_address(texts: &[String]) -> Error {
    match parts(texts).next() {
        Some(text) => Error::NameServerAddress { text: printable(text).into() },
        None => Error::Config { option: OPTION, message: "holds no address of the form host:port" },
    }
}

fn parts(texts: &[String]) -> impl Iterator<Item = &str> {
    texts.iter().flat_map(|text| text.split([';', ','])).map(str::trim).filter(|part| !part.is_empty())
}

/// The addresses in `texts`. What is none is passed over.
fn addresses(texts: &[String]) -> impl Iterator<Item = &str> {
    parts(texts).filter_map(|part| {
        let addr = match part.strip_prefix("http://") {
            Some(rest) => rest.rsplit('/').next().unwrap_or(rest),
            None => part,
        };
        if !is_address(addr) {
            tracing::warn!(text = %printable(part), "not an address of a name server, ignored");
            return None;
        }
        Some(addr)
    })
}

fn is_address(addr: &str) -> bool {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']' | '%');
    match addr.rsplit_once(':') {
        Some((host, port)) => {
            !host.is_empty() && host.chars().all(fits) && port.parse::<u16>().is_ok_and(|port| port > 0)
        }
        None => false,
    }
}

/// The addresses of the name servers, and which of them answered last.
#[derive(Debug)]
pub(crate) struct NameServers(Mutex<State>);

#[derive(Debug)]
struct State {
    addrs: Vec<Arc<str>>,
    current: usize,
}

impl NameServers {
    /// The addresses in `texts`. The first to be asked is `first`, modulo their number, so that many clients do not all
    /// begin with the same one.
    ///
    /// # Errors
    /// [`Error::NameServerAddress`] or [`Error::Config`] where there is none.
    pub(crate) fn new(texts: &[String], first: usize) -> Result<Self, Error> {
        let addrs = distinct(texts);
        let current = first.checked_rem(addrs.len()).ok_or_else(|| no_address(texts))?;
        Ok(Self(Mutex::new(State { addrs, current })))
    }

    /// Takes the addresses in `texts` for the ones there were, unless they are none; answers those that are gone. The
    /// one that answered last goes on to be the first to be asked, if it is still there, else `first` is.
    pub(crate) fn replace(&self, texts: &[String], first: usize) -> Vec<Arc<str>> {
        let mut addrs = distinct(texts);
        let mut state = self.state();
        if addrs.is_empty() {
            return Vec::new();
        }
        let asked = state.addrs.get(state.current).cloned();
        let place = |addr: &Arc<str>| addrs.iter().position(|known| known == addr);
        let current = asked.as_ref().and_then(place).unwrap_or_else(|| first % addrs.len());
        std::mem::swap(&mut state.addrs, &mut addrs);
        state.current = current;
        addrs.retain(|addr| !state.addrs.contains(addr));
        addrs
    }

    /// All of them, beginning with the one that answered last.
    pub(crate) fn in_order(&self) -> Vec<Arc<str>> {
        let state = self.state();
        let (before, from) = state.addrs.split_at(state.current.min(state.addrs.len()));
        from.iter().chain(before).cloned().collect()
    }

    /// Notes that `addr` answered.
    pub(crate) fn answered(&self, addr: &str) {
        let mut state = self.state();
        if let Some(index) = state.addrs.iter().position(|known| **known == *addr) {
            state.current = index;
        }
    }

    pub(crate) fn contains(&self, addr: &str) -> bool {
        self.state().addrs.iter().any(|known| **known == *addr)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn distinct(texts: &[String]) -> Vec<Arc<str>> {
    let mut addrs: Vec<Arc<str>> = Vec::new();
    for addr in addresses(texts).take(MAX_ADDRESSES) {
        if !addrs.iter().any(|known| **known == *addr) {
            addrs.push(addr.into());
        }
    }
    addrs
}

const OPTION: &str = "name_servers";
/// More than that nobody runs: an answer that says so is not believed to its end.
const MAX_ADDRESSES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolver::{FixedList, Resolving};

    fn servers(texts: &[&str]) -> Result<NameServers, Error> {
        NameServers::new(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>(), 4)
    }

    fn order(servers: &NameServers) -> Vec<String> {
        servers.in_order().iter().map(|addr| addr.to_string()).collect()
    }

    #[test]
    fn the_one_that_answered_is_asked_first_next_time() {
        let servers = servers(&["a:1;b:1", " c:1 , a:1"]).unwrap();
        assert_eq!(order(&servers), ["b:1", "c:1", "a:1"]);
        servers.answered("a:1");
        assert_eq!(order(&servers), ["a:1", "b:1", "c:1"]);
    }

    #[test]
    fn no_address_is_an_error() {
        for texts in [&[][..], &[" ; ,"]] {
            assert!(matches!(servers(texts), Err(Error::Config { option: "name_servers", .. })), "{texts:?}");
        }
        for texts in [&["host"][..], &[";host:0", "host:65536", "a b:1", "<html>:1"], &["x\u{1b}:1"]] {
            let text = texts[0].trim_start_matches(';').replace('\u{1b}', "\\u{1b}");
            let error = servers(texts).unwrap_err();
            assert!(matches!(&error, Error::NameServerAddress { text: named } if **named == *text), "{error:?}");
        }
    }

    #[test]
    fn addresses_have_several_forms() {
        let servers = servers(&["http://ns.example:80;http://MQ_INST_1_a.example:81", "[::1]:82,::1:83;x"]).unwrap();
        servers.answered("ns.example:80");
        assert_eq!(order(&servers), ["ns.example:80", "MQ_INST_1_a.example:81", "[::1]:82", "::1:83"]);
    }

    #[test]
    fn a_new_list_replaces_the_old_one_and_says_what_is_gone() {
        let servers = servers(&["a:1;b:1;c:1"]).unwrap();
        servers.answered("c:1");
        assert_eq!(servers.replace(&["d:1;c:1".to_owned()], 0), ["a:1".into(), "b:1".into()]);
        assert_eq!(order(&servers), ["c:1", "d:1"]);
        assert!(!servers.contains("a:1"));
        assert!(servers.replace(&["d:1;c:1".to_owned()], 0).is_empty());
        assert!(servers.replace(&["nothing of the kind".to_owned()], 0).is_empty());
        assert_eq!(order(&servers), ["c:1", "d:1"]);
        assert_eq!(servers.replace(&["x:1;y:1".to_owned()], 3), ["d:1".into(), "c:1".into()]);
        assert_eq!(order(&servers), ["y:1", "x:1"]);
    }

    #[test]
    fn an_address_may_tell_a_namespace() {
        let namespace = |text: &str| namespace_of(&[text.to_owned()]).name().map(str::to_owned);
        assert_eq!(namespace("http://MQ_INST_1_a.example:80").as_deref(), Some("MQ_INST_1_a"));
        assert_eq!(namespace("x:1; MQ_INST_1_a_b.example:80").as_deref(), Some("MQ_INST_1_a_b"));
        for none in ["127.0.0.1:9876", "MQ_INST_1_a:80", "MQ_INST_1.example:80", "MQ_INST__.x:1", "MQ_INST_a-_b.x:1"] {
            assert_eq!(namespace(none), None, "{none}");
        }
    }

    #[derive(Debug)]
    struct Awkward(&'static str);

    impl NameServerResolver for Awkward {
        fn resolve(&self) -> Resolving<'_> {
            match self.0 {
                "panics" => panic!("at once"),
                "panics later" => Box::pin(async { panic!("later") }),
                "never" => Box::pin(std::future::pending()),
                "fails" => Box::pin(async { Err(ResolveError::other("no registry")) }),
                text => Box::pin(async move { Ok(vec![text.to_owned()]) }),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_does_not_tell_is_a_typed_error() {
        for (what, expected) in [
            ("panics", "the resolver panicked: at once"),
            ("panics later", "the resolver panicked: later"),
            ("never", "no answer in time"),
            ("fails", "no registry"),
            ("", "there is no address in the answer"),
            ("<html>", "there is no address in the answer"),
        ] {
            let begun = NameServerSource::resolver(Awkward(what)).begin(Duration::from_secs(3)).await;
            let Err(Error::NameServersUnknown { source }) = begun else { panic!("{what}: {begun:?}") };
            assert_eq!(source.to_string(), expected);
        }
        let begun = NameServerSource::resolver(FixedList::new(["a:1"])).begin(Duration::from_secs(3)).await.unwrap();
        assert_eq!(begun.0, ["a:1"]);
    }
}
