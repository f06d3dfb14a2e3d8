//! What the clients of this run have logged at INFO and above.

use std::{
    fmt::{self, Write},
    sync::{Mutex, MutexGuard},
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{EnvFilter, Layer, filter::LevelFilter, layer::Context, prelude::*};

static LINES: Mutex<Vec<(Level, String)>> = Mutex::new(Vec::new());

/// Keeps what is logged, and prints it as `RUST_LOG` says.
pub(crate) fn begin() {
    let printed = std::env::var_os("RUST_LOG").map(|_| {
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_filter(EnvFilter::from_default_env())
    });
    tracing_subscriber::registry().with(printed).with(Capture.with_filter(LevelFilter::INFO)).init();
}

/// The lines of a level that contain all of some texts. Names of topics and groups are random, so they tell the lines of
/// one scenario from those of others.
pub(crate) fn lines(level: Level, texts: &[&str]) -> Vec<String> {
    let fits = |(of, line): &&(Level, String)| *of == level && texts.iter().all(|text| line.contains(text));
    all().iter().filter(fits).map(|(_, line)| line.clone()).collect()
}

fn all() -> MutexGuard<'static, Vec<(Level, String)>> {
    LINES.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

struct Capture;

impl<S: Subscriber> Layer<S> for Capture {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if !event.metadata().target().starts_with("rocketmq_") {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        all().push((*event.metadata().level(), line.0));
    }
}

#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}
