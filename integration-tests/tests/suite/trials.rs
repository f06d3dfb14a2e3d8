//! Scenarios as trials: where each runs, and what becomes of it where it cannot.

use crate::{
    cluster::Cluster,
    real_clusters::{RealClusters, Use},
};
use anyhow::{Context, Result, anyhow};
use libtest_mimic::{Arguments, Failed, Trial};
use rocketmq_integration_tests::{
    real::{self, JavaProgram, Source},
    second_look::SecondLook,
};
use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, time::timeout};

/// A scenario, and on which clusters it runs.
pub(crate) struct Scenario {
    name: &'static str,
    real: Option<Use>,
    on_dev_broker: bool,
    since_5: bool,
    before_5: bool,
    needs_java: bool,
    run: Run,
}

type Run = Arc<dyn Fn(&Runtime, &Cluster) -> Result<()> + Send + Sync>;

impl Scenario {
    /// One for both clusters, the real one being shared with others.
    pub(crate) fn both<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(name: &'static str, run: F) -> Self {
        Self::new(name, Some(Use::Shared), run)
    }

    /// One that needs what only the dev broker can do.
    pub(crate) fn embedded<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(
        name: &'static str,
        run: F,
    ) -> Self {
        Self::new(name, None, run)
    }

    /// One for both clusters that stops servers, and so has them to itself.
    pub(crate) fn alone<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(
        name: &'static str,
        run: F,
    ) -> Self {
        Self::new(name, Some(Use::Alone), run)
    }

    /// One for both clusters that needs what brokers know from 5.0 on: timer messages.
    pub(crate) fn since_5<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(
        name: &'static str,
        run: F,
    ) -> Self {
        Self { since_5: true, ..Self::new(name, Some(Use::Shared), run) }
    }

    /// As [`alone`](Self::alone), with what brokers know from 5.0 on.
    pub(crate) fn alone_since_5<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(
        name: &'static str,
        run: F,
    ) -> Self {
        Self { since_5: true, ..Self::new(name, Some(Use::Alone), run) }
    }

    /// One for both clusters that is about what brokers do not know before 5.0.
    pub(crate) fn before_5<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(
        name: &'static str,
        run: F,
    ) -> Self {
        Self { before_5: true, ..Self::new(name, Some(Use::Shared), run) }
    }

    /// One for both clusters whose brokers name pop retry topics in the newer way, from 5.0 on.
    pub(crate) fn retry_v2<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(
        name: &'static str,
        run: F,
    ) -> Self {
        Self { since_5: true, ..Self::new(name, Some(Use::RetryV2), run) }
    }

    /// One for both clusters that needs two brokers, or a name server that knows order topics.
    pub(crate) fn pair<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(name: &'static str, run: F) -> Self {
        Self::new(name, Some(Use::Pair), run)
    }

    /// One for both clusters that runs a Java client beside ours.
    pub(crate) fn interop<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(
        name: &'static str,
        run: F,
    ) -> Self {
        Self { needs_java: true, ..Self::new(name, Some(Use::Shared), run) }
    }

    /// As [`interop`](Self::interop), with what brokers and clients know from 5.0 on.
    pub(crate) fn interop_since_5<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(
        name: &'static str,
        run: F,
    ) -> Self {
        Self { needs_java: true, since_5: true, ..Self::new(name, Some(Use::Shared), run) }
    }

    /// As [`pair`](Self::pair), with what brokers know from 5.0 on.
    pub(crate) fn pair_since_5<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(
        name: &'static str,
        run: F,
    ) -> Self {
        Self { since_5: true, ..Self::new(name, Some(Use::Pair), run) }
    }

    /// One for both clusters that stops one of two brokers.
    pub(crate) fn changing<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(
        name: &'static str,
        run: F,
    ) -> Self {
        Self::new(name, Some(Use::Changing), run)
    }

    /// One for both clusters that stops one of two brokers, neither of which creates topics by itself.
    pub(crate) fn no_auto_create<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(
        name: &'static str,
        run: F,
    ) -> Self {
        Self::new(name, Some(Use::NoAutoCreate), run)
    }

    /// As [`no_auto_create`](Self::no_auto_create), with what brokers from 5.0 on can be set to and the dev broker cannot.
    pub(crate) fn real_no_auto_create<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(
        name: &'static str,
        run: F,
    ) -> Self {
        Self { on_dev_broker: false, since_5: true, ..Self::no_auto_create(name, run) }
    }

    /// As [`since_5`](Self::since_5), with what the dev broker does not do.
    pub(crate) fn real_since_5<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(
        name: &'static str,
        run: F,
    ) -> Self {
        Self { on_dev_broker: false, ..Self::since_5(name, run) }
    }

    /// As [`before_5`](Self::before_5), with what the dev broker does not do.
    pub(crate) fn real_before_5<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(
        name: &'static str,
        run: F,
    ) -> Self {
        Self { on_dev_broker: false, ..Self::before_5(name, run) }
    }

    /// As [`changing`](Self::changing), with what the dev broker does not do.
    pub(crate) fn real_changing<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(
        name: &'static str,
        run: F,
    ) -> Self {
        Self { on_dev_broker: false, ..Self::new(name, Some(Use::Changing), run) }
    }

    /// One that needs a broker with a replica, which the dev broker has not.
    pub(crate) fn replicated<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(
        name: &'static str,
        run: F,
    ) -> Self {
        Self { on_dev_broker: false, ..Self::new(name, Some(Use::Replicated), run) }
    }

    /// One that needs two real brokers that create no consumer groups by themselves.
    pub(crate) fn strict<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(
        name: &'static str,
        run: F,
    ) -> Self {
        Self { on_dev_broker: false, ..Self::new(name, Some(Use::Strict), run) }
    }

    /// One that needs a real broker which soon removes what it has stored.
    pub(crate) fn forgetful<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(
        name: &'static str,
        run: F,
    ) -> Self {
        Self { on_dev_broker: false, ..Self::new(name, Some(Use::Forgetful), run) }
    }

    /// The same, where what came with RocketMQ 5 is needed.
    pub(crate) fn forgetful_since_5<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(
        name: &'static str,
        run: F,
    ) -> Self {
        Self { since_5: true, ..Self::forgetful(name, run) }
    }

    /// One that needs what the dev broker does not do.
    pub(crate) fn real<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(name: &'static str, run: F) -> Self {
        Self { on_dev_broker: false, ..Self::new(name, Some(Use::Shared), run) }
    }

    fn new<F: AsyncFn(&Cluster) -> Result<()> + Send + Sync + 'static>(
        name: &'static str,
        real: Option<Use>,
        run: F,
    ) -> Self {
        let run = move |runtime: &Runtime, cluster: &Cluster| {
            let limited = async { timeout(LIMIT, run(cluster)).await };
            let result = catch_unwind(AssertUnwindSafe(|| runtime.block_on(limited))).map_err(|panic| {
                let text = panic_text(panic.as_ref()).unwrap_or("with what is no text");
                anyhow!("panicked: {text}")
            })?;
            let stage = cluster.stage();
            let result = result.with_context(|| format!("not done after {LIMIT:?}; it was at: {stage}"))?;
            result.map_err(|error| if stage.is_empty() { error } else { anyhow!("{error:#}\nit was at: {stage}") })
        };
        Self { name, real, on_dev_broker: true, since_5: false, before_5: false, needs_java: false, run: Arc::new(run) }
    }
}

/// Every scenario as one trial for each cluster.
pub(crate) fn trials(
    scenarios: Vec<Scenario>,
    clusters: &Arc<RealClusters>,
    second_look: &Arc<SecondLook>,
    arguments: &Arguments,
) -> Vec<Trial> {
    let availability = Availability::of_this_run();
    if !arguments.list {
        availability.tell();
    }
    let (mut on_dev_broker, mut on_real) = (Vec::new(), Vec::new());
    let is_old = real::version().starts_with("4.");
    let too_old = Availability::Ignored {
        reason: "what is tested came with RocketMQ 5".to_owned(),
        short: "came with RocketMQ 5",
    };
    let too_new = Availability::Ignored {
        reason: "what is tested is how brokers before RocketMQ 5 refuse".to_owned(),
        short: "is about brokers before RocketMQ 5",
    };
    let no_java = Availability::without_java();
    for Scenario { name, real, on_dev_broker: is_embedded, since_5, before_5, needs_java, run } in scenarios {
        let availability = match &no_java {
            Some(no_java) if needs_java => no_java,
            _ if since_5 && is_old => &too_old,
            _ if before_5 && !is_old => &too_new,
            _ => &availability,
        };
        on_real
            .extend(real.map(|real| on_real_one(name, real, availability, clusters.clone(), run.clone(), second_look)));
        if needs_java && no_java.is_some() {
            on_dev_broker.extend(no_java.as_ref().map(|no_java| no_java.not_run(format!("embedded::{name}"))));
            continue;
        }
        if is_embedded {
            on_dev_broker.push(second_look.trial(format!("embedded::{name}"), move || {
                with_runtime(name, |runtime| run(runtime, &runtime.block_on(Cluster::embedded(real))?))
            }));
        }
    }
    // While the real cluster boots, some threads have something else to do.
    let rest = on_real.split_off(on_real.len().min(THREADS / 2));
    on_real.into_iter().chain(on_dev_broker).chain(rest).collect()
}

fn on_real_one(
    name: &'static str,
    real: Use,
    availability: &Availability,
    clusters: Arc<RealClusters>,
    run: Run,
    second_look: &Arc<SecondLook>,
) -> Trial {
    let (scenario, name) = (name, format!("real::{name}"));
    let ignored = |reason: &str| {
        let reason = reason.to_owned();
        let trial = Trial::test(name.clone(), move || Err(Failed::from(format!("not run: {reason}"))));
        trial.with_ignored_flag(true)
    };
    match availability {
        Availability::Here { given: true } if real == Use::Alone => {
            ignored("the cluster of ROCKETMQ_NAMESRV is not ours to stop").with_kind("not ours to stop")
        }
        Availability::Here { given: true } if real != Use::Shared => {
            ignored("the cluster of ROCKETMQ_NAMESRV is not ours to set up").with_kind("not ours to set up")
        }
        Availability::Here { .. } => {
            let trial = second_look.trial(name, move || {
                with_runtime(scenario, |runtime| clusters.with(real, runtime, |cluster| run(runtime, cluster)))
            });
            trial.with_kind(format!("RocketMQ {}", real::version()))
        }
        not_here => not_here.not_run(name),
    }
}

/// Whether real trials run.
enum Availability {
    Here {
        given: bool,
    },
    /// They are listed as ignored, for a reason.
    Ignored {
        reason: String,
        short: &'static str,
    },
    /// They have to run, and cannot.
    Refused(String),
}

impl Availability {
    fn of_this_run() -> Self {
        let wanted = std::env::var("ROCKETMQ_TEST_REAL").unwrap_or_default();
        if wanted == "off" {
            return Self::Ignored { reason: "ROCKETMQ_TEST_REAL=off".to_owned(), short: "ROCKETMQ_TEST_REAL=off" };
        }
        match real::source() {
            Source::Unavailable(reason) if wanted == "required" => Self::Refused(reason),
            Source::Unavailable(reason) => Self::Ignored { reason, short: "no real RocketMQ here" },
            Source::Given(_) => Self::Here { given: true },
            Source::Maven { .. } | Source::Docker => Self::Here { given: false },
        }
    }

    /// What becomes of scenarios with a Java client where none can be run; `None` where one can.
    fn without_java() -> Option<Self> {
        let wanted = std::env::var("ROCKETMQ_TEST_REAL").unwrap_or_default();
        if wanted == "off" {
            return Some(Self::Ignored {
                reason: "ROCKETMQ_TEST_REAL=off".to_owned(),
                short: "ROCKETMQ_TEST_REAL=off",
            });
        }
        let reason = JavaProgram::unavailable(true)?;
        Some(match wanted == "required" {
            true => Self::Refused(reason),
            false => Self::Ignored { reason, short: "no Java client here" },
        })
    }

    /// A trial that says why it is not run.
    fn not_run(&self, name: String) -> Trial {
        match self {
            Self::Refused(reason) => {
                let reason = format!("ROCKETMQ_TEST_REAL=required, but {reason}");
                Trial::test(name, move || Err(Failed::from(reason)))
            }
            Self::Ignored { reason, short } => {
                let reason = reason.clone();
                let trial = Trial::test(name, move || Err(Failed::from(format!("not run: {reason}"))));
                trial.with_ignored_flag(true).with_kind((*short).to_owned())
            }
            Self::Here { .. } => Trial::test(name, || Err(Failed::from("nothing keeps it from running"))),
        }
    }

    fn tell(&self) {
        match self {
            Self::Here { given: true } => println!("real: the cluster of ROCKETMQ_NAMESRV"),
            Self::Here { given: false } => println!("real: Apache RocketMQ {}", real::version()),
            Self::Ignored { reason, .. } => println!("real: not run, {reason}"),
            Self::Refused(reason) => println!("real: cannot run, {reason}"),
        }
    }
}

/// Runs something on a runtime of its own, which ends with it.
fn with_runtime(name: &str, run: impl FnOnce(&Runtime) -> Result<()>) -> Result<(), Failed> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build()?;
    let began = Instant::now();
    let result = run(&runtime);
    runtime.shutdown_timeout(Duration::from_secs(1));
    tracing::info!(name, took_ms = began.elapsed().as_millis(), "scenario ended");
    result.map_err(|error| format!("{error:#}").into())
}

/// Listeners that panic on purpose should not fill the screen.
pub(crate) fn quiet_panics() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic_text(panic.payload()) != Some(ON_PURPOSE) {
            loud(panic);
        }
    }));
}

fn panic_text(payload: &(dyn Any + Send)) -> Option<&str> {
    payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str))
}

/// What a listener panics with.
pub(crate) const ON_PURPOSE: &str = "panic on purpose";
/// How many scenarios run at once by default.
pub(crate) const THREADS: usize = 4;
/// How long one may take; none should need a quarter of it.
const LIMIT: Duration = Duration::from_secs(150);
