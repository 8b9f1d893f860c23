//! How WEB asks: again, where that does no harm. So a process that is killed, a broker that is
//! restarted or an instance that comes late costs time, and no answer.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use gear_api::{Address, CallError, Client, Codec, Instance, Json, Operation};
use tokio::time::{Instant, sleep};

use crate::gathered::{Gathered, gather};

/// For so long something is asked again that ended in an error.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pause before something is asked again; it doubles each time, up to the longest.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Who has not answered so often, one time after the other, is taken for gone, and for so long
/// not waited for.
pub(crate) const ROUNDS: u32 = 3;
const ABSENCE: Duration = Duration::from_secs(60);

/// A client with patience.
#[derive(Debug)]
pub(crate) struct Asker {
    client: Client,
    /// Those that are taken for gone, and since when.
    gone: Mutex<HashMap<Instance, Instant>>,
    again: AtomicU64,
}

impl Asker {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, gone: Mutex::default(), again: AtomicU64::new(0) }
    }

    /// How often something was asked again.
    pub(crate) fn again(&self) -> u64 {
        self.again.load(Ordering::Relaxed)
    }

    pub(crate) fn count_again(&self) {
        self.again.fetch_add(1, Ordering::Relaxed);
    }

    /// Asks `to`, which is one.
    ///
    /// # Errors
    ///
    /// That of the last time.
    pub(crate) async fn ask<Req, Rep>(
        &self,
        to: impl Into<Address>,
        operation: Operation<Req, Rep>,
        request: &Req,
    ) -> Result<Rep, CallError>
    where
        Json: Codec<Req> + Codec<Rep>,
    {
        let to = to.into();
        let mut patience = Patience::new();
        loop {
            match self.client.call(to.clone(), operation, request).await {
                Ok(reply) => return Ok(reply),
                Err(error) => patience.allows(error, operation).await?,
            }
            self.count_again();
        }
    }

    /// Asks `to`, where all of `expected` are, until they have answered or are gone.
    ///
    /// # Errors
    ///
    /// That of the last time.
    pub(crate) async fn gather<Req, Rep>(
        &self,
        to: Address,
        operation: Operation<Req, Rep>,
        request: &Req,
        expected: &[Instance],
    ) -> Result<Gathered<Rep>, CallError>
    where
        Json: Codec<Req> + Codec<Rep>,
        Rep: 'static,
    {
        self.gone().retain(|_, since| since.elapsed() < ABSENCE);
        let (gone, here): (Vec<Instance>, Vec<Instance>) =
            expected.iter().cloned().partition(|instance| self.gone().contains_key(instance));
        let mut patience = Patience::new();
        let mut round = 1;
        let mut gathered = loop {
            match gather(&self.client, to.clone(), operation, request, &here).await {
                Ok(gathered) if gathered.silent.is_empty() || round == ROUNDS => break gathered,
                Ok(_) => round += 1,
                Err(error) => patience.allows(error, operation).await?,
            }
            self.count_again();
        };
        // One that is gone may answer all the same: then it is back.
        for (from, _) in &gathered.answers {
            self.gone().remove(from);
        }
        let now = Instant::now();
        self.gone().extend(gathered.silent.iter().map(|instance| (instance.clone(), now)));
        let still_gone = gone.into_iter().filter(|instance| self.gone().contains_key(instance));
        for instance in still_gone {
            gathered.missing.push(format!("{instance} (gone)"));
            gathered.silent.push(instance);
        }
        Ok(gathered)
    }

    /// Asks `to` until all of `expected` have answered, and none of them is ever taken for gone.
    ///
    /// # Errors
    ///
    /// In words, who has not, or why nobody could be asked.
    pub(crate) async fn wait_for<Req, Rep>(
        &self,
        to: Address,
        operation: Operation<Req, Rep>,
        request: &Req,
        expected: &[Instance],
    ) -> Result<Vec<(Instance, Rep)>, String>
    where
        Json: Codec<Req> + Codec<Rep>,
        Rep: 'static,
    {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let asked = gather(&self.client, to.clone(), operation, request, expected).await;
            let gathered = asked.map_err(|error| error.to_string())?;
            if gathered.missing.is_empty() {
                return Ok(gathered.answers);
            }
            if Instant::now() >= give_up {
                return Err(format!("still missing: {}", gathered.missing.join(", ")));
            }
            sleep(PAUSE).await;
        }
    }

    fn gone(&self) -> MutexGuard<'_, HashMap<Instance, Instant>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When to stop asking again, and how long to pause before.
struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    fn new() -> Self {
        Self { until: Instant::now() + PATIENCE, pause: PAUSE }
    }

    /// Pauses, and then it is time to ask again; the error back if that makes no sense, or
    /// patience is over.
    async fn allows<Req, Rep>(
        &mut self,
        error: CallError,
        operation: Operation<Req, Rep>,
    ) -> Result<(), CallError> {
        if !error.retry().allows(operation) || Instant::now() >= self.until {
            return Err(error);
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}
