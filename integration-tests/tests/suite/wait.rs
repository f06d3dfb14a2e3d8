//! Waiting for conditions.

use anyhow::{Result, anyhow};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Asks again and again until the condition holds; its error says what is still missing.
pub(crate) async fn eventually<T>(limit: Duration, mut condition: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match condition().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => return Err(anyhow!("after {limit:?} still: {error:#}")),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

const PAUSE: Duration = Duration::from_millis(20);

/// Long enough for anything that is not stuck, on a machine that is busy with other scenarios.
pub(crate) const SOON: Duration = Duration::from_secs(30);
