use crate::Error;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The addresses of the name servers, and which of them answered last.
#[derive(Debug)]
pub(crate) struct NameServers {
    addrs: Vec<Arc<str>>,
    current: AtomicUsize,
}

impl NameServers {
    /// The addresses; each text may hold several, separated by `;` or `,`. The first to be asked is `first`, modulo
    /// their number, so that many clients do not all begin with the same one.
    pub(crate) fn new(addrs: impl IntoIterator<Item = String>, first: usize) -> Result<Self, Error> {
        let mut list: Vec<Arc<str>> = Vec::new();
        for text in addrs {
            for addr in text.split([';', ',']).map(str::trim).filter(|addr| !addr.is_empty()) {
                if !list.iter().any(|known| **known == *addr) {
                    list.push(addr.into());
                }
            }
        }
        if list.is_empty() {
            return Err(Error::Config { option: "name_servers", message: "is empty" });
        }
        let current = AtomicUsize::new(first % list.len());
        Ok(Self { addrs: list, current })
    }

    /// All of them, beginning with the one that answered last.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = &Arc<str>> {
        let current = self.current.load(Ordering::Relaxed) % self.addrs.len();
        self.addrs[current..].iter().chain(&self.addrs[..current])
    }

    /// Notes that `addr` answered.
    pub(crate) fn answered(&self, addr: &str) {
        if let Some(index) = self.addrs.iter().position(|known| **known == *addr) {
            self.current.store(index, Ordering::Relaxed);
        }
    }

    pub(crate) fn contains(&self, addr: &str) -> bool {
        self.addrs.iter().any(|known| **known == *addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_answered_is_asked_first_next_time() {
        let servers = NameServers::new(["a:1;b:1".to_owned(), " c:1 , a:1".to_owned()], 4).unwrap();
        assert_eq!(servers.in_order().map(|addr| &**addr).collect::<Vec<_>>(), ["b:1", "c:1", "a:1"]);
        servers.answered("a:1");
        assert_eq!(servers.in_order().map(|addr| &**addr).collect::<Vec<_>>(), ["a:1", "b:1", "c:1"]);
    }

    #[test]
    fn no_address_is_an_error() {
        assert!(NameServers::new([" ; ,".to_owned()], 0).is_err());
    }
}
