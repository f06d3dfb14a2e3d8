//! What the log has been told already.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Arc, Mutex, MutexGuard},
};

/// The last failure of each topic, where what fails is tried again every second.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<BTreeMap<Arc<str>, String>>);

impl Told {
    /// Whether a failure is not the one that the log was told last.
    pub(crate) fn is_news(&self, topic: &Arc<str>, failure: &dyn Error) -> bool {
        let text = failure.to_string();
        self.last().insert(topic.clone(), text.clone()).is_none_or(|last| last != text)
    }

    /// It works: whatever fails from now on is news.
    pub(crate) fn works(&self, topic: &str) {
        self.last().remove(topic);
    }

    fn last(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, String>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AllocateError;

    #[test]
    fn a_failure_is_news_once_until_it_is_another_one_or_over() {
        let (told, one, other): (_, Arc<str>, Arc<str>) = (Told::default(), "one".into(), "other".into());
        let failed = |text: &str| AllocateError::Failed(text.into());
        assert!(told.is_news(&one, &failed("no")));
        assert!(!told.is_news(&one, &failed("no")));
        assert!(told.is_news(&other, &failed("no")), "another topic");
        assert!(told.is_news(&one, &failed("never")), "another failure");
        assert!(told.is_news(&one, &failed("no")), "the first one again");
        told.works(&one);
        assert!(told.is_news(&one, &failed("no")), "it has worked meanwhile");
        assert!(!told.is_news(&other, &failed("no")), "the other topic still fails");
    }
}
