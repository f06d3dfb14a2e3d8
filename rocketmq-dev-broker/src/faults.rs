//! Rules that make chosen requests fail, and a count of all requests.

use rocketmq_remote::{ExtFields, RequestCode, ResponseCode};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

/// The rules of a cluster, shared by its servers.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    rules: Vec<Rule>,
    received: HashMap<RequestCode, u64>,
    received_by_vip: HashMap<RequestCode, u64>,
    last_fields: HashMap<RequestCode, ExtFields>,
}

#[derive(Debug)]
struct Rule {
    id: u64,
    code: RequestCode,
    place: Option<Place>,
    fault: Fault,
    /// Whether an action was chosen; a rule without one does nothing.
    active: bool,
    /// How often it may still apply; `None` is for ever.
    left: Option<usize>,
}

/// A server of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    NameServer,
    Broker(Arc<str>),
}

/// What is to happen to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) delay: Option<Duration>,
    pub(crate) end: Option<End>,
    /// Whether the request is done before the fault applies to its answer.
    pub(crate) process_first: bool,
}

/// What takes the place of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Answer(ResponseCode),
    Forget,
    Close,
}

impl Faults {
    /// Counts a request, and says what is to happen to it, if anything. The oldest rule that fits applies.
    pub(crate) fn judge(&self, code: RequestCode, place: &Place) -> Option<Fault> {
        let mut state = self.lock();
        *state.received.entry(code).or_default() += 1;
        let fits =
            |rule: &Rule| rule.active && rule.code == code && rule.place.as_ref().is_none_or(|wanted| wanted == place);
        let at = state.rules.iter().position(fits)?;
        let rule = &mut state.rules[at];
        let fault = rule.fault.clone();
        if let Some(left) = &mut rule.left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                state.rules.remove(at);
            }
        }
        Some(fault)
    }

    pub(crate) fn received(&self, code: RequestCode) -> u64 {
        self.lock().received.get(&code).copied().unwrap_or(0)
    }

    /// Keeps the fields of a request, and by which port it came.
    pub(crate) fn note(&self, code: RequestCode, fields: &ExtFields, vip: bool) {
        let mut state = self.lock();
        state.last_fields.insert(code, fields.clone());
        if vip {
            *state.received_by_vip.entry(code).or_default() += 1;
        }
    }

    pub(crate) fn received_by_vip(&self, code: RequestCode) -> u64 {
        self.lock().received_by_vip.get(&code).copied().unwrap_or(0)
    }

    pub(crate) fn last_fields(&self, code: RequestCode) -> Option<ExtFields> {
        self.lock().last_fields.get(&code).cloned()
    }

    pub(crate) fn clear(&self) {
        self.lock().rules.clear();
    }

    pub(crate) fn rule(&self, code: RequestCode) -> FaultRule<'_> {
        let mut state = self.lock();
        state.next_id += 1;
        let id = state.next_id;
        state.rules.push(Rule { id, code, place: None, fault: Fault::default(), active: false, left: None });
        drop(state);
        FaultRule { faults: self, id }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A rule for the requests of one code. It takes effect once an action is chosen, and stays until it has applied
/// [`times`](Self::times) times or [`clear_faults`](crate::DevCluster::clear_faults) is called.
///
/// Of several rules that fit a request, the oldest applies.
#[derive(Debug)]
pub struct FaultRule<'a> {
    faults: &'a Faults,
    id: u64,
}

impl FaultRule<'_> {
    /// Only requests that reach this broker.
    #[must_use = "a rule does nothing until an action is chosen"]
    pub fn at_broker(self, broker_name: &str) -> Self {
        self.change(|rule| rule.place = Some(Place::Broker(broker_name.into())))
    }

    /// Only requests that reach the name server.
    #[must_use = "a rule does nothing until an action is chosen"]
    pub fn at_name_server(self) -> Self {
        self.change(|rule| rule.place = Some(Place::NameServer))
    }

    /// First does what was asked, then applies the action to the answer: a message is stored, and its sender told
    /// otherwise.
    #[must_use = "a rule does nothing until an action is chosen"]
    pub fn process_first(self) -> Self {
        self.change(|rule| rule.fault.process_first = true)
    }

    /// Action: answers with `code` instead.
    pub fn answer(self, code: ResponseCode) -> Self {
        self.end(End::Answer(code))
    }

    /// Action: never answers.
    pub fn forget(self) -> Self {
        self.end(End::Forget)
    }

    /// Action: closes the connection on which the request came.
    pub fn close(self) -> Self {
        self.end(End::Close)
    }

    /// Action: waits before anything else happens to the request, or, after [`process_first`](Self::process_first), to
    /// its answer.
    pub fn delay(self, delay: Duration) -> Self {
        self.change(|rule| {
            rule.fault.delay = Some(delay);
            rule.active = true;
        })
    }

    /// Applies to the next `times` requests only; 0 ends the rule.
    pub fn times(self, times: usize) -> Self {
        let mut state = self.faults.lock();
        match times {
            0 => state.rules.retain(|rule| rule.id != self.id),
            _ => {
                if let Some(rule) = state.rules.iter_mut().find(|rule| rule.id == self.id) {
                    rule.left = Some(times);
                }
            }
        }
        drop(state);
        self
    }

    fn end(self, end: End) -> Self {
        self.change(|rule| {
            rule.fault.end = Some(end);
            rule.active = true;
        })
    }

    fn change(self, change: impl FnOnce(&mut Rule)) -> Self {
        if let Some(rule) = self.faults.lock().rules.iter_mut().find(|rule| rule.id == self.id) {
            change(rule);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEND: RequestCode = RequestCode::SEND_MESSAGE_V2;
    const BUSY: End = End::Answer(ResponseCode::SYSTEM_BUSY);

    fn broker(name: &str) -> Place {
        Place::Broker(name.into())
    }

    #[test]
    fn a_rule_applies_as_often_as_it_says() {
        let faults = Faults::default();
        faults.rule(SEND).answer(ResponseCode::SYSTEM_BUSY).times(2);
        for _ in 0..2 {
            assert_eq!(faults.judge(SEND, &broker("a")).unwrap().end, Some(BUSY));
        }
        assert_eq!(faults.judge(SEND, &broker("a")), None);
        assert_eq!(faults.received(SEND), 3);
        assert_eq!(faults.received(RequestCode::PULL_MESSAGE), 0);
    }

    #[test]
    fn a_rule_applies_where_it_says() {
        let faults = Faults::default();
        faults.rule(SEND).at_broker("b").close();
        faults.rule(RequestCode::GET_ROUTEINFO_BY_TOPIC).at_name_server().forget();
        assert_eq!(faults.judge(SEND, &broker("a")), None);
        assert_eq!(faults.judge(SEND, &broker("b")).unwrap().end, Some(End::Close));
        assert_eq!(faults.judge(RequestCode::GET_ROUTEINFO_BY_TOPIC, &broker("b")), None);
        let fault = faults.judge(RequestCode::GET_ROUTEINFO_BY_TOPIC, &Place::NameServer);
        assert_eq!(fault.unwrap().end, Some(End::Forget));
    }

    #[test]
    fn a_rule_without_action_does_nothing() {
        let faults = Faults::default();
        let rule = faults.rule(SEND).process_first();
        assert_eq!(faults.judge(SEND, &broker("a")), None);
        rule.delay(Duration::from_secs(1)).forget();
        let expected = Fault { delay: Some(Duration::from_secs(1)), end: Some(End::Forget), process_first: true };
        assert_eq!(faults.judge(SEND, &broker("a")), Some(expected));
        faults.clear();
        assert_eq!(faults.judge(SEND, &broker("a")), None);
    }

    #[test]
    fn the_oldest_rule_applies_first() {
        let faults = Faults::default();
        faults.rule(SEND).answer(ResponseCode::SYSTEM_BUSY).times(1);
        faults.rule(SEND).close();
        assert_eq!(faults.judge(SEND, &broker("a")).unwrap().end, Some(BUSY));
        assert_eq!(faults.judge(SEND, &broker("a")).unwrap().end, Some(End::Close));
    }
}
